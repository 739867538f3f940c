"""Whether a file of ours holds what was written: a check sum among its metadata.

A bit that flips on a disk or in a copy leaves a file that looks whole, and answers
otherwise. Every safetensors file of ours carries the CRC-32 of its tensors and of its
other metadata under a key of its own, which other programs (and 0.1.0) pass over. It
tells damage, not forgery: who can change a file can change its sum. CRC-32 finds every
flipped bit and every burst of up to 32, at some 3 GB/s.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import UserError

if TYPE_CHECKING:
    # The bundled model is checked without torch.
    from torch import Tensor

Array = np.ndarray[Any, Any]

SUM = "mlp_mixer_crc32"
"""The metadata key of the check sum."""

_ALIGNMENT = 8  # bytes; where the data of a safetensors file begin


def sealed(
    tensors: dict[str, Tensor], metadata: Mapping[str, str]
) -> list[bytes | memoryview]:
    """Return a safetensors file with its check sum, in parts to be written in turn.

    They are not joined, because that would copy the weights. Equal contents give equal
    bytes.

    Args:
        tensors: On the CPU, contiguous.
        metadata: Text by name.
    """
    import safetensors.torch

    data = safetensors.torch.save(tensors)
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    in_order = ((name, tensors[name]) for name in sorted(tensors))
    stated = {**dict(sorted(metadata.items())), SUM: _crc32(metadata, in_order)}
    # Written here, because the library orders several keys by chance.
    text = json.dumps(
        {"__metadata__": stated, **header}, ensure_ascii=False, separators=(",", ":")
    ).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return [len(text).to_bytes(8, "little"), text, memoryview(data)[8 + length :]]


def check_sum(
    metadata: Mapping[str, str],
    tensors: Iterable[tuple[str, Tensor | Array]],
    source: str,
) -> None:
    """Compare what was read with the check sum in its metadata, if there is one.

    Args:
        metadata: Of the file.
        tensors: Names and tensors on the CPU, or arrays, sorted by name; each is let go
            before the next is asked for.
        source: The file, for the errors.

    Raises:
        UserError: The file does not hold what was written.
    """
    if SUM in metadata:
        others = {key: value for key, value in metadata.items() if key != SUM}
        wrong = metadata[SUM] != _crc32(others, tensors)
    else:
        # Files of 0.1.0 have none. One bit may have flipped in the key itself.
        wrong = any(_is_one_letter_off(key) for key in metadata)
    if wrong:
        raise UserError(
            f"{source} is damaged: its check sum is not that of its bytes; copy it "
            "again, or restore it (a program that changes weights on purpose must leave "
            f"{SUM!r} out of the metadata)"
        )


def _crc32(
    metadata: Mapping[str, str], tensors: Iterable[tuple[str, Tensor | Array]]
) -> str:
    total = zlib.crc32(repr(sorted(metadata.items())).encode("utf-8", "replace"))
    for name, tensor in tensors:
        dtype, flat = _bytes_of(tensor)
        about = f"{name} {dtype} {tuple(tensor.shape)};"
        total = zlib.crc32(about.encode(), total)
        total = zlib.crc32(flat.data, total)
    return f"{total:08x}"


def _bytes_of(tensor: Tensor | Array) -> tuple[str, Array]:
    """Return the dtype as torch writes it, and all bytes as one array."""
    if isinstance(tensor, np.ndarray):
        return f"torch.{tensor.dtype}", tensor.reshape(-1).view(np.uint8)
    import torch

    flat = tensor.detach().contiguous().flatten()
    return str(tensor.dtype), flat.view(torch.uint8).numpy()


def _is_one_letter_off(key: str) -> bool:
    if len(key) != len(SUM):
        return False
    return sum(a != b for a, b in zip(key, SUM, strict=True)) == 1
