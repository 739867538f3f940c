"""List the pages of a TIFF and where their values lie; nothing is decoded.

Whatever a file claims is compared with the file, and with bounds, before it is believed.
TIFF 6.0 and BigTIFF have the same tags in directories of two layouts.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .claims import Data

# All pages together; a directory may name itself as the next one.
_MOST_PAGES = 4_096
_MOST_TAGS = 65_535
# Strips or tiles of a page.
_MOST_SEGMENTS = 131_072
# Letters of a description that are looked at.
_MOST_TEXT = 2**16
# How often the segments of a page may name the same bytes, and what is always allowed.
_MOST_OVERLAP = 4
_FREE = 2**16

_SUBFILE, _WIDTH, _HEIGHT, _BITS, _COMPRESSION = 254, 256, 257, 258, 259
_PHOTOMETRIC, _FILL_ORDER, _DESCRIPTION, _STRIPS, _BANDS = 262, 266, 270, 273, 277
_ORIENTATION = 274
_ROWS, _STRIP_LENGTHS, _LAYOUT, _PREDICTOR = 278, 279, 284, 317
_TILE_WIDTH, _TILE_HEIGHT, _TILES, _TILE_LENGTHS = 322, 323, 324, 325
_EXTRA, _KIND = 338, 339

# NumPy's name of each type of a tag's values, without the order of bytes. Text, floats
# and pairs of numbers are in none of the tags that hold ours.
_TYPES = {1: "u1", 3: "u2", 4: "u4", 6: "i1", 7: "u1", 8: "i2", 9: "i4"}
_TYPES |= {13: "u4", 16: "u8", 17: "i8", 18: "u8"}
_KINDS = {1: "u", 2: "i", 3: "f"}


class BandsError(ValueError):
    """Says what is wrong with a TIFF, to be read behind its name."""


class TooMuchError(BandsError):
    """Says that a TIFF asks for more work or memory than its bounds allow."""


class Segments(NamedTuple):
    """Strips or tiles of a page.

    Attributes:
        height: Rows of one; the last strip of a page may have fewer.
        width: Columns of one.
        tiled: Whether they are tiles, which are all of that size.
        starts: Where each begins in the file.
        lengths: Bytes of each.
    """

    height: int
    width: int
    tiled: bool
    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]


@dataclass(frozen=True)
class Page:
    """Describe a page.

    Attributes:
        height: In pixels.
        width: In pixels.
        bands: Values of a pixel.
        kind: NumPy's name of their type, with the order of bytes, such as ">u2".
        separate: Whether each band lies by itself.
        compression: The number of the compression.
        predictor: What is stored instead of values: 1 nothing, 2 differences, 3 those of
            the bytes of floats.
        fill_order: 2 if the bits of each byte are reversed.
        photometric: What the values mean: 0 and 1 gray, 2 RGB, and others.
        extra: What the last bands mean: 0 is unknown, 1 and 2 are opacity.
        orientation: Of the EXIF tag of that name, 1 for upright.
        description: What the program that wrote it says.
        segments: Its strips or tiles.
    """

    height: int
    width: int
    bands: int
    kind: str
    separate: bool
    compression: int
    predictor: int
    fill_order: int
    photometric: int
    extra: tuple[int, ...]
    orientation: int
    description: str
    segments: Segments

    @property
    def size(self) -> tuple[int, int, int, str]:
        """Height, width, bands and type: what pages of one image share."""
        return self.height, self.width, self.bands, self.kind


def is_tiff(beginning: bytes) -> bool:
    """Return whether a file begins as a TIFF does.

    Args:
        beginning: At least 4 bytes of it.
    """
    return beginning[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def pages_of(data: Data) -> list[Page]:
    """Return the pages of a TIFF, but no smaller copies and no masks.

    Args:
        data: The whole file, or a map of it.

    Raises:
        BandsError: It is damaged, or claims too much.
    """
    try:
        pages = []
        for directory in _directories(data):
            # Bit 0: a smaller copy of another page; bit 2: a mask.
            if not directory.number(_SUBFILE, 0) & 0b101:
                pages.append(_page(directory))
    except (struct.error, IndexError, OverflowError) as error:
        raise BandsError("is damaged") from error
    if not pages:
        raise BandsError("has no pages")
    return pages


class _Place(NamedTuple):
    kind: int
    number: int
    start: int


class _Directory:
    """The tags of a page, whose values are read when they are asked for."""

    def __init__(self, data: Data, order: str, places: Mapping[int, _Place]) -> None:
        self._data = data
        self.order = order
        self._places = places

    def values(self, tag: int, most: int) -> NDArray[np.int64]:
        """Return the numbers of a tag (N,); none if the page does not have it."""
        place = self._places.get(tag)
        if place is None or place.kind not in _TYPES:
            return np.zeros(0, np.int64)
        kind = np.dtype(self.order + _TYPES[place.kind])
        end = place.start + place.number * kind.itemsize
        if place.number > most or end > len(self._data):
            raise BandsError(f"claims {place.number:,} values of tag {tag}")
        found = np.frombuffer(self._data[place.start : end], kind)
        return found.astype(np.int64)

    def number(self, tag: int, default: int | None = None) -> int:
        """Return the first number of a tag."""
        values = self.values(tag, _MOST_SEGMENTS)
        if len(values):
            return int(values[0])
        if default is None:
            raise BandsError(f"has no tag {tag}")
        return default

    def text(self, tag: int) -> str:
        """Return the beginning of a text."""
        place = self._places.get(tag)
        if place is None:
            return ""
        end = place.start + min(place.number, _MOST_TEXT)
        return self._data[place.start : end].decode("latin-1").rstrip("\0")


def _directories(data: Data) -> list[_Directory]:
    order = "<" if data[:2] == b"II" else ">"
    big = 43 in data[2:4]
    word, count, step = ("Q", "Q", 20) if big else ("I", "H", 12)
    inside = 8 if big else 4
    (start,) = struct.unpack_from(order + word, data, 8 if big else 4)
    found: list[_Directory] = []
    seen: set[int] = set()
    tags = 0
    while start and start not in seen:
        seen.add(start)
        (entries,) = struct.unpack_from(order + count, data, start)
        tags += entries
        if len(seen) > _MOST_PAGES or tags > _MOST_TAGS:
            raise TooMuchError(f"has more than {_MOST_PAGES:,} pages or too many tags")
        first = start + struct.calcsize(order + count)
        places = {}
        for at in range(first, first + entries * step, step):
            tag, kind, number = struct.unpack_from(f"{order}HH{word}", data, at)
            value = at + 4 + inside
            size = np.dtype(_TYPES.get(kind, "u1")).itemsize * number
            if size > inside:
                (value,) = struct.unpack_from(order + word, data, value)
            places[tag] = _Place(kind, number, value)
        found.append(_Directory(data, order, places))
        (start,) = struct.unpack_from(order + word, data, first + entries * step)
    return found


def _page(directory: _Directory) -> Page:
    height, width = directory.number(_HEIGHT), directory.number(_WIDTH)
    bands = directory.number(_BANDS, 1)
    if min(height, width, bands) < 1 or max(height, width, bands) >= 2**31:
        raise BandsError(f"claims {width} x {height} pixels of {bands} values")
    extra = directory.values(_EXTRA, 2**16)
    return Page(
        height=height,
        width=width,
        bands=bands,
        kind=_kind(directory),
        separate=bands > 1 and directory.number(_LAYOUT, 1) == 2,
        compression=directory.number(_COMPRESSION, 1),
        predictor=directory.number(_PREDICTOR, 1),
        fill_order=directory.number(_FILL_ORDER, 1),
        photometric=directory.number(_PHOTOMETRIC, 1),
        extra=tuple(extra.tolist()),
        orientation=directory.number(_ORIENTATION, 1),
        description=directory.text(_DESCRIPTION),
        segments=_segments(directory, height, width),
    )


def _kind(directory: _Directory) -> str:
    """Return NumPy's name of the values' type, "" if it has none."""
    bits = set(directory.values(_BITS, 2**16).tolist()) or {1}
    kinds = set(directory.values(_KIND, 2**16).tolist()) or {1}
    if len(bits) > 1 or len(kinds) > 1:
        return ""
    size = bits.pop()
    letter = _KINDS.get(kinds.pop(), "")
    if not letter or size not in (8, 16, 32, 64) or (letter, size) == ("f", 8):
        return ""
    return f"{directory.order}{letter}{size // 8}"


def _segments(directory: _Directory, height: int, width: int) -> Segments:
    starts = directory.values(_TILES, _MOST_SEGMENTS)
    tiled = len(starts) > 0
    if tiled:
        lengths = directory.values(_TILE_LENGTHS, _MOST_SEGMENTS)
        rows, columns = directory.number(_TILE_HEIGHT), directory.number(_TILE_WIDTH)
    else:
        starts = directory.values(_STRIPS, _MOST_SEGMENTS)
        lengths = directory.values(_STRIP_LENGTHS, _MOST_SEGMENTS)
        rows, columns = min(directory.number(_ROWS, height), height), width
    if len(starts) != len(lengths) or min(rows, columns) < 1:
        raise BandsError("is damaged: its strips or tiles do not fit")
    return Segments(rows, columns, tiled, starts, lengths)


def check_segments(page: Page, length: int) -> None:
    """Refuse a page whose strips or tiles do not make up its pixels.

    Args:
        page: The page.
        length: Bytes of the file.

    Raises:
        BandsError: They are too few, lie outside of the file, or name the same bytes
            again and again.
    """
    segments = page.segments
    down = math.ceil(page.height / segments.height)
    across = math.ceil(page.width / segments.width)
    expected = down * across * (page.bands if page.separate else 1)
    if len(segments.starts) != expected:
        raise BandsError(
            f"is damaged: it has {len(segments.starts):,} strips or tiles, expected "
            f"{expected:,}"
        )
    ends = segments.starts + segments.lengths
    if min(segments.starts.min(), segments.lengths.min()) < 0 or ends.max() > length:
        raise BandsError("is cut short: its strips or tiles lie behind its end")
    if segments.lengths.sum() > _MOST_OVERLAP * length + _FREE:
        raise TooMuchError("names the same bytes again and again; save it anew")
