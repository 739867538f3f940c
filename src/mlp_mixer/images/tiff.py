"""Read TIFFs of any number of bands, as satellites, microscopes and NumPy's users write.

Pillow knows gray, RGB and few others.

Which bands an image has:

- a page of several bands has them, unless it is a picture that everybody reads (gray or
  RGB with opacity, CMYK, a palette);
- pages of one band each and one size are the bands of one image where the file says so
  (`channels=` of ImageJ, `SizeC` of OME, the shape that tifffile notes), or where their
  number is that of a network's channels;
- else the first page counts, as it does of every picture.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import mmap
import os
import re
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError
from .claims import Data
from .planes import as_bytes, axis_of_channels
from .refusals import CostlyError
from .tiff_pages import BandsError, Page, TooMuchError, pages_of
from .tiff_pages import is_tiff as is_tiff
from .tiff_values import check_size, values_of

_GRAY, _RGB = (0, 1), 2
_OPACITY = (1, 2)
# Six digits: Python refuses to make numbers of thousands of them, with an error of its
# own.
_IMAGEJ = re.compile(r"^channels=(\d{1,6})\s*$", re.MULTILINE)
_OME = re.compile(r'<Pixels[^>]{0,2000}\bSizeC="(\d{1,6})"')


class Bands(NamedTuple):
    """What is in a TIFF.

    Attributes:
        number: Of its bands; 0 if it is a picture, or no TIFF.
        with_rgb: Whether it is also a picture: RGB, and more bands beside it.
        deep: Whether its values have 16 bits.
    """

    number: int
    with_rgb: bool = False
    deep: bool = False


def bands_of(file: BinaryIO, name: str) -> Bands:
    """Return what is in a TIFF; nothing is decoded.

    Args:
        file: Open for reading, at any place.
        name: As sentences call it.

    Raises:
        UserError: It is a damaged TIFF.
    """
    with _opened(file, name) as data:
        if not is_tiff(data[:4]):
            return Bands(0)
        pages = pages_of(data)
    first = pages[0]
    # Those that Pillow reads as RGB.
    most = {"u1": 6, "u2": 4}.get(first.kind[1:], 0)
    with_rgb = first.photometric == _RGB and first.bands <= most
    return Bands(_count(pages), with_rgb, first.kind[1:] == "u2")


def read_bands(file: BinaryIO, channels: int, name: str) -> NDArray[np.uint8]:
    """Return the image in a TIFF.

    Args:
        file: Open for reading, at any place.
        channels: How many bands are expected.
        name: As sentences call it.

    Returns:
        uint8 (H, W, channels), upright. 16 bits are scaled, floats go from 0 to 1.

    Raises:
        UserError: It is no TIFF of so many bands of such values; a `CostlyError` if it
            has too many of them.
    """
    with _opened(file, name) as data:
        if is_tiff(data[:4]):
            return _image(data, channels, name)
    raise UserError(
        f"{name} is no TIFF: an image of {channels} channels is read from a TIFF of "
        f"{channels} bands, an .npy file, or an array (H, W, {channels})"
    )


@contextlib.contextmanager
def _opened(file: BinaryIO, name: str) -> Iterator[Data]:
    """Yield the bytes of a file, and give its name to what is wrong with them."""
    if not file.seek(0, os.SEEK_END):
        raise UserError(f"{name} is empty (0 bytes): expected an image")
    try:
        if isinstance(file, io.BytesIO):
            yield file.getvalue()
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            yield data
    except BandsError as error:
        kind = CostlyError if isinstance(error, TooMuchError) else UserError
        raise kind(f"{name} {error}") from error


def _count(pages: Sequence[Page]) -> int:
    first = pages[0]
    together = _together(pages)
    if together is not None:
        return together[axis_of_channels(together)]
    return 0 if first.bands == 1 or _is_picture(first) else first.bands


def _is_picture(page: Page) -> bool:
    """Whether all its bands have the meaning of a picture's."""
    if page.photometric in _GRAY:
        return page.bands == 1 or (page.bands == 2 and _is_opaque(page))
    if page.photometric == _RGB:
        # A file of four values without a word on the last one is one of RGBA.
        more_than_rgb = page.bands == 4 and (_is_opaque(page) or not page.extra)
        usual = page.kind[1:] in ("u1", "u2", "")
        return usual and (page.bands == 3 or more_than_rgb)
    return True


def _is_opaque(page: Page) -> bool:
    return page.extra[:1] != () and page.extra[0] in _OPACITY


def _together(pages: Sequence[Page]) -> tuple[int, ...] | None:
    """Return the shape of the array that all pages are, if the file says so."""
    first = pages[0]
    if len(pages) == 1 or any(page.size != first.size for page in pages):
        return None
    text = first.description
    by_pages = len(pages), first.height, first.width
    for says in (_IMAGEJ, _OME):
        found = says.search(text)
        if found:
            alone = first.bands == 1 and int(found[1]) == len(pages)
            return by_pages if alone else None
    if not text.startswith("{"):
        return None
    # tifffile notes the shape of an array, and what its axes are where they were told.
    with contextlib.suppress(ValueError, RecursionError):
        told = json.loads(text)
        shape = told.get("shape")
        size = math.prod(by_pages) * first.bands
        if _is_shape(shape) and math.prod(shape) == size and _has_bands(told):
            return tuple(shape)
    return None


def _is_shape(shape: Any) -> bool:
    if not isinstance(shape, list) or len(shape) != 3:
        return False
    return all(type(side) is int and side > 0 for side in shape)


def _has_bands(told: dict[str, Any]) -> bool:
    axes = told.get("axes")
    return axes is None or bool({"C", "S"} & set(str(axes)))


def _image(data: Data, channels: int, name: str) -> NDArray[np.uint8]:
    pages = pages_of(data)
    first = pages[0]
    shape = _together(pages)
    alike = all(page.size == first.size for page in pages)
    if shape is None and alike and first.bands == 1 and len(pages) == channels:
        shape = len(pages), first.height, first.width
    if shape is None:
        pages = pages[:1]
        shape = first.height, first.width, first.bands
        axes = [2]
    else:
        axis = axis_of_channels(shape)
        axes = [axis, 2 - axis]
    found = [axis for axis in axes if shape[axis] == channels]
    if not found:
        count = shape[axes[0]]
        bands = "1 band" if count == 1 else f"{count:,} bands"
        raise BandsError(f"has {bands}: expected an image of {channels} channels")
    check_size(pages)
    values = np.stack([values_of(page, data, name) for page in pages]).reshape(shape)
    image = values.transpose(1, 2, 0) if found[0] == 0 else values
    return _upright(_eight_bits(image), first.orientation)


def _eight_bits(values: NDArray[Any]) -> NDArray[np.uint8]:
    if values.dtype.kind == "u" and values.dtype.itemsize == 2:
        # 65535 / 255 = 257; as of gray pictures of 16 bits.
        return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    return as_bytes(values)


def _upright(image: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Turn an image as its orientation asks."""
    if orientation in (5, 6, 7, 8):
        image = image.transpose(1, 0, 2)
    # The first row is at the bottom; the first column is at the right.
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    return image
