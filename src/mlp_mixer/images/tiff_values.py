"""Decode the pages of a TIFF, whatever their values mean.

The bytes of each page are shown to Pillow's decoders as a gray picture, so that
compressions and their bounds are those of all pictures.
"""

from __future__ import annotations

import io
import math
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .claims import Data
from .opening import MAX_PIXELS, Bounds, open_image
from .tiff_pages import BandsError, Page, TooMuchError, check_segments

# Bytes of all values; an RGB picture of `MAX_PIXELS` has 192 million.
_MOST_BYTES = 2**27
_COMPRESSIONS = {
    1: "none",
    5: "LZW",
    8: "deflate",
    32773: "PackBits",
    32946: "deflate",
    34925: "LZMA",
    50000: "zstd",
}
_FREE = 2**16  # bytes by which a compression may make small values larger


def check_size(pages: Sequence[Page]) -> None:
    """Refuse pages of too many values, or of values whose range is unknown.

    Args:
        pages: Those that are to be decoded, all alike.

    Raises:
        BandsError: They have such values; a `TooMuchError` if they have too many.
    """
    first = pages[0]
    if not first.kind or first.kind[1:] not in ("u1", "u2", "f2", "f4", "f8"):
        kind = np.dtype(first.kind).name if first.kind else "so few or mixed bits"
        raise BandsError(
            f"has values of {kind}, whose range is unknown: save them as uint8, as "
            "uint16, or as floats from 0 to 1"
        )
    if first.height * first.width > MAX_PIXELS:
        raise TooMuchError(
            f"is too large: {first.width} x {first.height} pixels, at most "
            f"{MAX_PIXELS} are read; cut it into tiles"
        )
    size = sum(math.prod(_padded(page)) for page in pages)
    if size > _MOST_BYTES:
        raise TooMuchError(
            f"is too large: its bands have {size:,} bytes, at most {_MOST_BYTES:,} "
            "are read; cut it into tiles"
        )


def _padded(page: Page) -> tuple[int, int]:
    """Return the rows, and the bytes of all bands in a row, of its strips or tiles."""
    segments = page.segments
    rows = page.height
    if segments.tiled:
        rows = math.ceil(page.height / segments.height) * segments.height
    columns = math.ceil(page.width / segments.width) * segments.width
    return rows, columns * page.bands * np.dtype(page.kind).itemsize


def values_of(page: Page, data: Data, name: str) -> NDArray[Any]:
    """Return the values of a page.

    Args:
        page: Of a size that `check_size` lets pass.
        data: The whole file, or a map of it.
        name: As sentences call it.

    Returns:
        (H, W, bands), of the type that the file has.

    Raises:
        BandsError: They are damaged, or stored in a way that is not read here.
        UserError: They cannot be decoded.
    """
    if page.compression not in _COMPRESSIONS:
        known = ", ".join(dict.fromkeys(_COMPRESSIONS.values()))
        raise BandsError(
            f"has the compression {page.compression}: of images of bands {known} are read"
        )
    if page.predictor not in (1, 2, 3) or (
        page.predictor == 3 and "f" not in page.kind
    ):
        raise BandsError(f"has the predictor {page.predictor}, which is not read")
    check_segments(page, len(data))
    rows, width = _padded(page)
    if page.segments.lengths.sum() > 2 * rows * width + _FREE:
        raise TooMuchError("has more bytes than its values need; save it anew")
    count = page.bands if page.separate else 1
    bands = []
    for places in np.split(np.arange(len(page.segments.starts)), count):
        parts = _parts(page, data, places)
        gray = _decoded(_gray_tiff(page, parts, (rows, width // count)), name)
        bands.append(_restored(page, gray, page.bands // count))
    return np.concatenate(bands, axis=2)


def _parts(page: Page, data: Data, places: NDArray[np.int64]) -> list[bytes]:
    """Return the bytes of some strips or tiles as they are in the file."""
    parts = []
    for place in places:
        start = int(page.segments.starts[place])
        parts.append(data[start : start + int(page.segments.lengths[place])])
    return parts


def _decoded(tiff: bytes, name: str) -> NDArray[np.uint8]:
    """Return the pixels of a gray TIFF of ours."""
    bounds = Bounds(("TIFF",), _MOST_BYTES)
    with open_image(io.BytesIO(tiff), name, bounds) as image:
        return np.asarray(image)


def _gray_tiff(page: Page, parts: Sequence[bytes], size: tuple[int, int]) -> bytes:
    """Return a TIFF of one byte for each byte of the values."""
    rows, width = size
    lengths = [len(part) for part in parts]
    starts = 8 + np.cumsum([0, *lengths[:-1]])
    fields: list[tuple[int, Sequence[int]]] = [
        (256, [width]),
        (257, [rows]),
        (258, [8]),
        (259, [page.compression]),
        (262, [1]),
        (266, [page.fill_order]),
        (277, [1]),
    ]
    if page.segments.tiled:
        across = math.ceil(page.width / page.segments.width)
        fields += [(322, [width // across]), (323, [page.segments.height])]
        fields += [(324, starts.tolist()), (325, lengths)]
    else:
        fields += [(273, starts.tolist()), (278, [page.segments.height])]
        fields += [(279, lengths)]
    body = b"".join(parts)
    # Directories begin at even places.
    body += bytes(len(body) % 2)
    place = 8 + len(body)
    behind = place + 2 + 12 * len(fields) + 4
    entries = b""
    more = b""
    for tag, values in sorted(fields):
        packed = struct.pack(f"<{len(values)}I", *values)
        value = packed
        if len(values) > 1:
            value = struct.pack("<I", behind + len(more))
            more += packed
        entries += struct.pack("<HHI", tag, 4, len(values)) + value
    head = struct.pack("<2sHI", b"II", 42, place)
    count = struct.pack("<H", len(fields))
    return head + body + count + entries + bytes(4) + more


def _restored(page: Page, gray: NDArray[np.uint8], bands: int) -> NDArray[Any]:
    """Return the values (H, W, bands) of bytes, without their predictor."""
    rows = len(gray)
    kind = np.dtype(page.kind)
    wide = page.segments.width
    # A predictor knows nothing of what lies left of its strip or tile.
    if page.predictor == 3:
        differences = gray.reshape(rows, -1, wide * kind.itemsize, bands)
        summed = np.cumsum(differences, axis=2, dtype=np.uint8)
        # First come the first bytes of all floats, then the second ones.
        apart = summed.reshape(rows, -1, kind.itemsize, wide * bands)
        joined = np.ascontiguousarray(apart.swapaxes(2, 3))
        values = joined.view(kind.newbyteorder(">"))[..., 0]
    else:
        values = np.ascontiguousarray(gray).view(kind)
    values = values.reshape(rows, -1, wide, bands)
    if page.predictor == 2:
        whole = np.dtype(f"u{kind.itemsize}")
        bits = values.view(whole.newbyteorder(kind.byteorder))
        summed = np.cumsum(bits, axis=2, dtype=whole)
        values = summed.view(kind.newbyteorder("="))
    flat = values.reshape(rows, -1, bands)
    return flat[: page.height, : page.width]
