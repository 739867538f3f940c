"""The files beside the tars of a sharded dataset: their names, and the index.

dataset.json               Classes, splits, and the shards with their bytes, SHA-256
                           and number of images. It is written last.
train/index.safetensors    The columns below. They are mapped into memory: all
                           processes share them, and none is sent any.
train/shard-000000.tar     And so on; test/ and val/ likewise.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from ..errors import UserError
from ..files import write_bytes
from ..untrusted.sizes import opened
from ..untrusted.text import parse_json

FORMAT_VERSION = 1
DESCRIPTION = "dataset.json"
INDEX = "index.safetensors"
UNFINISHED = ".unfinished"
COLUMNS = {
    "offset": "<u8",
    "size": "<u4",
    "shard": "<u4",
    "label": "<u4",
    "crc32": "<u4",
    "key": "<u8",
    "name_end": "<u8",
}
"""One value per image, with its type.

`key` is the image's identity in the dataset that the shards were made from. `names`
holds all names in UTF-8, one after another, and `name_end` says where each ends.
"""

OPTIONAL = ("crc32", "key")
"""Columns that tars made by others lack, and the second of them older shards."""

_MOST_HEADER_BYTES = 2**16

Column = np.ndarray[Any, Any]

DAMAGED = (
    OSError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    RecursionError,
)
"""What reading a damaged description or index may raise."""


def write_index(path: Path, columns: Mapping[str, Any], names: Iterable[str]) -> None:
    """Write the index of a split.

    Args:
        path: The file.
        columns: All of `COLUMNS` but those of `OPTIONAL`, and `name_end`, which follows
            from the names.
        names: The images' names.

    Raises:
        UserError: The disk refuses.
    """
    # File names of Linux need not be UTF-8; surrogateescape brings their bytes back.
    encoded = [name.encode("utf-8", "surrogateescape") for name in names]
    arrays = {}
    for name, column in columns.items():
        arrays[name] = np.asarray(column, COLUMNS[name])
    arrays["name_end"] = np.cumsum([len(name) for name in encoded], dtype="<u8")
    arrays["names"] = np.frombuffer(b"".join(encoded), np.uint8)
    write_bytes(path, save(arrays))


def read_index(path: Path, images: int) -> dict[str, Column]:
    """Map the columns of an index into memory.

    Args:
        path: The file.
        images: How many images dataset.json claims.

    Returns:
        The columns by name, and `names`, uint8.

    Raises:
        UserError: The file cannot be read, or its claims do not fit its size.
    """
    try:
        return _columns(path, images)
    except DAMAGED as error:
        raise UserError(
            f"cannot read the index {str(path)!r}: {error}; copy it again, or delete "
            "the cache"
        ) from error


def _columns(path: Path, images: int) -> dict[str, Column]:
    # safetensors' own reader would copy the columns into each process.
    with opened(path) as (file, _):
        length = int.from_bytes(file.read(8), "little")
        if length > _MOST_HEADER_BYTES:
            raise ValueError("its header is too long")
        header = parse_json(file.read(length))
    data = np.asarray(np.memmap(path, np.uint8, "r", offset=8 + length))
    names = [*COLUMNS, "names"]
    for name in OPTIONAL:
        if name not in header:
            names.remove(name)
    columns = {}
    for name in names:
        start, stop = header[name]["data_offsets"]
        # A claim beyond the file would become a shorter view without a word.
        if not 0 <= start <= stop <= len(data):
            raise ValueError(f"{name} lies beyond its end")
        columns[name] = data[start:stop].view(COLUMNS.get(name, "u1"))
        if name != "names" and len(columns[name]) != images:
            raise ValueError(
                f"it has {len(columns[name])} values of {name} for {images} images"
            )
    return columns
