"""Arrays in .npy files of strangers."""

from __future__ import annotations

import math
import re
import sys
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

_PIECE = 2**20
_MOST_HEADER = 10_000  # bytes; numpy.save writes 118
_MOST_AXES = 32
_LARGEST = 2**62

# `\x93NUMPY`, the version, and then how many bytes hold the length of the header.
_MAGIC = b"\x93NUMPY"
_LENGTH_BYTES = {1: 2, 2: 4, 3: 4}
# What numpy.save writes, and others in another order. Read by a pattern: NumPy's own
# reader evaluates the text as Python.
_ENTRY = re.compile(
    r"\s*(?P<quote>['\"])(?P<key>descr|fortran_order|shape)(?P=quote)\s*:\s*"
    r"(?:(?P<word>True|False)"
    r"|['\"](?P<descr>[^'\"]{1,20})['\"]"
    r"|\((?P<shape>[^()]{0,1000})\))\s*(?:,|(?=\}))"
)
_ENTRY_KEYS = ("descr", "fortran_order", "shape")
_PLAIN_DTYPE = re.compile(
    r"[<>=|]?(?:b1|[iu][1248]|f(?:2|4|8|16)|c(?:8|16|32)|V2|[SU][1-9]\d{0,5})"
)


@dataclass(frozen=True)
class ArrayClaim:
    """Says what an .npy file claims to hold.

    Attributes:
        shape: Of the array.
        dtype: Numbers or text of a fixed length.
        by_column: Whether it is stored in Fortran's order.
        start: Where its numbers begin in the file.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    by_column: bool
    start: int

    @property
    def bytes(self) -> int:
        """How many bytes its numbers take."""
        return math.prod(self.shape) * self.dtype.itemsize


def npy_claim(file: BinaryIO, size: int) -> ArrayClaim:
    """Read the header of an .npy file, whose claim must fit the file's size.

    Args:
        file: At its beginning.
        size: How many bytes it has.

    Raises:
        ValueError: It is no .npy file, holds objects or records, or claims another size.
    """
    start = file.read(len(_MAGIC) + 2)
    if start[:-2] != _MAGIC or start[-2] not in _LENGTH_BYTES:
        raise ValueError("it does not begin as numpy.save writes")
    length_bytes = _LENGTH_BYTES[start[-2]]
    length = int.from_bytes(file.read(length_bytes), "little")
    begin = len(start) + length_bytes + length
    if length > _MOST_HEADER or begin > size:
        raise ValueError(f"its header claims {length:,} bytes")
    text = file.read(length).decode("latin-1")
    shape, dtype, by_column = _header(text)
    claim = ArrayClaim(shape, dtype, by_column, begin)
    # An empty array has a side of 0, whose neighbours may be anything.
    sides = math.prod(side for side in shape if side) * dtype.itemsize
    if claim.bytes != size - begin or sides > _LARGEST:
        raise ValueError(
            f"it claims {dtype} of the shape {_shown(shape)}, and {size - begin:,} bytes "
            "follow"
        )
    return claim


def read_npy(file: BinaryIO, size: int) -> NDArray[Any]:
    """Return the array of an .npy file.

    Args:
        file: At its beginning.
        size: How many bytes it has.

    Raises:
        ValueError: As for `npy_claim`, or it is cut short.
    """
    claim = npy_claim(file, size)
    flat = np.empty(math.prod(claim.shape), claim.dtype)
    target = flat.view(np.uint8).data if flat.size else memoryview(b"")
    filled = 0
    # In pieces: of a zip's member as much again would be unpacked beside the array.
    while piece := file.read(_PIECE):
        if filled + len(piece) > len(target):
            raise ValueError("it is longer than it claims")
        target[filled : filled + len(piece)] = piece
        filled += len(piece)
    if filled != len(target):
        raise ValueError("it is cut short")
    if claim.dtype.kind == "U" and flat.size:
        # NumPy believes that each four bytes are a letter.
        letters = flat.view(np.dtype("u4").newbyteorder(claim.dtype.byteorder))
        if letters.max() > sys.maxunicode:
            raise ValueError("its text holds something else than letters")
    order = "F" if claim.by_column else "C"
    return flat.reshape(claim.shape, order=cast("Any", order))


def _header(text: str) -> tuple[tuple[int, ...], np.dtype[Any], bool]:
    """Return shape, dtype and order of the text of a header."""
    found: dict[str, str | None] = {}
    text = text.strip()
    place = 1
    while entry := _ENTRY.match(text, place):
        values = {
            "descr": entry["descr"],
            "fortran_order": entry["word"],
            "shape": entry["shape"],
        }
        found[entry["key"]] = values[entry["key"]]
        place = entry.end()
    is_dict = text.startswith("{") and text[place:].strip() == "}"
    if not is_dict or len(found) != len(_ENTRY_KEYS) or None in found.values():
        raise ValueError(_what(text))
    descr, shape = str(found["descr"]), str(found["shape"])
    if not _PLAIN_DTYPE.fullmatch(descr):
        raise ValueError(_what(repr(descr)))
    sides = [side.strip().rstrip("L") for side in shape.split(",") if side.strip()]
    if len(sides) > _MOST_AXES or not all(map(_is_side, sides)):
        raise ValueError("it claims a shape that no array has")
    try:
        dtype = np.dtype(descr)
    except TypeError as error:
        # Some machines have no numbers of 128 bits.
        raise ValueError(
            f"this machine has no numbers of the kind {descr!r}"
        ) from error
    return tuple(map(int, sides)), dtype, found["fortran_order"] == "True"


def _is_side(text: str) -> bool:
    """Whether a text is a length; int() also reads other digits, and long texts slowly."""
    return text.isascii() and text.isdigit() and len(text) <= len(str(_LARGEST))


def _what(text: str) -> str:
    if re.search(r"'\|?O\d*'", text):
        return "it holds Python objects, which are not read: they could run code"
    shown = "".join(letter if letter.isprintable() else "?" for letter in text[:80])
    return f"it holds {shown}, expected numbers or text"


def _shown(shape: tuple[int, ...]) -> str:
    return "(" + ", ".join(map(str, shape[:5])) + (", ...)" if len(shape) > 5 else ")")
