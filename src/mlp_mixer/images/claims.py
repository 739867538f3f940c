"""Bound what a picture's file claims, before a decoder believes it.

Width times height is not what decoders pay for: a progressive JPEG is computed anew for
each of its scans, JPEG 2000 and TIFF keep books on each tile, an icon holds a picture of
any size, an EXIF block may name the same bytes a thousand times. All of them are read
here as the decoders read them.
"""

from __future__ import annotations

import contextlib
import io
import math
import re
import struct
from collections.abc import Iterator
from mmap import mmap
from typing import NamedTuple

from .refusals import CostlyError

Data = bytes | mmap
"""A whole file, read or mapped."""

MOST_READS = 250_000
"""Pieces that a decoder written in Python may ask a file for.

Each piece costs it a microsecond or two, so a flood of comments, markers, chunks or
frames ends within a second. The largest PNG that we decode takes 70,000.
"""

# Scans of a progressive JPEG; encoders write about ten.
_MOST_SCANS = 200
_MOST_MARKERS = 10_000
# Tiles of a picture; 64 megapixels in tiles of 64 x 64 have 15,625.
_MOST_TILES = 16_384
# Strips of a TIFF may be single rows.
_MOST_STRIPS = 131_072
_MOST_BOXES = 1_000
_MOST_TAGS = 65_535
# Bytes of a text format (P1, P2, P3), of which a megabyte takes a second.
_MOST_TEXT = 2**22
# How often the tags of one directory may name its bytes, and what is always allowed.
_MOST_OVERLAP = 4
_FREE = 2**16


class CountedReads(io.BytesIO):
    """A file in memory that gives up when it is read in too many pieces."""

    left = MOST_READS

    def read(self, size: int | None = -1, /) -> bytes:
        """Read as any file does.

        Args:
            size: Bytes at most; all by default.

        Raises:
            CostlyError: There were `MOST_READS` before.
        """
        self.left -= 1
        if self.left < 0:
            raise CostlyError(
                f"the image is too costly to read: it has more than {MOST_READS:,} "
                "pieces; save it anew"
            )
        return super().read(size)


def check_claims(data: Data, name: str, max_pixels: int) -> None:
    """Refuse a file that claims more than its picture may cost.

    Args:
        data: The whole file, or a map of it.
        name: Of the picture, as a sentence calls it.
        max_pixels: Of a picture inside the file.

    Raises:
        CostlyError: It does. A file that is merely broken passes: the decoder refuses
            it in its own words.
    """
    try:
        problem = _problem(data, max_pixels)
    except (struct.error, IndexError):
        # The file ends inside of what it claims.
        return
    if problem:
        raise CostlyError(f"{name} is too costly to decode: it has {problem}")


def check_exif(block: bytes, name: str) -> None:
    """Refuse an EXIF block whose tags name more bytes than it holds.

    Args:
        block: With or without its head `Exif`.
        name: Of the picture, as a sentence calls it.

    Raises:
        CostlyError: The tags do.
    """
    try:
        problem = _overlap(block.removeprefix(b"Exif\0\0"))
    except (struct.error, IndexError):
        return
    if problem:
        raise CostlyError(
            f"{name} is too costly to decode: its EXIF block has {problem}"
        )


def webp_pixels(data: Data) -> int:
    """Return the pixels that a WebP claims, 0 of any other file.

    Its decoder takes memory for them, and says only that it cannot be made.

    Args:
        data: The whole file.
    """
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP" or len(data) < 30:
        return 0
    if data[12:16] == b"VP8X":
        width = int.from_bytes(data[24:27], "little") + 1
        height = int.from_bytes(data[27:30], "little") + 1
    elif data[12:16] == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        width = (bits & 0x3FFF) + 1
        height = (bits >> 14 & 0x3FFF) + 1
    else:
        width, height = struct.unpack_from("<HH", data, 26)
        width &= 0x3FFF
        height &= 0x3FFF
    return width * height


