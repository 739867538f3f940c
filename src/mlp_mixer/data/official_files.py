"""Find and read the files of an official archive, wherever it was unpacked."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Sequence
from pathlib import Path

from ..errors import UserError

_GZIP_MAGIC = b"\x1f\x8b"

# The largest official files have 155 MB (CIFAR-100) and 547 MB (EMNIST). A gzip file of
# 4 MB can claim gigabytes, so reading stops here.
_MOST_BYTES = 2**30
_PIECE = 2**20


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


def read_file(path: Path) -> bytes:
    """Return the bytes of a file, unpacked if it is gzipped.

    Args:
        path: The file.

    Raises:
        UserError: The file cannot be read, its gzip stream is damaged, or it is larger
            than any official file.
    """
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise _too_large(path)
        data = path.read_bytes()
        # An idx file begins with zeros, a record of CIFAR with a small label and a
        # pickle with 0x80 or a letter: no plain file is taken for a gzipped one.
        if data.startswith(_GZIP_MAGIC):
            return _unpacked(data, path)
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"cannot read {str(path)!r}: {reason}; unpack the whole archive, or download "
            "it again"
        ) from error
    return data


def _unpacked(data: bytes, path: Path) -> bytes:
    """Unpack the bytes of a gzip file, and stop once they are too many."""
    unpacked = bytearray()
    with gzip.GzipFile(fileobj=io.BytesIO(data)) as archive:
        while piece := archive.read(_PIECE):
            unpacked += piece
            if len(unpacked) > _MOST_BYTES:
                raise _too_large(path)
    return bytes(unpacked)


def _too_large(path: Path) -> UserError:
    return UserError(
        f"{str(path)!r} holds more than {_MOST_BYTES} bytes: it is no official file; "
        "download it again"
    )
