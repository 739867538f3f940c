"""What people name when they have pictures, one after another: paths, folders,
patterns, URLs, videos, lists.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, TypeAlias, TypeGuard

import numpy as np
from PIL import Image

from ..errors import UserError
from ..images.decode import image_extensions

Picture: TypeAlias = (
    "str | os.PathLike[str] | bytes | Image.Image | np.ndarray[Any, Any]"
)
"""A path, an http(s) URL, a folder (for its images), a pattern, a video, encoded bytes,
a Pillow image, uint8 array.
"""

VIDEOS = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi")
_SECONDS = 1.0  # of a video, between two frames that are looked at


@dataclass(frozen=True)
class Failure:
    """A picture that could not be read, and why."""

    path: str
    error: str

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


NamedPicture: TypeAlias = "tuple[str, Picture | Failure]"
"""What to call a picture, and itself."""


def expand(pictures: Iterable[Picture]) -> Iterator[NamedPicture]:
    """Each picture with its name, in order, found while it is asked for: a million of
    them need no memory.

    A folder stands for the images in it and below, sorted, without hidden ones; a
    pattern such as "photos/**/*.jpg" for what it matches, if no file has that name; a
    video for one frame of every second, called PATH#t=SECONDS.
    """
    for position, picture in enumerate(pictures):
        if isinstance(picture, (str, os.PathLike)) and not is_url(picture):
            yield from _below(os.fspath(picture))
        else:
            yield picture if is_url(picture) else f"image {position}", picture


def without(
    found: Iterator[NamedPicture], done: Iterable[str]
) -> Iterator[NamedPicture]:
    """What comes after the pictures of those names; `UserError` unless they come first
    and in that order.
    """
    for position, name in enumerate(done, start=1):
        now = next(found, ("nothing", b""))[0]
        if now != name:
            raise UserError(
                f"the pictures have changed: number {position:,} was {name!r} and is {now!r} now; start anew, without "
                "resuming"
            )
    yield from found


def listed(file: IO[bytes]) -> Iterator[str]:
    """The paths and URLs in a list: one a line, or between null bytes as `find -print0`
    writes them.
    """
    text = b""
    separator = None
    while (
        chunk := file.read1(1 << 16) if hasattr(file, "read1") else file.read(1 << 16)
    ):
        text += chunk
        if separator is None and (b"\0" in text or b"\n" in text):
            separator = b"\0" if b"\0" in text else b"\n"
        *whole, text = text.split(separator) if separator else [text]
        yield from (os.fsdecode(line.rstrip(b"\r")) for line in whole if line.strip())
    if text.strip():
        yield os.fsdecode(text.rstrip(b"\r"))


def is_url(picture: object) -> TypeGuard[str]:
    """Whether this is an address to fetch."""
    return isinstance(picture, str) and picture.lower().startswith(
        ("http://", "https://")
    )


def source(picture: Picture) -> Path | bytes | Image.Image | np.ndarray[Any, Any]:
    """What `decode_image` takes; `UserError` if the URL does not answer, or for another
    kind of value.
    """
    if is_url(picture):
        from ..web import fetch_bytes

        return fetch_bytes(picture)
    if isinstance(picture, (str, os.PathLike)):
        return Path(picture)
    if isinstance(picture, (bytes, Image.Image, np.ndarray)):
        return picture
    raise UserError(
        f"cannot read a {type(picture).__name__} as a picture: expected a path, URL, bytes or an image"
    )


def _below(path: str) -> Iterator[NamedPicture]:
    if os.path.isdir(path):  # noqa: PTH112 - it never raises
        images = _images_below(Path(path))
        first = next(images, None)
        name = str(Path(path))
        yield first or (name, Failure(name, f"the folder {path!r} holds no images"))
        yield from images
    elif path.lower().endswith(VIDEOS):
        yield from _frames(path)
    elif re.search(r"[*?[]", path) and "\0" not in path and not os.path.lexists(path):
        matches = sorted(glob.glob(path, recursive=True))  # noqa: PTH207 - it takes absolute patterns
        for match in matches:
            if not os.path.isdir(match):  # noqa: PTH112
                yield from _below(match)
        if not matches:
            yield (
                path,
                Failure(
                    path,
                    f"nothing matches {path!r}; check the pattern and the folder it begins in",
                ),
            )
    else:
        yield str(Path(path)), Path(path)


def _images_below(
    folder: Path, above: frozenset[str] = frozenset()
) -> Iterator[NamedPicture]:
    """The images in a folder and in its folders, by name; `above` ends links that lead
    back up.
    """
    real = os.path.realpath(folder)
    try:
        names = sorted(os.listdir(folder)) if real not in above else []  # noqa: PTH208 - a million paths are large
    except OSError as error:
        sentence = f"cannot look into the folder {str(folder)!r}: {error.strerror}; check its rights"
        yield str(folder), Failure(str(folder), sentence)
        return
    for path in (folder / name for name in names if not name.startswith(".")):
        if os.path.isdir(path):  # noqa: PTH112
            yield from _images_below(path, above | {real})
        elif path.suffix.lower() in image_extensions():
            yield str(path), path


def _frames(path: str) -> Iterator[NamedPicture]:
    """One frame of every second, decoded one after another; what is broken ends the
    video with a failure.
    """
    try:
        import av
    except ImportError:
        yield (
            path,
            Failure(
                path,
                f'{path!r} is a video, which needs PyAV: pip install "mlp-mixer[video]"',
            ),
        )
        return
    due = 0.0
    try:
        with av.open(path) as video:
            for frame in video.decode(video=0):
                seconds = frame.time or 0.0
                if seconds + 1e-6 >= due:
                    yield f"{path}#t={seconds:.2f}", frame.to_ndarray(format="rgb24")
                    due = max(due, seconds) + _SECONDS
    except (
        OSError,
        ValueError,
        IndexError,
    ) as error:  # PyAV's errors are kinds of these
        yield path, Failure(path, f"cannot read the video {path!r}: {error}")