def _problem(data: Data, max_pixels: int) -> str:
    """Say what is too much in a file, or nothing."""
    beginning = data[:16]
    if beginning.startswith(b"\xff\xd8\xff"):
        return _jpeg(data)
    if beginning[:2] in (b"II", b"MM"):
        return _tiff(data, max_pixels)
    if beginning.startswith((b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP")):
        return _jpeg2000(data)
    if beginning.startswith(b"\0\0\1\0"):
        return _icon(data, max_pixels)
    if beginning[:2] in (b"P1", b"P2", b"P3") and len(data) > _MOST_TEXT:
        return f"{len(data):,} bytes of text; save it as PNG"
    return ""


# A marker of JPEG: what stands before it is padding or garbage, which all decoders skip.
_MARKER = re.compile(rb"\xff([^\x00\xff])", re.DOTALL)
_WITHOUT_LENGTH = {0x01, 0xD8, 0xD9, *range(0xD0, 0xD8)}
_FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_ONE_PASS = {0xC0, 0xC1}  # baseline and extended sequential
_SCAN = 0xDA
_SCAN_MARKER = re.compile(rb"\xff\xda")
_EXIF = (0xE1, b"Exif\0\0")
_SEVERAL_PICTURES = (0xE2, b"MPF\0")


def _jpeg(data: Data) -> str:
    place = 2
    components = 0
    exif = b""
    one_pass = True
    for _ in range(_MOST_MARKERS):
        found = _MARKER.search(data, place)
        if found is None:
            return ""
        marker = data[found.start(1)]
        place = found.end()
        if marker in _WITHOUT_LENGTH:
            continue
        (length,) = struct.unpack_from(">H", data, place)
        if marker in _FRAMES:
            components = data[place + 7]
            one_pass = marker in _ONE_PASS
        elif (marker, data[place + 2 : place + 8]) == _EXIF:
            # Pillow joins all of them, and reads the whole once.
            exif += data[place + 8 : place + length]
        elif (marker, data[place + 2 : place + 6]) == _SEVERAL_PICTURES:
            if problem := _overlap(data[place + 6 : place + length]):
                return problem
        elif marker == _SCAN:
            break
        place += length
    else:
        return f"more than {_MOST_MARKERS:,} markers; save it anew"
    if exif and (problem := _overlap(exif)):
        return problem
    # Then the decoder stops at the end of the first scan.
    if one_pass and data[place + 2] == components:
        return ""
    scans = sum(1 for _ in _SCAN_MARKER.finditer(data, place))
    if scans <= _MOST_SCANS:
        return ""
    return f"{scans:,} scans, at most {_MOST_SCANS} are read; save it anew"


class _Directory(NamedTuple):
    """The first directory of a TIFF or an EXIF block.

    Attributes:
        numbers: The first number of each tag that holds whole numbers.
        counts: How many values each tag claims.
        size: The bytes that all tags claim, each at most those of the block.
    """

    numbers: dict[int, int]
    counts: dict[int, int]
    size: int


_UNITS = (0, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4, 0, 0, 8, 8, 8)  # bytes, by type
_WHOLE = {3: "H", 4: "I", 16: "Q"}


def _directory(data: Data, big: bool = False) -> _Directory:
    order = "<" if data[:2] == b"II" else ">"
    (start,) = struct.unpack_from(
        f"{order}{'Q' if big else 'I'}", data, 8 if big else 4
    )
    (entries,) = struct.unpack_from(f"{order}{'Q' if big else 'H'}", data, start)
    start += 8 if big else 2
    step = 20 if big else 12
    entries = min(entries, (len(data) - start) // step)
    if entries > _MOST_TAGS:
        return _Directory({}, {}, entries * len(data))
    numbers = {}
    counts = {}
    size = 0
    for place in range(start, start + entries * step, step):
        tag, kind = struct.unpack_from(f"{order}HH", data, place)
        (count,) = struct.unpack_from(f"{order}{'Q' if big else 'I'}", data, place + 4)
        value = place + (12 if big else 8)
        claimed = count * (_UNITS[kind] if kind < len(_UNITS) else 0)
        size += min(claimed, len(data))
        counts[tag] = count
        if kind in _WHOLE and count == 1:
            (numbers[tag],) = struct.unpack_from(f"{order}{_WHOLE[kind]}", data, value)
    return _Directory(numbers, counts, size)


def _overlap(block: bytes) -> str:
    """Say when tags claim the same bytes again and again."""
    if block[:2] not in (b"II", b"MM"):
        return ""
    return _too_long(_directory(block), len(block))


def _too_long(directory: _Directory, length: int) -> str:
    if directory.size <= _MOST_OVERLAP * length + _FREE:
        return ""
    return f"tags of {directory.size:,} bytes in {length:,}; save it anew"


_WIDTH, _HEIGHT, _COMPRESSION = 256, 257, 259
_STRIPS = (273, 279, 324, 325)  # where each strip or tile begins, and its length
_TILE_WIDTH, _TILE_HEIGHT = 322, 323
_JPEG_INSIDE = (6, 7)


def _tiff(data: Data, max_pixels: int) -> str:
    # Pillow and libtiff disagree on which of them are BigTIFF.
    for big in {data[2] == 43, 43 in data[2:4]}:
        with contextlib.suppress(struct.error):
            directory = _directory(data, big)
            if problem := _problem_of_tiff(data, directory, max_pixels):
                return problem
    return ""


def _problem_of_tiff(data: Data, directory: _Directory, max_pixels: int) -> str:
    if problem := _too_long(directory, len(data)):
        return problem
    strips = max(directory.counts.get(tag, 0) for tag in _STRIPS)
    if strips > _MOST_STRIPS:
        return f"{strips:,} strips, at most {_MOST_STRIPS:,} are read; save it as PNG"
    numbers = directory.numbers
    tile = numbers.get(_TILE_WIDTH, 0) * numbers.get(_TILE_HEIGHT, 0)
    whole = numbers.get(_WIDTH, 0) * numbers.get(_HEIGHT, 0)
    # A small picture may lie in one tile of the usual size.
    if tile > max_pixels or tile > max(4 * whole, 2**20):
        return f"tiles of {tile:,} pixels, and {whole:,} in all; save it as PNG"
    if numbers.get(_COMPRESSION) in _JPEG_INSIDE:
        scans = sum(1 for _ in _SCAN_MARKER.finditer(data))
        # A strip has a scan for each of its components.
        if scans > _MOST_SCANS + 4 * strips:
            return f"{scans:,} scans in {strips:,} strips; save it anew"
    return ""


def _jpeg2000(data: Data) -> str:
    place = _codestream(data)
    if data[place : place + 4] != b"\xff\x4f\xff\x51":
        return ""
    # The sides of the grid, its offset, those of a tile, the first tile's offset.
    sides = struct.unpack_from(">8I", data, place + 8)
    width, height, _, _, tile_width, tile_height, left, top = sides
    if tile_width == 0 or tile_height == 0:
        return ""
    across = -(-(width - left) // tile_width)
    down = -(-(height - top) // tile_height)
    if across * down <= _MOST_TILES:
        return ""
    return f"{across * down:,} tiles, at most {_MOST_TILES:,} are read; save it as PNG"


def _codestream(data: Data) -> int:
    """Return where the codestream of JPEG 2000 begins: in its box, or at once."""
    if data[:2] == b"\xff\x4f":
        return 0
    for place, kind, _ in _boxes(data):
        if kind == b"jp2c":
            return place
    return len(data)


def _boxes(data: Data) -> Iterator[tuple[int, bytes, int]]:
    """Yield the content's place, the kind and the end of each box at the top."""
    place = 0
    for _ in range(_MOST_BOXES):
        if place + 8 > len(data):
            return
        length, kind = struct.unpack_from(">I4s", data, place)
        content = place + 8
        if length == 1:
            (length,) = struct.unpack_from(">Q", data, content)
            content += 8
        end = place + length if length else len(data)
        yield content, kind, end
        if end <= place:
            return
        place = end
    raise CostlyError(f"the image has more than {_MOST_BOXES:,} boxes; save it anew")


_PNG_SIZE = re.compile(rb"IHDR(.{8})", re.DOTALL)


def _icon(data: Data, max_pixels: int) -> str:
    """Measure the pictures of an icon by their own headers."""
    sizes = [struct.unpack(">II", found[1]) for found in _PNG_SIZE.finditer(data)]
    (entries,) = struct.unpack_from("<H", data, 4)
    for entry in range(entries):
        (start,) = struct.unpack_from("<I", data, 6 + 16 * entry + 12)
        head = data[start : start + 12]
        if len(head) == 12 and not head.startswith(b"\x89PNG"):
            sizes.append(_bitmap_size(head))
    width, height = max(sizes, key=math.prod, default=(0, 0))
    if width * height <= max_pixels:
        return ""
    return f"a picture of {width} x {height} pixels inside; save it as PNG"


def _bitmap_size(head: bytes) -> tuple[int, int]:
    (length,) = struct.unpack_from("<I", head)
    layout = "<HH" if length == 12 else "<ii"
    width, height = map(abs, struct.unpack_from(layout, head, 4))
    # Below the bitmap lies a mask of the same height.
    return width, height // 2
