"""Find the pictures that a user names: paths, folders, patterns, addresses, videos."""

from __future__ import annotations

import codecs
import glob
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, TypeAlias, TypeGuard

import numpy as np
from PIL import Image

from ..errors import UserError
from ..images.decode import HEIC_ENDINGS, image_extensions
from ..images.planes import is_tensor
from .results import Failure

Picture: TypeAlias = (
    "str | os.PathLike[str] | bytes | Image.Image | np.ndarray[Any, Any]"
)
"""A path, an http(s) address, a folder (for its images), a pattern, a video, encoded
bytes, a Pillow image, or an array or a tensor as `images.planes` takes it.
"""

NamedPicture: TypeAlias = "tuple[str, Picture | Failure]"
"""The name of a picture, and the picture."""

VIDEOS = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi")
_SECONDS_BETWEEN_FRAMES = 1.0
_CHUNK = 1 << 16  # bytes of a list of paths that are read at a time


def expand(pictures: Iterable[Picture]) -> Iterator[NamedPicture]:
    """Yield each picture with its name, in order.

    Folders and patterns are read when their turn comes, so a million pictures need no
    memory.

    Args:
        pictures: A folder stands for the images in it and below it, sorted, without
            hidden ones. A pattern such as "photos/**/*.jpg" stands for the files it
            matches, if no file has that name. A video stands for one frame of every
            second, named PATH#t=SECONDS.
    """
    for position, picture in enumerate(pictures):
        if is_url(picture):
            yield picture, picture
        elif isinstance(picture, (str, os.PathLike)):
            yield from _below(os.fspath(picture))
        else:
            yield f"image {position}", picture


def to_answer(
    named: Iterator[NamedPicture],
    answered: Iterable[str] = (),
    outside: str | os.PathLike[str] | None = None,
) -> Iterator[NamedPicture]:
    """Yield the pictures that have no answer yet, with their names.

    Args:
        named: As of `expand`.
        answered: The names of the first of them, as for `skip_answered`.
        outside: Files in this folder are left out.

    Raises:
        UserError: The first pictures are not those of `answered`.
    """
    if outside is not None:
        named = leave_out(named, outside)
    return skip_answered(named, answered)


def skip_answered(
    found: Iterator[NamedPicture], answered: Iterable[str]
) -> Iterator[NamedPicture]:
    """Yield the pictures that follow those of an earlier run.

    Args:
        found: All pictures.
        answered: The names of the first pictures, in the same order.

    Raises:
        UserError: The first pictures have other names.
    """
    for position, name in enumerate(answered, start=1):
        now, _ = next(found, ("nothing", b""))
        if now != name:
            raise UserError(
                f"the pictures have changed: number {position:,} was {name!r} and is "
                f"{now!r} now; start anew, without resuming"
            )
    yield from found


def leave_out(
    found: Iterator[NamedPicture], folder: str | os.PathLike[str]
) -> Iterator[NamedPicture]:
    """Yield the pictures that do not lie in a folder.

    Links in it count as lying in it, wherever their files are.

    Args:
        found: All pictures.
        folder: The folder; it need not exist.
    """
    inside = os.path.realpath(folder)
    parents: dict[str, bool] = {}
    for name, picture in found:
        if isinstance(picture, Path):
            parent = str(picture.parent)
            if parent not in parents:
                real = os.path.realpath(parent)
                parents[parent] = Path(real).is_relative_to(inside)
            if parents[parent]:
                continue
        yield name, picture


def read_list(file: IO[bytes]) -> Iterator[str]:
    """Yield the paths and addresses in a list, each as soon as it has been read.

    Args:
        file: One path a line, or null bytes between them as `find -print0` writes.
    """
    rest = b""
    separator = None
    # Editors on Windows put a byte order mark before the first name.
    beginning = True
    while chunk := _read_some(file):
        rest += chunk
        if beginning and codecs.BOM_UTF8.startswith(rest):
            continue
        if beginning:
            rest = rest.removeprefix(codecs.BOM_UTF8)
            beginning = False
        # A name may contain a line break, but never a null byte, so null bytes decide.
        if separator is None and (b"\0" in rest or b"\n" in rest):
            separator = b"\0" if b"\0" in rest else b"\n"
        if separator is None:
            continue
        *complete, rest = rest.split(separator)
        for line in complete:
            if line.strip():
                yield _path_of(line)
    if rest.strip() and rest != codecs.BOM_UTF8:
        yield _path_of(rest)


def _read_some(file: IO[bytes]) -> bytes:
    # read1 returns what a pipe holds now; read would wait for a full chunk.
    read = getattr(file, "read1", file.read)
    chunk: bytes = read(_CHUNK)
    return chunk


def _path_of(line: bytes) -> str:
    return os.fsdecode(line.rstrip(b"\r"))


