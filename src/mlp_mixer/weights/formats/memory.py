"""Weights that are in memory already: tensors by name, or an open file."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...errors import UserError
from . import containers
from .contents import Contents, to_torch
from .nested import leaves

_EXPECTED = "expected a path, a name, tensors by name, or a file open in binary mode"


def read(weights: Any) -> tuple[str | None, str, Contents]:
    """Read tensors by name, or a file that is open in binary mode.

    Args:
        weights: A mapping of names to tensors or arrays, nested or not; or an object
            with `read()`.

    Returns:
        The name of the open file, None without one; what errors call the weights; and
        the tensors, which are copies.

    Raises:
        UserError: It is something else, or what was read is no file of weights.
    """
    if isinstance(weights, nn.Module):
        raise UserError(
            f"load got a network ({type(weights).__name__}), {_EXPECTED}: a network can "
            "be used as it is, or give its state_dict()"
        )
    if isinstance(weights, Mapping):
        return None, "the dict", _of_mapping(weights, "the dict")
    if hasattr(weights, "read"):
        return _of_file(weights)
    advice = ""
    if isinstance(weights, (bytes, bytearray, memoryview)):
        advice = ": put the bytes of a file into io.BytesIO"
    raise UserError(f"load got {type(weights).__name__}, {_EXPECTED}{advice}")


def _of_mapping(weights: Mapping[Any, Any], source: str) -> Contents:
    found = leaves(
        weights, lambda value: isinstance(value, (Tensor, np.ndarray)), source
    )
    if not found.tensors:
        keys = ", ".join(repr(str(key)[:40]) for key in list(weights)[:4])
        raise UserError(
            f"{source} holds no tensors ({keys or 'it is empty'}), expected tensors by "
            "name, as `model.state_dict()` gives"
        )
    tensors = {}
    for name, value in found.tensors.items():
        tensors[name] = _copied(value, f"{source}: {name!r}")
    others = {
        name: f"a value of type {type(value).__name__}"
        for name, value in found.others.items()
    }
    contents = Contents(
        tensors, "memory", found.class_names, others=others, root=found.root
    )
    return containers.checked(contents, source)


def _copied(value: Tensor | np.ndarray[Any, Any], what: str) -> Tensor:
    """Return a plain tensor of its own: training it must not change the given one."""
    if isinstance(value, np.ndarray):
        return to_torch(value.copy(), what)
    if value.is_meta or value.layout != torch.strided or value.is_quantized:
        raise UserError(
            f"{what} is a sparse, quantised or empty tensor; give plain ones"
        )
    return value.detach().to("cpu", copy=True).contiguous()


def _of_file(file: Any) -> tuple[str | None, str, Contents]:
    name = getattr(file, "name", None)
    short = Path(name).name if isinstance(name, str) else None
    source = f"the open file {short!r}" if short else "the open file"
    try:
        data = file.read()
    except (OSError, ValueError) as error:
        raise UserError(
            f"{source} cannot be read ({error}): open it in binary mode ('rb')"
        ) from error
    if not isinstance(data, bytes):
        raise UserError(f"{source} gives {type(data).__name__}: open it in binary mode")
    if not data:
        raise UserError(
            f"{source} has no bytes from where it stands: it is empty, or at its end; "
            "call seek(0) first"
        )
    return short, source, containers.read_bytes(io.BytesIO(data), source)
