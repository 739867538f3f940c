"""Which tensors do not have the shapes that an architecture asks for, in words.

The check is the same for every file. Only the words differ: a foreign file is told off
in its own names and layouts, so that its owner finds the tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ..errors import listed
from ..models.base import NetworkConfig
from ..models.families import build_network

Shape = tuple[int, ...]

InTheFile = Callable[[str, Tensor], tuple[str, Tensor]]
"""Our name and a tensor -> the file's name for it, and the tensor in its layout."""

_MOST_SHOWN = 8


def misfits(
    config: NetworkConfig,
    tensors: Mapping[str, Tensor],
    in_the_file: InTheFile = lambda name, tensor: (name, tensor),
) -> list[str]:
    """List the tensors that a network lacks, does not know, or has in another shape.

    Args:
        config: The architecture.
        tensors: The tensors under our names and in our layouts.
        in_the_file: How the file names and lays out one of them, for the messages.

    Returns:
        One phrase for each problem; empty if everything fits.
    """
    # Before any network is built: a file of a few bytes may claim a billion blocks.
    if config.num_blocks > len(tensors):
        return [f"{config.num_blocks} blocks in {len(tensors)} tensors"]
    with torch.device("meta"):
        expected = build_network(config).state_dict()
    problems = [f"missing {name}" for name in expected if name not in tensors]
    problems += [f"unexpected {name}" for name in tensors if name not in expected]
    wrong: dict[str, tuple[Shape, Shape]] = {}
    for name, tensor in tensors.items():
        if name in expected and tensor.shape != expected[name].shape:
            file_name, came = in_the_file(name, tensor)
            _, wanted = in_the_file(name, expected[name])
            wrong[file_name] = (tuple(came.shape), tuple(wanted.shape))
    return problems + _wrong_shapes(wrong)


def shown(problems: list[str]) -> str:
    """Return the first problems as one text, and how many more there are."""
    return listed(problems, _MOST_SHOWN)


def _wrong_shapes(wrong: Mapping[str, tuple[Shape, Shape]]) -> list[str]:
    """Say what came and what was expected, with a guess at the mistake."""
    # Of several tensors with the same pair of shapes the first is named, hence the
    # reversed order: a later entry overwrites an earlier one.
    by_shapes = {shapes: name for name, shapes in reversed(list(wrong.items()))}
    problems = []
    for name, (came, wanted) in wrong.items():
        partner = by_shapes.get((wanted, came))
        if came == wanted[::-1]:
            hint = " (transposed?)"
        elif partner:
            hint = f" (swapped with {partner}?)"
        else:
            hint = ""
        problems.append(f"{name} is {came}, expected {wanted}{hint}")
    return problems