def is_url(picture: object) -> TypeGuard[str]:
    """Return whether this is an address to fetch."""
    if not isinstance(picture, str):
        return False
    return picture.lower().startswith(("http://", "https://"))


def fetched(picture: Picture) -> Path | bytes | Image.Image | np.ndarray[Any, Any]:
    """Return a picture in a form that `decode_image` takes.

    Args:
        picture: A single picture; an address is fetched.

    Raises:
        UserError: The address does not answer, or the value is no picture.
    """
    if is_url(picture):
        from ..web import fetch_bytes

        return fetch_bytes(picture)
    if isinstance(picture, (str, os.PathLike)):
        return Path(picture)
    # Tensors are not in the type, which would import torch.
    if is_tensor(picture) or isinstance(picture, (bytes, Image.Image, np.ndarray)):
        return picture
    raise UserError(
        f"cannot read a {type(picture).__name__} as a picture: expected a path, URL, "
        "bytes or an image"
    )


def _below(path: str) -> Iterator[NamedPicture]:
    # os.path asks instead of Path: it never raises, whatever a name contains.
    if os.path.isdir(path):  # noqa: PTH112
        yield from _in_folder(path)
    elif path.lower().endswith(VIDEOS):
        yield from _frames(path)
    elif _is_pattern(path):
        yield from _matches(path)
    else:
        yield str(Path(path)), Path(path)


def _is_pattern(path: str) -> bool:
    """A file whose name contains [ is a file, and no pattern."""
    signs = re.search(r"[*?[]", path)
    return signs is not None and "\0" not in path and not os.path.lexists(path)


def _in_folder(path: str) -> Iterator[NamedPicture]:
    name = str(Path(path))
    empty = True
    for picture in _images_below(Path(path)):
        empty = False
        yield picture
    if empty:
        yield name, Failure(name, f"the folder {path!r} holds no images")


def _matches(pattern: str) -> Iterator[NamedPicture]:
    # Path.glob refuses absolute patterns.
    matches = sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207
    if not matches:
        # The brackets may be those of a folder's name, such as "photos [2024]".
        literal = pattern.replace("[", "[[]")
        matches = sorted(glob.glob(literal, recursive=True))  # noqa: PTH207
    # `**` matches folders too; the images in them are matches of their own.
    files = [match for match in matches if not os.path.isdir(match)]  # noqa: PTH112
    for file in files:
        yield from _below(file)
    # Without a word nobody would notice that no picture was answered.
    if matches and not files:
        sentence = (
            f"{pattern!r} matches folders and no files; for the images in them end it "
            "in /*, or name the folder above"
        )
        yield pattern, Failure(pattern, sentence)
    if not matches:
        sentence = f"nothing matches {pattern!r}; check the pattern and the folder it begins in"
        yield pattern, Failure(pattern, sentence)


def _images_below(
    folder: Path, above: frozenset[str] = frozenset()
) -> Iterator[NamedPicture]:
    """Yield the images in a folder and in its folders, sorted by name.

    `above` holds the real paths of the folders around it: a link back to one of them
    would never end.
    """
    real = os.path.realpath(folder)
    if real in above:
        return
    try:
        # Names only: a million Path objects would need much memory.
        names = sorted(os.listdir(folder))  # noqa: PTH208
    except OSError as error:
        sentence = (
            f"cannot look into the folder {str(folder)!r}: {error.strerror}; check its "
            "rights"
        )
        yield str(folder), Failure(str(folder), sentence)
        return
    # What cannot be read here is a failure with a reason, and not passed over.
    endings = {*image_extensions(), *HEIC_ENDINGS}
    for name in names:
        if name.startswith("."):
            continue
        path = folder / name
        if os.path.isdir(path):  # noqa: PTH112
            yield from _images_below(path, above | {real})
        elif path.suffix.lower() in endings:
            yield str(path), path


def _frames(path: str) -> Iterator[NamedPicture]:
    """Yield one frame of every second; a damaged video ends with a failure."""
    try:
        import av
    except ImportError:
        sentence = f"{path!r} is a video, which needs PyAV: pip install av"
        yield path, Failure(path, sentence)
        return
    due = 0.0
    try:
        with av.open(path) as video:
            for frame in video.decode(video=0):
                seconds = frame.time or 0.0
                # Times are sums of fractions: the frame of second 1 may say 0.9999999.
                if seconds + 1e-6 >= due:
                    yield f"{path}#t={seconds:.2f}", frame.to_ndarray(format="rgb24")
                    due = max(due, seconds) + _SECONDS_BETWEEN_FRAMES
    # The classes of PyAV's own errors are derived from these.
    except (OSError, ValueError, IndexError) as error:
        yield path, Failure(path, f"cannot read the video {path!r}: {error}")
