"""Look at one file of the folder: what it is, and what is wrong with it alone."""

from __future__ import annotations

import contextlib
import hashlib
import stat
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..data.layout import FolderFile
from ..data.names import is_image_name
from ..errors import UserError
from ..images.decode import FORMATS, decode_image, known_formats
from ..images.tiff import Bands, bands_of
from .findings import Finding, Picture

# What `decode_image` says of a file, by words of its sentence.
_REFUSALS = {
    "cannot open": "unreadable",
    "cut short": "truncated",
    "is too large": "huge",
    "not an image": "no-image",
    "is empty": "empty",
    "bands: expected": "bands",
    "is no TIFF": "bands",
    "as an .npy file": "damaged",
    "as an image of": "bands",
}
_ORIENTATION = 0x0112  # the EXIF tag; 1 is upright, 2 to 8 are turned or mirrored

_DEEP = "has more than 8 bits a channel, which become 8"
_DARK = 64  # of 255; what 14 of 16 bits can reach

Quirk = tuple[str, str]
"""The kind and the message of a finding about the file at hand."""


def examine(
    root: str, file: FolderFile, *, by_name: bool = True, channels: int = 3
) -> tuple[list[Finding], Picture | None]:
    """Decode one file and find what is wrong with it alone.

    It runs in a process of its own, which a hostile file may end.

    Args:
        root: The folder that is checked.
        file: The file below it.
        by_name: Whether a file must have the ending of an image to be one.
        channels: Of the images beside it.

    Returns:
        The findings, and the picture if it can be decoded.
    """
    path = Path(root, file.path)
    try:
        # Opening a pipe would wait for ever, so its kind is asked first.
        if not stat.S_ISREG(path.stat().st_mode):
            message = "is a pipe or a device, not a file"
            return [Finding("unreadable", file.path, message)], None
        pixels: NDArray[np.uint8] | None = None
        if not by_name or is_image_name(file.path):
            pixels = decode_image(path, channels=channels)
    except OSError as error:
        return [_refusal(file, f"cannot open it: {error.strerror}")], None
    except UserError as error:
        sentence = str(error).replace(repr(str(path)), "it").removeprefix("it ")
        return [_refusal(file, sentence)], None
    bands = _bands_of(path)
    if pixels is not None and (bands.number or channels != 3):
        mode = f"{channels} bands"
        quirks = [("colour-space", _DEEP)] if bands.deep else []
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            mode, quirks = _look_at(path, skipped=by_name)
    findings = [Finding(kind, file.path, message) for kind, message in quirks]
    if pixels is None:
        return findings, None
    # Pillow alone refuses some that we decode.
    findings = [finding for finding in findings if finding.kind != "other-file"]
    tiny = squeeze(Image.fromarray(shown(pixels)))
    brightest = int(pixels.max())
    if ("colour-space", _DEEP) in quirks and brightest < _DARK:
        findings.append(Finding("dark", file.path, _dark_message(brightest)))
    if _is_flat(pixels, tiny):
        findings.append(Finding("flat", file.path, "is of one colour"))
    return findings, Picture(
        path=file.path,
        split=file.split,
        label=file.label,
        height=pixels.shape[0],
        width=pixels.shape[1],
        mode=mode,
        content=_digest_of_file(path),
        pixels=_digest_of_pixels(pixels),
        tiny=tiny,
        channels=channels,
    )


