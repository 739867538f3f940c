"""What a file of weights holds, before anyone knows whose it is, and what no honest
file does.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...errors import UserError

MOST_ENTRIES = 20_000
"""Tensors, groups or members in one file; the largest published Mixer has some 400."""

_EXPANSION = 8
"""How much larger than its file the tensors may be (a compressed npz); a bomb claims
thousands.
"""


@dataclass(frozen=True)
class Contents:
    """What a file holds: tensors as stored, its kind, what its author wrote beside
    them, and what was left out.
    """

    tensors: dict[str, Tensor]
    container: str
    metadata: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def to_torch(array: np.ndarray[Any, Any], what: str) -> Tensor:
    """Numbers as torch stores them; two opaque bytes are bfloat16, which NumPy and HDF5
    do not have.
    """
    if array.dtype.kind == "V" and array.dtype.itemsize == 2:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    try:
        return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), copy=False))
    except TypeError as error:
        raise UserError(f"{what} holds {array.dtype}, expected numbers") from error


def to_numpy(tensor: Tensor) -> np.ndarray[Any, Any]:
    """The way back."""
    return (
        tensor.view(torch.int16).numpy().view("V2")
        if tensor.dtype == torch.bfloat16
        else tensor.numpy()
    )


def check_claim(source: str, claimed: int, size: int) -> None:
    """`UserError` if tensors of `claimed` bytes cannot honestly come from a file of
    `size` bytes.
    """
    if claimed > _EXPANSION * size + 2**20:
        raise UserError(
            f"{source} has {size:,} bytes but claims to hold {claimed:,}: it is damaged or a trap, refused"
        )


def check_number(source: str, entries: int) -> None:
    """`UserError` if there are more tensors, groups or members than any model has."""
    if entries > MOST_ENTRIES:
        raise UserError(
            f"{source} lists more than {MOST_ENTRIES:,} entries, as no Mixer does: damaged or a trap, refused"
        )


def read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    """The bytes of a member, checked by their CRC; never more than the directory
    states, which `read()` inflates.
    """
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{member.filename[:80]!r} is compressed in an unusual way")
    with archive.open(member) as file:
        data = file.read(member.file_size)
    if len(data) != member.file_size:
        raise ValueError(f"{member.filename[:80]!r} is cut off")
    return data
