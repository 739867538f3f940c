"""Zip archives of strangers."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Iterable
from typing import BinaryIO, cast

MOST_MEMBERS = 20_000
"""Members of a zip archive; the largest published Mixer has some 400 tensors."""

_MEMBER_BYTES = 46 + 2**9  # of a member in a zip's directory: its record and its name
_PLAIN_WAYS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


class _Opening(io.RawIOBase):
    """Passes reads on, and refuses one for more than a zip's directory may have.

    Python reads the directory at once and makes an object of each of its members; a
    file of 100 MB may list two million.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._size = file.seek(0, io.SEEK_END)
        self.most: int | None = MOST_MEMBERS * _MEMBER_BYTES

    def read(self, size: int | None = -1) -> bytes:
        if size is None or size < 0:
            size = max(self._size - self._file.tell(), 0)
        if self.most is not None and size > self.most:
            raise ValueError(f"its directory lists more than {MOST_MEMBERS:,} members")
        return self._file.read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True


def open_zip(file: BinaryIO) -> zipfile.ZipFile:
    """Open a zip archive whose directory has a sensible size.

    Args:
        file: The archive; it stays open when the archive is closed.

    Raises:
        ValueError: It lists too many members, two of one name, or one that is encrypted
            or packed in an unusual way.
        zipfile.BadZipFile: It is damaged.
    """
    careful = _Opening(file)
    archive = zipfile.ZipFile(cast("BinaryIO", careful))
    careful.most = None
    members = archive.infolist()
    if len(members) > MOST_MEMBERS:
        raise ValueError(f"it lists more than {MOST_MEMBERS:,} members")
    if len({member.filename for member in members}) < len(members):
        raise ValueError("it holds two members of one name: it is damaged or a trap")
    for member in members:
        if member.compress_type not in _PLAIN_WAYS or member.flag_bits & 1:
            raise ValueError(
                f"{member.filename[:80]!r} is encrypted, or packed in an unusual way"
            )
    return archive


def claimed_bytes(members: Iterable[zipfile.ZipInfo]) -> int:
    """Return how many bytes members of a zip archive unpack to, as they claim.

    Args:
        members: Entries of its directory.
    """
    return sum(member.file_size for member in members)


def read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    """Return the bytes of a member, as many as the directory states.

    Whether these are too many, the caller has asked.

    Args:
        archive: The archive.
        member: Its entry in the directory.

    Raises:
        ValueError: It is cut off.
        zipfile.BadZipFile: Its CRC is wrong.
    """
    with archive.open(member) as file:
        # With a length, because read() alone inflates whatever follows: a bomb whose
        # directory states a small size would fill the memory.
        data = file.read(member.file_size)
    if len(data) != member.file_size:
        raise ValueError(f"{member.filename[:80]!r} is cut off")
    return data


UNREADABLE = (
    OSError,
    ValueError,
    EOFError,
    KeyError,
    NotImplementedError,
    zipfile.BadZipFile,
    zlib.error,
)
"""What reading a damaged or refused archive raises."""
