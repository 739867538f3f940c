"""Find and read the files of an official archive, wherever it was unpacked."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path

from ..errors import UserError
from ..untrusted.sizes import gunzip, read_bytes

_GZIP_MAGIC = b"\x1f\x8b"

# The largest official files have 155 MB (CIFAR-100) and 547 MB (EMNIST). A gzip file of
# 4 MB can claim gigabytes, so reading stops here.
_MOST_BYTES = 2**30


def find_file(
    folder: Path, subfolders: Sequence[str], names: Sequence[str]
) -> Path | None:
    """Return the first file that exists under one of its names, or None.

    Args:
        folder: Where the user says the dataset is.
        subfolders: Where archives and torchvision put the files; "" is the folder.
        names: What the file may be called, the best one first.
    """
    for subfolder in subfolders:
        for name in names:
            path = folder / subfolder / name
            if path.is_file():
                return path
    return None


def read_file(path: Path) -> bytes | bytearray:
    """Return the bytes of a file, unpacked if it is gzipped.

    Args:
        path: The file.

    Raises:
        UserError: The file cannot be read, its gzip stream is damaged, or it is larger
            than any official file, or than one of its size can be.
    """
    try:
        data = read_bytes(path, _MOST_BYTES)
        # An idx file begins with zeros, a record of CIFAR with a small label and a
        # pickle with 0x80 or a letter: no plain file is taken for a gzipped one.
        if data.startswith(_GZIP_MAGIC):
            return gunzip(data, _MOST_BYTES)
    except (OSError, ValueError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"cannot read {str(path)!r}: {reason}; unpack the whole archive, or download "
            "it again"
        ) from error
    return data
