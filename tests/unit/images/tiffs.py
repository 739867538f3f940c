"""A writer of TIFFs of any bands, so that tests need no library for them."""

from __future__ import annotations

import io
import struct
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

Tags = Mapping[int, int | Sequence[int] | bytes]


def tiff(pages: Sequence[tuple[np.ndarray, Tags]]) -> bytes:
    """Return a TIFF without compression, one strip for each row of a page.

    Args:
        pages: Images (H, W) or (H, W, C), and tags beside or instead of the usual ones;
            284: 2 has each band by itself.
    """
    body = bytearray(b"II*\0" + bytes(4))
    link = 4
    for image, more in pages:
        array = image if image.ndim == 3 else image[..., None]
        height, width, bands = array.shape
        separate = more.get(284) == 2
        planes = array.transpose(2, 0, 1)[..., None] if separate else array[None]
        starts, lengths = [], []
        for row in planes.reshape(-1, planes[0, 0].size):
            starts.append(len(body))
            lengths.append(row.nbytes)
            body += row.tobytes()
        kind = {"u": 1, "i": 2, "f": 3}[array.dtype.kind]
        tags: dict[int, int | Sequence[int] | bytes] = {
            256: width, 257: height, 258: [8 * array.itemsize] * bands, 259: 1, 262: 1,
            273: starts, 277: bands, 278: 1, 279: lengths, 339: [kind] * bands, **more,
        }  # fmt: skip
        struct.pack_into("<I", body, link, len(body))
        link = _add(body, tags)
    return bytes(body)


def _add(body: bytearray, tags: Tags) -> int:
    """Add a directory, and return the place of its link to the next one."""
    entries = b""
    more = b""
    behind = len(body) + 2 + 12 * len(tags) + 4
    for tag, value in sorted(tags.items()):
        text = isinstance(value, bytes)
        values = [value] if isinstance(value, int) else value
        packed = bytes(values) if text else struct.pack(f"<{len(values)}I", *values)
        if len(packed) > 4:
            packed, more = struct.pack("<I", behind + len(more)), more + packed
        entries += struct.pack("<HHI", tag, 2 if text else 4, len(values))
        entries += packed.ljust(4, b"\0")
    body += struct.pack("<H", len(tags)) + entries + bytes(4) + more
    return behind - 4


def compressed(image: np.ndarray, how: str) -> bytes:
    """Return a TIFF of bands (H, W, C), of uint8 or uint16, that libtiff has compressed.

    It is shown their bytes as a gray picture, whose strips are then called bands.
    """
    file = io.BytesIO()
    flat = np.ascontiguousarray(image).view(np.uint8).reshape(len(image), -1)
    Image.fromarray(flat).save(file, "TIFF", compression=how)
    with Image.open(file) as gray:
        known = dict(gray.tag_v2)
    body = bytearray(b"II*\0" + bytes(4))
    starts = []
    for start, length in zip(known[273], known[279], strict=True):
        starts.append(len(body))
        body += file.getvalue()[start : start + length]
    height, width, bands = image.shape
    struct.pack_into("<I", body, 4, len(body))
    tags: Tags = {
        256: width, 257: height, 258: [8 * image.itemsize] * bands, 259: known[259],
        262: 1, 273: starts, 277: bands, 278: known.get(278, height),
        279: list(known[279]),
    }  # fmt: skip
    _add(body, tags)
    return bytes(body)
