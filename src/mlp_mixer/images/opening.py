"""Open a picture: one function, one set of bounds, whoever sent it.

Nothing is decoded here; `decode.py` does that with what this file lets pass.
"""

from __future__ import annotations

import contextlib
import functools
import io
import mmap
import os
import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

from PIL import Image

from ..errors import UserError
from .claims import CountedReads, check_claims
from .refusals import CostlyError, refuse_broken

MAX_PIXELS = 64_000_000
"""Larger images are refused by their header.

A file of a few kilobytes can claim gigabytes of pixels.
"""

# Formats that say what they are in their first bytes and run nothing: EPS would start
# Ghostscript, TGA has no magic.
FORMATS = (
    "AVIF", "BMP", "DIB", "GIF", "HEIF", "ICO", "JPEG",
    "JPEG2000", "MPO", "PNG", "PPM", "TIFF", "WEBP",
)  # fmt: skip

# The brands of HEIC, which telephones write, in bytes 4 to 12 of a file.
_HEIC = (b"ftypheic", b"ftypheix", b"ftyphevc", b"ftypheim", b"ftypmif1", b"ftypmsf1")

HEIC_ENDINGS = (".heic", ".heif", ".hif")
"""Files of telephones, which people take for pictures whether or not they can be read."""

# Bytes; a file up to there is read at once, which is faster than in the pieces that
# Pillow asks for.
_READ_AT_ONCE = 2**28
# Bytes; a smaller file has too few pieces to cost much.
_FEW_PIECES = 2**18

# What Pillow says of a PNG with more than 1 MB of compressed text or profile.
TOO_MUCH_TEXT = ("MAX_TEXT_CHUNK", "MAX_TEXT_MEMORY", "Too much memory used in text")


class Bounds(NamedTuple):
    """What a picture may be.

    Attributes:
        formats: Of `FORMATS`, those that are read; all that can be by default.
        max_pixels: Width times height, `MAX_PIXELS` at most.
    """

    formats: tuple[str, ...] | None = None
    max_pixels: int = MAX_PIXELS


@functools.cache
def image_extensions() -> frozenset[str]:
    """Return the file name endings of the formats we decode, in lower case with dot."""
    _init_pillow()
    endings = Image.registered_extensions().items()
    return frozenset(ending for ending, kind in endings if kind in FORMATS)


def known_formats() -> list[str]:
    """Return those of `FORMATS` that can be decoded here.

    A build of Pillow may lack some of them, and HEIF needs pillow-heif.
    """
    _init_pillow()
    return [kind for kind in FORMATS if kind in Image.OPEN]


@functools.cache
def _init_pillow() -> None:
    Image.init()
    with contextlib.suppress(ImportError):
        from pillow_heif import register_heif_opener

        register_heif_opener()


def _refuse_heic(file: Any, name: str) -> None:
    """Name the format of telephones, which is not Pillow's, and what reads it."""
    beginning = file.read(12)
    file.seek(0)
    if beginning[4:] in _HEIC:
        raise UserError(
            f"{name} is a HEIC image: pip install pillow-heif to read it, or convert it "
            "to JPEG"
        )


@contextlib.contextmanager
def open_image(
    file: Any, name: str = "the image", bounds: Bounds | None = None
) -> Iterator[Image.Image]:
    """Open a picture; every picture from outside is opened here.

    Whatever its header claims is compared with the bounds before a pixel is decoded.

    Args:
        file: Open for reading, at any place.
        name: As sentences call it.
        bounds: What it may be.

    Yields:
        The image, whose pixels are not decoded yet. Errors inside the block are those
        of the picture.

    Raises:
        UserError: It is no picture within these bounds; a `CostlyError` if it claims
            too much.
    """
    formats, max_pixels = bounds or Bounds()
    known = [kind for kind in known_formats() if formats is None or kind in formats]
    file = _in_memory(file, name)
    if "HEIF" not in known:
        _refuse_heic(file, name)
    with refuse_broken(name, known, max_pixels):
        _check_claims(file, name, max_pixels)
        try:
            image = Image.open(file, formats=known)
        except ValueError as error:
            if not any(words in str(error) for words in TOO_MUCH_TEXT):
                raise
            # The pixels are fine, and need none of that text.
            image = Image.open(without_text(file), formats=known)
        with image:
            check_size(image, name, max_pixels)
            yield image


def _in_memory(file: Any, name: str) -> Any:
    """Return a file that counts the pieces it is read in, if it can have many."""
    length = file.seek(0, os.SEEK_END)
    if length == 0:
        raise UserError(f"{name} is empty (0 bytes): expected an image")
    file.seek(0)
    if length > _READ_AT_ONCE:
        return file
    kind = CountedReads if length > _FEW_PIECES else io.BytesIO
    if isinstance(file, io.BytesIO):
        # The bytes are shared, not copied.
        return file if kind is io.BytesIO else kind(file.getvalue())
    return kind(file.read())


def _check_claims(file: Any, name: str, max_pixels: int) -> None:
    if isinstance(file, io.BytesIO):
        check_claims(file.getvalue(), name, max_pixels)
        return
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        check_claims(data, name, max_pixels)


def check_size(image: Image.Image, name: str, max_pixels: int) -> None:
    """Refuse an image by the size in its header.

    Args:
        image: Opened, and not decoded yet.
        name: As the sentence calls it.
        max_pixels: Width times height at most.

    Raises:
        CostlyError: It has more.
    """
    width, height = image.size
    if width * height > max_pixels:
        raise CostlyError(
            f"{name} is too large: {width} x {height} pixels, at most {max_pixels} are "
            "read; shrink it first"
        )


def without_text(file: Any) -> io.BytesIO:
    """Return a PNG without its texts and its colour profile.

    Args:
        file: Open for reading.
    """
    file.seek(0)
    data = file.read()
    kept = [data[:8]]
    place = 8
    while place + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, place)
        end = place + 12 + length
        if kind not in (b"iCCP", b"iTXt", b"tEXt", b"zTXt"):
            kept.append(data[place:end])
        place = end
    return io.BytesIO(b"".join(kept))
