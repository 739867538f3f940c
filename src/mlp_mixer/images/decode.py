"""Decode any image to uint8 (H, W, C), or refuse it in one sentence.

The EXIF rotation is applied, only the first frame is read, transparency is laid on
white.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from ..errors import UserError
from .opening import FORMATS as FORMATS
from .opening import HEIC_ENDINGS as HEIC_ENDINGS
from .opening import MAX_PIXELS as MAX_PIXELS
from .opening import (
    TOO_MUCH_TEXT,
    check_size,
    open_image,
    without_text,
)
from .opening import image_extensions as image_extensions
from .opening import known_formats as known_formats
from .orientation import FROM_BELOW, FROM_RIGHT, ON_ITS_SIDE, turn_of
from .planes import is_tensor, pixels_of, read_npy
from .refusals import refuse_broken
from .strips import turned
from .tiff import bands_of, is_tiff, read_bands

try:
    from simplejpeg import decode_jpeg as _fast_jpeg
except ImportError:
    _fast_jpeg = None

ImageLike = str | Path | bytes | Image.Image | np.ndarray[Any, Any]
Pixels = np.ndarray[tuple[int, int, int], np.dtype[np.uint8]]

_JPEG = ("JPEG", "MPO")


class Part(NamedTuple):
    """A part of an image to decode, and how finely.

    Attributes:
        box: From the upright image's height and width to the part's top, left, height
            and width, all in pixels.
        size: The (height, width) it will be resized to, if it may come smaller: a JPEG
            is then decoded at the smallest of the scales 1, 1/2, 1/4 and 1/8 that still
            has so many pixels there. libjpeg leaves out the finest waves of each block,
            and the box is moved to whole pixels of the smaller image. Other files
            ignore it.
    """

    box: Callable[[int, int], tuple[int, int, int, int]]
    size: tuple[int, int] | None = None

    def of(self, image: Pixels) -> Pixels:
        """Return the part of an image that is decoded already, as a view.

        Args:
            image: Upright, (H, W, C).
        """
        top, left, height, width = self.box(*image.shape[:2])
        return image[top : top + height, left : left + width]


def decode_image(
    source: ImageLike, *, channels: int = 3, part: Part | None = None
) -> Pixels:
    """Decode a file, its bytes, a Pillow image or an array.

    Args:
        source: Path, encoded bytes, Pillow image, or an array or a tensor as
            `planes.pixels_of` takes it. A path that ends in .npy is one of an array.
        channels: 1 for gray, 3 for RGB; any other number for arrays and TIFFs of so
            many bands.
        part: What to keep of the image; all of it by default.

    Returns:
        uint8 (H, W, channels), 0-255. EXIF orientation is applied, transparency is laid
        on white, 16 bits are scaled.

    Raises:
        UserError: There is no such file, or it is not an image, damaged, or larger than
            `MAX_PIXELS`.
    """
    planes = _planes(source, channels)
    if planes is not None:
        if channels not in (1, 3):
            return planes if part is None else part.of(planes)
        source = _from_array(planes)
    elif channels not in (1, 3) and isinstance(source, Image.Image):
        raise UserError(
            f"cannot make {channels} channels of an image of Pillow's: give an array (H, "
            f"W, {channels}), a TIFF of {channels} bands, or an .npy file"
        )
    if isinstance(source, Image.Image):
        if part:
            # A smaller scale would stay with the caller's image.
            part = part._replace(size=None)
        name = str(getattr(source, "filename", "")) or "the image"
        return _pixels(source, name, channels, part)
    if isinstance(source, bytes):
        return _decode(io.BytesIO(source), "the image", channels, part)
    assert not isinstance(source, np.ndarray)
    name = repr(str(source))
    try:
        file = open(source, "rb")  # noqa: PTH123, SIM115 - a Path takes 20 microseconds
    # A null byte, or half of a letter.
    except (OSError, ValueError) as error:
        raise _cannot_open(name, error) from error
    with file:
        try:
            return _decode(file, name, channels, part)
        except OSError as error:
            raise _cannot_open(name, error) from error


def _cannot_open(name: str, error: Exception) -> UserError:
    reason = getattr(error, "strerror", None) or error
    return UserError(f"cannot open the image {name}: {reason}; check the path")


def _decode(file: Any, name: str, channels: int, part: Part | None) -> Pixels:
    planes = None
    if channels not in (1, 3):
        planes = read_bands(file, channels, name)
    elif is_tiff(file.read(4)):
        planes = _bands(file, name, channels)
    if planes is not None:
        return planes if part is None else part.of(planes)
    with open_image(file, name) as image:
        return _pixels(image, name, channels, part)


def _bands(file: Any, name: str, channels: int) -> Pixels | None:
    """Return the pixels of a TIFF of so many bands; None of one that is a picture."""
    try:
        bands = bands_of(file, name)
    except UserError:
        # Pillow may read it all the same, or refuses it in its own words.
        return None
    if not bands.number or (bands.with_rgb and channels == 3):
        return None
    if bands.number == channels:
        return read_bands(file, channels, name)
    raise UserError(
        f"{name} has {bands.number} bands: expected gray or RGB, for {channels} channels"
    )


def decode_upright(
    image: Image.Image, name: str = "the image", *, channels: int = 3
) -> Image.Image:
    """Decode an opened image, as `decode_image` does, but to an image of Pillow's.

    Args:
        image: Of `open_image`.
        name: As sentences call it.
        channels: 1 for gray, 3 for RGB.

    Returns:
        Upright, of the mode L or RGB.
    """
    image = _loaded(image)
    turn = turn_of(image)

    def convert(part: Image.Image) -> Image.Image:
        return _in_mode(_eight_bit(part, name), channels)

    # Nothing is to be done to most pictures, which then stay where they are.
    if turn is None and image.mode == ("L" if channels == 1 else "RGB"):
        return convert(image)
    return turned(image, turn, convert)


def _pixels(image: Image.Image, name: str, channels: int, part: Part | None) -> Pixels:
    check_size(image, name, MAX_PIXELS)
    with refuse_broken(name, (), MAX_PIXELS):
        if part:
            part = _drafted(image, part)
            pixels = _by_simplejpeg(image, channels)
            if pixels is not None:
                return part.of(pixels)
        upright = decode_upright(image, name, channels=channels)
        if part:
            top, left, height, width = part.box(upright.height, upright.width)
            upright = upright.crop((left, top, left + width, top + height))
        shape = (upright.height, upright.width, channels)
        return np.array(upright, dtype=np.uint8).reshape(shape)


def _loaded(image: Image.Image) -> Image.Image:
    file = getattr(image, "fp", None)
    try:
        image.load()
    except ValueError as error:
        if not any(words in str(error) for words in TOO_MUCH_TEXT):
            raise
        # The text stood behind the pixels, which are fine.
        image = Image.open(without_text(file), formats=("PNG",))
        image.load()
    return image


def _in_mode(image: Image.Image, channels: int) -> Image.Image:
    mode = "L" if channels == 1 else "RGB"
    return image if image.mode == mode else image.convert(mode)


def _drafted(image: Image.Image, part: Part) -> Part:
    """Have a JPEG decoded at a smaller scale if the part allows it.

    Returns:
        The same part of the image that will come.
    """
    if image.format not in _JPEG or part.size is None:
        return part
    width, height = image.size
    turn = turn_of(image)
    upright = (width, height) if turn in ON_ITS_SIDE else (height, width)
    top, left, rows, columns = part.box(*upright)
    scale = 1
    for smaller in (2, 4, 8):
        if rows >= smaller * part.size[0] and columns >= smaller * part.size[1]:
            scale = smaller
    if scale > 1 and not image.draft(None, (width // scale, height // scale)):
        return part
    # The last row and column of the smaller image may stand for fewer pixels; a turn
    # can make them the first ones.
    if turn in FROM_BELOW:
        top += -upright[0] % scale
    if turn in FROM_RIGHT:
        left += -upright[1] % scale
    sides = (top, left, top + rows, left + columns)
    top, left, bottom, right = ((side + scale // 2) // scale for side in sides)
    return Part(lambda *_: (top, left, bottom - top, right - left))


def _by_simplejpeg(image: Image.Image, channels: int) -> Pixels | None:
    """Return what Pillow would decode, bit for bit, but faster.

    Returns:
        None if it is no plain JPEG, or simplejpeg is not installed.
    """
    if image.format not in _JPEG or image.mode not in ("RGB", "L") or channels != 3:
        return None
    file = getattr(image, "fp", None)
    if not isinstance(file, io.BytesIO) or _fast_jpeg is None:
        return None
    if turn_of(image) is not None:
        return None
    try:
        pixels: Pixels = _fast_jpeg(
            file.getvalue(), min_height=image.height, min_width=image.width
        )
    except ValueError:
        # It is strict: Pillow may pass the file, or refuses it in its own words.
        return None
    return pixels if pixels.shape[1::-1] == image.size else None


def _planes(source: Any, channels: int) -> Pixels | None:
    """Return the pixels of what is an array already; None of an encoded image."""
    if isinstance(source, np.ndarray) or is_tensor(source):
        return pixels_of(source, channels)
    is_path = isinstance(source, (str, Path))
    if is_path and str(source).lower().endswith(".npy"):
        return read_npy(Path(source), channels)
    return None


def _from_array(array: np.ndarray[Any, Any]) -> Image.Image:
    right = array.dtype == np.uint8 and 0 not in array.shape
    if not right or array.ndim not in (2, 3) or array.shape[2:] > (4,):
        raise UserError(
            f"cannot read an array of {array.dtype} {array.shape} as an image: expected "
            "uint8 (H, W) or (H, W, 1 to 4)"
        )
    flat = array[..., 0] if array.shape[2:] == (1,) else array
    return Image.fromarray(np.ascontiguousarray(flat))


def _eight_bit(image: Image.Image, name: str) -> Image.Image:
    """Return the image without transparency and with 8 bits a channel."""
    if image.mode.startswith("I"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise UserError(
                f"{name} has 32-bit pixels of unknown range: save it with 8 or 16 bits"
            )
        # 65535 / 255 = 257. Pillow alone would clip 16 bits to white.
        scaled = (values.astype(np.int64) + 128) // 257
        return Image.fromarray(scaled.astype(np.uint8))
    if image.mode == "F":
        raise UserError(
            f"{name} has floating-point pixels of unknown range: save it with 8 or 16 bits"
        )
    if not image.has_transparency_data:
        return image
    white = Image.new("RGBA", image.size, "white")
    white.alpha_composite(image.convert("RGBA"))
    return white
