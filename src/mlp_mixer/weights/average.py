"""The average of several networks' weights: a model soup (arXiv 2203.05482).

Networks that were trained from the same beginning often lie in one valley of the loss;
the middle of it generalises better than its walls, and costs as much as one network.
Networks from other random weights do not: their average is useless.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..config import to_dict
from ..errors import UserError
from ..models.families import config_to_dict
from .checkpoint import StoredWeights
from .scores import score_kind

# Fields of an architecture that play no part once a network is trained.
_ONLY_IN_TRAINING = ("dropout", "drop_path")


def check_alike(ingredients: Mapping[str, StoredWeights]) -> None:
    """Check that networks can be averaged at all.

    Args:
        ingredients: Weights by a name for the error.

    Raises:
        UserError: Two of them have another architecture, preprocessing, head, or other
            classes, or one gives several labels per image.
    """
    for name, stored in ingredients.items():
        if "thresholds" in stored.provenance:
            raise UserError(
                f"{name!r} gives several labels per image, each from a threshold of its "
                "own on, and an average has none: use the best of the runs"
            )
    (first, wanted), *others = ingredients.items()
    for name, stored in others:
        difference = _difference(wanted, stored)
        if difference is not None:
            what, here, there = difference
            raise UserError(
                f"{first!r} and {name!r} cannot be averaged: {what} is {here} in the "
                f"first and {there} in the second; average runs of one recipe"
            )


def _difference(a: StoredWeights, b: StoredWeights) -> tuple[str, Any, Any] | None:
    """Return the first thing that differs, with its two values; None if nothing does."""
    parts = [
        ("", config_to_dict(a.config), config_to_dict(b.config)),
        ("preprocess.", to_dict(a.preprocess), to_dict(b.preprocess)),
    ]
    for prefix, here, there in parts:
        # A family may be left out, where it is a Mixer.
        for key in sorted({*here, *there}):
            if key not in _ONLY_IN_TRAINING and here.get(key) != there.get(key):
                return f"{prefix}{key}", here.get(key), there.get(key)
    heads = score_kind(a.provenance), score_kind(b.provenance)
    if heads[0] != heads[1]:
        return "the kind of head", *heads
    # Of files that name no classes the numbers are all that can be compared.
    if a.labels is None or b.labels is None:
        return None
    for number, pair in enumerate(zip(a.labels, b.labels, strict=True)):
        if pair[0] != pair[1]:
            return f"class {number}", repr(pair[0]), repr(pair[1])
    return None


def mean_weights(ingredients: Sequence[StoredWeights]) -> StoredWeights:
    """Return the uniform average of networks that are alike, in fp32.

    Args:
        ingredients: At least one.

    Returns:
        The weights, with the architecture, preprocessing and classes of the first, and
        no provenance.
    """
    first = ingredients[0]
    tensors = {}
    for name in first.tensors:
        tensors[name] = _mean([stored.tensors[name] for stored in ingredients])
    labels = next((one.labels for one in ingredients if one.labels), None)
    return replace(
        first, tensors=tensors, labels=labels, provenance={}, lineage="native"
    )


def _mean(tensors: Sequence[Tensor]) -> Tensor:
    # One tensor at a time, so doubles cost no memory, and copies of one network give
    # that network again.
    total = tensors[0].to(torch.float64, copy=True)
    for tensor in tensors[1:]:
        total += tensor
    return (total / len(tensors)).to(torch.float32)
