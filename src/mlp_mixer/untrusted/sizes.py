"""How large a file is, and what it may unpack to."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

MOST_RATIO = 200
"""How many times its packed size a file may be, once unpacked.

MNIST has 5, and dSprites, white shapes on black, has 116. A bomb of zeros has 1,000.
"""

FREE_BYTES = 16 * 2**20
"""Unpacked bytes that no ratio is asked of: a small black picture is no bomb."""

MOST_UNPACKED = 2**36
"""Unpacked bytes of an archive; ImageNet at 64 x 64 has 16 GB."""

_PIECE = 2**20


@contextlib.contextmanager
def opened(path: Path) -> Iterator[tuple[BinaryIO, int]]:
    """Open a regular file to read it, and no pipe, which may never end.

    Args:
        path: The file, or a link to it.

    Yields:
        The file, and how many bytes it has.

    Raises:
        ValueError: It is a pipe, a device or a folder.
        OSError: The system refuses.
    """
    # Without O_NONBLOCK, opening a pipe waits for a writer.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, flags)
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise ValueError("it is a pipe, a device or a folder, no file")
    with os.fdopen(descriptor, "rb") as file:
        yield file, status.st_size


def read_bytes(path: Path, most: int) -> bytes:
    """Return the bytes of a regular file, unless there are too many.

    Args:
        path: The file, or a link to it.
        most: How many bytes it may have.

    Raises:
        ValueError: It is larger, or a pipe, a device or a folder.
        OSError: The system refuses.
    """
    with opened(path) as (file, size):
        if size > most:
            raise ValueError(f"it has {size:,} bytes, at most {most:,} are read")
        return file.read(size)


def check_unpacked(unpacked: int, packed: int, most: int = MOST_UNPACKED) -> None:
    """Refuse a file that holds far more than its size.

    Args:
        unpacked: Its bytes, so far or as it claims.
        packed: Its size in bytes.
        most: How many bytes it may hold, whatever its size.

    Raises:
        ValueError: There are too many.
    """
    if unpacked > most:
        raise ValueError(f"it holds more than {most:,} bytes")
    if unpacked > max(FREE_BYTES, MOST_RATIO * packed):
        raise ValueError(
            f"it has {packed:,} bytes and unpacks to {unpacked:,} or more: it is damaged "
            "or a trap"
        )


def gunzip(data: bytes, most: int) -> bytearray:
    """Return what a gzip file holds, and stop as soon as it is too much.

    Args:
        data: The file.
        most: How many bytes it may hold.

    Raises:
        ValueError: It holds more, or far more than its size.
        EOFError: It is cut short.
        OSError: It is no gzip file, or its check sum is wrong.
        zlib.error: It is damaged.
    """
    unpacked = bytearray()
    with gzip.GzipFile(fileobj=io.BytesIO(data)) as archive:
        while piece := archive.read(_PIECE):
            unpacked += piece
            check_unpacked(len(unpacked), len(data), most)
    return unpacked


def is_count(value: Any, most: int) -> bool:
    """Return whether a value is a whole number from 0 on; True is none.

    Args:
        value: What a file claims.
        most: The largest number that makes sense.
    """
    return type(value) is int and 0 <= value <= most
