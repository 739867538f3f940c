"""How tests compare weights, and how they compare what two programs compute.

Weights that were copied, renamed or permuted are equal to the bit. Results are not: two
programs add in another order, and so does one program on another processor, with other
threads or with its weights at other addresses. In float32 that noise (5e-6 on logits of
about 1) is as large as what a wrong epsilon changes (2e-6), and a wrong GELU changes
small networks by less. In float64 the noise is 1e-15, and neither can hide.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

# Of the largest logit.
ROUNDING_32 = 1e-5
ROUNDING_64 = 1e-12


def assert_same_weights(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> None:
    """The same names, and under each the same dtype, shape and bits."""
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert tensor.dtype == other[name].dtype, name
        assert tensor.shape == other[name].shape, name
        assert torch.equal(bits(tensor), bits(other[name])), name


def bits(tensor: Tensor) -> Tensor:
    """The bytes of a tensor, which also tell 0 from -0."""
    return tensor.detach().contiguous().flatten().view(torch.uint8)


def assert_same_network(one: Any, other: Any) -> None:
    """Two networks of this package: the same architecture and weights."""
    assert one.config == other.config
    assert_same_weights(one.state_dict(), other.state_dict())


def assert_same_function(
    ours: nn.Module,
    theirs: nn.Module,
    images: Tensor,
    answer: Callable[[Any], Tensor] = lambda output: output,
) -> None:
    """Two programs with the same weights compute the same logits, up to rounding.

    `answer` takes their tensor out of what the other program returns.
    """
    single = difference(ours(images), answer(theirs(images)))
    assert single <= ROUNDING_32, single
    exact = difference(in_float64(ours)(images), answer(in_float64(theirs)(images)))
    assert exact <= ROUNDING_64, exact


def difference(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference of two results, as a part of the largest number."""
    assert ours.shape == theirs.shape
    return float((ours - theirs).abs().max() / theirs.abs().max())


def in_float64(network: nn.Module) -> Callable[[Tensor], Any]:
    """A copy of the network that computes in float64, with exactly its weights."""
    exact = copy.deepcopy(network).double()
    return lambda images: exact(images.double())
