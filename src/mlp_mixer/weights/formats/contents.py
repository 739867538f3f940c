"""What a file of weights holds, before its lineage is known.

Also the limits that no honest file exceeds, checked before anything large is read.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...errors import UserError

MOST_ENTRIES = 20_000
"""Tensors, groups or members in one file; the largest published Mixer has some 400."""

_EXPANSION = 8
"""How much larger than its file the tensors may be (a compressed npz).

A zip bomb claims thousands.
"""


@dataclass(frozen=True)
class Contents:
    """Holds what was read from a file.

    Attributes:
        tensors: The tensors as they are stored, by name.
        container: The kind of file: "npz", "safetensors", "torch" or "h5"; "memory".
        metadata: What its author wrote beside the tensors.
        notes: What was left out or chosen, in words.
        others: What stands among the tensors and is none: by name, in words.
        root: Where in the file all of them are, such as "state_dict."; it is no part of
            their names.
    """

    tensors: dict[str, Tensor]
    container: str
    metadata: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    others: dict[str, str] = field(default_factory=dict)
    root: str = ""


def to_torch(array: np.ndarray[Any, Any], what: str) -> Tensor:
    """Return an array as torch stores it, in native byte order.

    Args:
        array: Numbers; two opaque bytes are a bfloat16, which NumPy and HDF5 lack.
        what: The file and the name in it, for the error.

    Raises:
        UserError: torch has no such dtype.
    """
    if array.dtype.kind == "V" and array.dtype.itemsize == 2:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    native = array.astype(array.dtype.newbyteorder("="), copy=False)
    try:
        return torch.from_numpy(native)
    except TypeError as error:
        raise UserError(f"{what} holds {array.dtype}, expected numbers") from error


def to_numpy(tensor: Tensor) -> np.ndarray[Any, Any]:
    """Return a tensor as NumPy stores it; a bfloat16 as two opaque bytes.

    Args:
        tensor: On the CPU.
    """
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view("V2")
    return tensor.numpy()


def check_claim(source: str, claimed: int, size: int) -> None:
    """Refuse a file that claims to hold far more than its size allows.

    Args:
        source: The file.
        claimed: The bytes of its tensors as it states them.
        size: The bytes of the file.

    Raises:
        UserError: The claim cannot be honest.
    """
    # The megabyte leaves room for small files, whose headers outweigh their numbers.
    if claimed > _EXPANSION * size + 2**20:
        raise UserError(
            f"{source} has {size:,} bytes but claims to hold {claimed:,}: it is damaged "
            "or a trap, refused"
        )


def check_number(source: str, entries: int) -> None:
    """Refuse a file with more entries than any model has.

    Args:
        source: The file.
        entries: Its tensors, groups or members.

    Raises:
        UserError: There are too many.
    """
    if entries > MOST_ENTRIES:
        raise UserError(
            f"{source} lists more than {MOST_ENTRIES:,} entries, as no Mixer does: "
            "damaged or a trap, refused"
        )
