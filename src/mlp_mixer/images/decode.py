"""Any image to uint8 (H, W, C): upright, first frame, over white where transparent;
else one sentence of refusal.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from ..errors import UserError

try:
    from simplejpeg import decode_jpeg as _fast_jpeg
except ImportError:
    _fast_jpeg = None

ImageLike = str | Path | bytes | Image.Image | np.ndarray[Any, Any]
Pixels = np.ndarray[tuple[int, int, int], np.dtype[np.uint8]]

MAX_PIXELS = 64_000_000
"""Larger images are refused by their header: a few kilobytes can claim gigabytes of
pixels.
"""

# Formats that say what they are in their first bytes and run nothing: EPS would start
# Ghostscript, TGA has no magic.
FORMATS = (
    "AVIF",
    "BMP",
    "DIB",
    "GIF",
    "ICO",
    "JPEG",
    "JPEG2000",
    "MPO",
    "PNG",
    "PPM",
    "TIFF",
    "WEBP",
)

_JPEG = ("JPEG", "MPO")
_READ_WHOLE = (
    2**28
)  # bytes; a file up to there is read at once, which is faster than in the pieces Pillow asks for

_ORIENTATION_TAG = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ON_ITS_SIDE, _FROM_BELOW, _FROM_RIGHT = (
    {_UPRIGHT[orientation] for orientation in orientations}
    for orientations in ((5, 6, 7, 8), (3, 4, 7, 8), (2, 3, 6, 7))
)


class Part(NamedTuple):
    """A part of an image to decode, and how finely.

    Attributes:
        box: from the upright image's height and width to the part's top, left, height
            and width, all in pixels.
        size: the (height, width) it will be resized to, if it may come smaller: a JPEG
            is then decoded at the smallest of the scales 1, 1/2, 1/4 and 1/8 that still
            has so many pixels there. libjpeg leaves out the finest waves of each block,
            and the box is moved to whole pixels of the smaller image. Other files
            ignore it.
    """

    box: Callable[[int, int], tuple[int, int, int, int]]
    size: tuple[int, int] | None = None

    def of(self, image: Pixels) -> Pixels:
        """The part of an image that is decoded already, as a view."""
        top, left, height, width = self.box(*image.shape[:2])
        return image[top : top + height, left : left + width]


def decode_image(
    source: ImageLike, *, channels: int = 3, part: Part | None = None
) -> Pixels:
    """Decode a file, its bytes, a Pillow image or an array.

    Args:
        source: path, encoded bytes, Pillow image, or uint8 array (H, W) or (H, W, 1 | 2
            | 3 | 4).
        channels: 1 for gray, 3 for RGB.
        part: what to keep of the image; all of it if absent.

    Returns:
        uint8 (H, W, channels), 0-255. EXIF orientation is applied, transparency is laid
        on white, 16 bits are scaled.

    Raises:
        UserError: there is no such file, or it is not an image, damaged, or larger than
            `MAX_PIXELS`.
    """
    if channels not in (1, 3):
        raise UserError(
            f"cannot decode to {channels} channels: expected 1 (gray) or 3 (RGB)"
        )
    if isinstance(source, np.ndarray):
        source = _from_array(source)
    if isinstance(source, Image.Image):
        part = part and part._replace(
            size=None
        )  # a smaller scale would stay with the caller's image
        return _pixels(
            source, str(getattr(source, "filename", "")) or "the image", channels, part
        )
    if isinstance(source, bytes):
        return _decode(io.BytesIO(source), "the image", channels, part)
    name = repr(str(source))
    try:
        with open(source, "rb") as file:  # noqa: PTH123 - a Path takes 20 microseconds to make
            return _decode(file, name, channels, part)
    except OSError as error:
        raise UserError(
            f"cannot open the image {name}: {error.strerror or error}; check the path"
        ) from error


@functools.cache
def image_extensions() -> frozenset[str]:
    """The file name endings of the formats we decode, in lower case with their dot."""
    return frozenset(
        ending
        for ending, kind in Image.registered_extensions().items()
        if kind in FORMATS
    )


def _decode(file: Any, name: str, channels: int, part: Part | None) -> Pixels:
    if (length := file.seek(0, os.SEEK_END)) == 0:
        raise UserError(f"{name} is empty (0 bytes): expected an image")
    file.seek(0)
    if length <= _READ_WHOLE and not isinstance(file, io.BytesIO):
        file = io.BytesIO(file.read())
    Image.init()
    with (
        _broken_means_refused(name),
        Image.open(
            file, formats=[kind for kind in FORMATS if kind in Image.OPEN]
        ) as image,
    ):
        return _pixels(image, name, channels, part)


def _pixels(image: Image.Image, name: str, channels: int, part: Part | None) -> Pixels:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise UserError(
            f"{name} is too large: {width} x {height} pixels, at most {MAX_PIXELS} are read; shrink it first"
        )
    with _broken_means_refused(name):
        part = part and _drafted(image, part)
        if part and (pixels := _by_simplejpeg(image, channels)) is not None:
            return part.of(pixels)
        image.load()
        turn = _turn(image)
        whole = _eight_bit(image if turn is None else image.transpose(turn), name)
        if part:
            top, left, height, width = part.box(whole.height, whole.width)
            whole = whole.crop((left, top, left + width, top + height))
        mode = "L" if channels == 1 else "RGB"
        converted = whole if whole.mode == mode else whole.convert(mode)
        return np.array(converted, dtype=np.uint8).reshape(
            converted.height, converted.width, channels
        )


def _drafted(image: Image.Image, part: Part) -> Part:
    """Have a JPEG decoded at a smaller scale if the part allows it; the same part of
    the image that will come.
    """
    if image.format not in _JPEG or part.size is None:
        return part
    (width, height) = image.size
    turn = _turn(image)
    upright = (width, height) if turn in _ON_ITS_SIDE else (height, width)
    top, left, rows, columns = part.box(*upright)
    scale = next(
        (
            scale
            for scale in (8, 4, 2)
            if rows >= scale * part.size[0] and columns >= scale * part.size[1]
        ),
        1,
    )
    if scale > 1 and not image.draft(None, (width // scale, height // scale)):
        return part
    # The last row and column of the smaller image may stand for fewer pixels; a turn
    # can make them the first ones.
    top += -upright[0] % scale if turn in _FROM_BELOW else 0
    left += -upright[1] % scale if turn in _FROM_RIGHT else 0
    sides = top, left, top + rows, left + columns
    top, left, bottom, right = ((side + scale // 2) // scale for side in sides)
    return Part(lambda *_: (top, left, bottom - top, right - left))


def _by_simplejpeg(image: Image.Image, channels: int) -> Pixels | None:
    """What Pillow would decode, bit for bit, but faster; None if it is no plain JPEG or
    simplejpeg is not there.
    """
    plain = (
        image.format in _JPEG
        and image.mode in ("RGB", "L")
        and channels == 3
        and _turn(image) is None
    )
    file = getattr(image, "fp", None)
    if not plain or not isinstance(file, io.BytesIO) or _fast_jpeg is None:
        return None
    try:
        pixels: Pixels = _fast_jpeg(
            file.getvalue(), min_height=image.height, min_width=image.width
        )
    except (
        ValueError
    ):  # it is strict: Pillow may pass the file, or refuses it in its own words
        return None
    return pixels if pixels.shape[1::-1] == image.size else None


def _from_array(array: np.ndarray[Any, Any]) -> Image.Image:
    if (
        array.dtype != np.uint8
        or 0 in array.shape
        or array.ndim not in (2, 3)
        or array.shape[2:] > (4,)
    ):
        raise UserError(
            f"cannot read an array of {array.dtype} {array.shape} as an image: expected uint8 (H, W) or (H, W, 1 to 4)"
        )
    flat = array[..., 0] if array.shape[2:] == (1,) else array
    return Image.fromarray(np.ascontiguousarray(flat))


def _turn(image: Image.Image) -> Image.Transpose | None:
    """How EXIF asks to turn the image; ImageOps.exif_transpose would also rewrite it,
    and stumble over a bad one.
    """
    try:
        return _UPRIGHT.get(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # a broken EXIF block says nothing about the pixels
        return None


def _eight_bit(image: Image.Image, name: str) -> Image.Image:
    """The image without transparency and with 8 bits a channel; Pillow alone would clip
    16 bits to white.
    """
    if image.mode.startswith("I"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise UserError(
                f"{name} has 32-bit pixels of unknown range: save it with 8 or 16 bits"
            )
        return Image.fromarray(
            ((values.astype(np.int64) + 128) // 257).astype(np.uint8)
        )
    if image.mode == "F":
        raise UserError(
            f"{name} has floating-point pixels of unknown range: save it with 8 or 16 bits"
        )
    if not image.has_transparency_data:
        return image
    white = Image.new("RGBA", image.size, "white")
    white.alpha_composite(image.convert("RGBA"))
    return white


@contextlib.contextmanager
def _broken_means_refused(name: str) -> Iterator[None]:
    """Whatever Pillow raises on hostile bytes (OSError, struct.error,
    ZeroDivisionError, ...) becomes a `UserError`.
    """
    try:
        with _quiet:
            yield
    except UserError:
        raise
    except Image.DecompressionBombError as error:
        raise UserError(
            f"{name} is too large: at most {MAX_PIXELS} pixels are read; shrink it first"
        ) from error
    except UnidentifiedImageError as error:
        raise UserError(
            f"{name} is not an image in a known format ({', '.join(FORMATS)})"
        ) from error
    except Exception as error:
        kind = (
            "cut short"
            if isinstance(error, EOFError) or "truncated" in str(error)
            else "damaged"
        )
        raise UserError(f"{name} is {kind} and cannot be decoded: {error}") from error


class _Quiet:
    """Ignore Pillow's warnings while any thread decodes.

    `warnings.catch_warnings` alone is not for threads: of two that overlap, the last
    restores the silence of the first.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._depth = 0
        self._caught = warnings.catch_warnings()

    def __enter__(self) -> None:
        with self._lock:
            if self._depth == 0:
                self._caught = warnings.catch_warnings()
                self._caught.__enter__()
                warnings.filterwarnings("ignore", module=r"PIL\b")
            self._depth += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._depth -= 1
            if self._depth == 0:
                self._caught.__exit__(None, None, None)


_quiet = _Quiet()