def shown(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the three of an image's bands that are looked at.

    Args:
        pixels: uint8 (H, W, C).

    Returns:
        uint8 (H, W, 3): the first three, or the first one three times if there are fewer.
    """
    if pixels.shape[2] == 3:
        return pixels
    places = [0, 1, 2] if pixels.shape[2] > 3 else [0, 0, 0]
    return np.ascontiguousarray(pixels[:, :, places])


def _bands_of(path: Path) -> Bands:
    """Return what is in a TIFF; nothing of any other file, or of a broken one."""
    with contextlib.suppress(OSError, UserError), path.open("rb") as file:
        return bands_of(file, "it")
    return Bands(0)


def squeeze(image: Image.Image) -> NDArray[np.uint8]:
    """Return a picture as uint8 (16, 16, C), in which near copies are found.

    Args:
        image: The picture.
    """
    return np.asarray(image.resize((16, 16), Image.Resampling.BOX))


def _dark_message(brightest: int) -> str:
    """Say that a file of 16 bits holds fewer, as those of microscopes and X-rays do."""
    part = round(255 / max(brightest, 1))
    return (
        f"uses 1/{part} of the range of its 16 bits and will be almost black: scale its "
        "values up"
    )


def _refusal(file: FolderFile, sentence: str) -> Finding:
    """Sort the sentence of a refused file into a kind."""
    for words, kind in _REFUSALS.items():
        if words in sentence:
            return Finding(kind, file.path, sentence)
    return Finding("damaged", file.path, sentence)


def _is_flat(pixels: NDArray[np.uint8], tiny: NDArray[np.uint8]) -> bool:
    # The tiny copy rules out nearly all pictures without a look at every pixel.
    if np.ptp(tiny, axis=(0, 1)).max() > 0:
        return False
    return bool((pixels == pixels[:1, :1]).all())


def _digest_of_file(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _digest_of_pixels(pixels: NDArray[np.uint8]) -> bytes:
    # The shape counts: 40 x 60 and 60 x 40 pixels may have the same bytes.
    return hashlib.sha256(f"{pixels.shape}".encode() + pixels.tobytes()).digest()


def _look_at(path: Path, skipped: bool) -> tuple[str, list[Quirk]]:
    """Return the mode of an image, and what is odd though it can be decoded."""
    try:
        image = Image.open(path, formats=known_formats())
    except Exception:
        return "", [("other-file", "is not an image")]
    by_ending = Image.registered_extensions().get(path.suffix.lower(), "")
    mode = image.mode
    kind = _plain_jpeg(image.format or "")
    quirks: list[Quirk] = []
    with image:
        if by_ending not in FORMATS and skipped:
            message = f"is {kind}, but has no ending of an image: training skips it"
            return "", [("wrong-ending", message)]
        # A broken EXIF block or a broken second frame does not spoil the pixels.
        with contextlib.suppress(Exception):
            for quirk in _quirks(image, kind, _plain_jpeg(by_ending), by_ending):
                quirks.append(quirk)
    if kind == "JPEG" and mode in ("RGB", "L") and _has_flawed_data(path):
        message = "has errors in its data: it can be decoded, but part of it may be "
        quirks.append(("flawed", message + "garbage"))
    return mode, quirks


def _plain_jpeg(format_name: str) -> str:
    """Treat MPO as JPEG: phones add a preview to a JPEG and get that name."""
    return format_name.replace("MPO", "JPEG")


def _quirks(
    image: Image.Image, kind: str, expected: str, by_ending: str
) -> Iterator[Quirk]:
    """Find what is odd in the header of an image; `by_ending` is what its name says."""
    if by_ending and kind != expected:
        yield "wrong-ending", f"is {kind}, but its name says {by_ending}"
    if ";16" in str(getattr(image, "tile", "")) or image.mode[0] in "IF":
        yield "colour-space", _DEEP
    elif image.mode not in ("RGB", "L", "1", "P", "RGBA", "LA"):
        message = f"is {image.mode}: its colours may come out wrong; save it as RGB"
        yield "colour-space", message
    elif image.has_transparency_data:
        # The transparent colour of a palette is often an accident of the program.
        severe = "colour-space" if image.mode == "P" else "transparent"
        yield severe, "is transparent, and laid on white"
    if image.getexif().get(_ORIENTATION, 1) in range(2, 9):
        yield "turned", "is turned as its EXIF orientation asks"
    if kind != "JPEG" and getattr(image, "is_animated", False):
        yield "animated", "has several frames or pages, of which the first counts"


def _has_flawed_data(path: Path) -> bool:
    """Ask the strict decoder: libjpeg, and so Pillow, only warns of such errors."""
    try:
        from simplejpeg import decode_jpeg
    except ImportError:
        return False
    try:
        decode_jpeg(path.read_bytes(), min_height=8, min_width=8, min_factor=1)
    except ValueError:
        return True
    return False
