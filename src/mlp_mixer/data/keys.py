"""The identity of an image: 64 bits of its content.

A name is none: pictures are renamed, and folders are moved. The same file has the same
key in a folder, in a list and in shards.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Keys = NDArray[np.uint64]
"""(N,), a key for each image."""

# Longer files are read at so many places only: a folder of photos is opened at each
# evaluation, and its gigabytes should not be read for that.
_READ_WHOLE = 256 * 1024
_PLACES = 16
_BYTES_AT_A_PLACE = 4096


def key_of_bytes(data: Any) -> int:
    """Return the key of the bytes of an image file, or of an array of pixels.

    Args:
        data: Contiguous bytes, as bytes, memoryview or array.
    """
    view = memoryview(data).cast("B")
    digest = _digest(len(view))
    for start, stop in _places(len(view)):
        digest.update(view[start:stop])
    return int.from_bytes(digest.digest(), "little")


def key_of_file(path: str | Path) -> int:
    """Return the key of an image file: that of its bytes.

    Args:
        path: The file.

    Raises:
        OSError: It cannot be read.
    """
    with open(path, "rb") as file:  # noqa: PTH123 (a Path takes 20 us to make)
        size = os.fstat(file.fileno()).st_size
        digest = _digest(size)
        for start, stop in _places(size):
            file.seek(start)
            digest.update(file.read(stop - start))
    return int.from_bytes(digest.digest(), "little")


def key_of_name(name: str) -> int:
    """Return the key of an image that is known by its name alone.

    Args:
        name: Unique within its dataset.
    """
    data = name.encode("utf-8", "surrogateescape")
    return key_of_bytes(b"name:" + data)


def random_shares(keys: Keys, seed: int, purpose: str) -> NDArray[np.float64]:
    """Return a random number in [0, 1) for each key, the same at any time and place.

    Args:
        keys: (N,).
        seed: Of the numbers.
        purpose: Another purpose with the same seed has other numbers.

    Returns:
        float64 (N,).
    """
    salt = key_of_bytes(f"{purpose}:{seed}".encode())
    with np.errstate(over="ignore"):
        # The finaliser of SplitMix64 (Steele et al. 2014): every bit of a key moves
        # about half of the bits of the result.
        x = (keys ^ np.uint64(salt)) * np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x ^= x >> np.uint64(31)
    return (x >> np.uint64(11)).astype(np.float64) / 2**53


def _digest(size: int) -> Any:
    digest = hashlib.blake2b(digest_size=8)
    digest.update(size.to_bytes(8, "little"))
    return digest


def _places(size: int) -> list[tuple[int, int]]:
    """Return which bytes of a file are read: all, or some at evenly spread places."""
    if size <= _READ_WHOLE:
        return [(0, size)]
    last = size - _BYTES_AT_A_PLACE
    starts = [last * place // (_PLACES - 1) for place in range(_PLACES)]
    return [(start, start + _BYTES_AT_A_PLACE) for start in starts]
