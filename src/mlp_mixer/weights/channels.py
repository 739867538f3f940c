"""Weights for images of another number of channels: gray, or many bands.

Only the kernels of the stem know the channels. The rule is timm's (`in_chans`): for one
channel they are summed, which is what the network does with a gray image in all of its
channels; for more they are repeated and scaled, so that the sum over channels keeps its
size. It is a beginning to fine-tune from: for other bands nothing has been learnt.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from jaxtyping import Float
from torch import Tensor

from ..config import plain_numbers
from ..errors import UserError
from .checkpoint import StoredWeights

_STEM = "stem.proj.weight"


def with_channels(stored: StoredWeights, channels: int) -> StoredWeights:
    """Return weights that take images of another number of channels.

    Args:
        stored: The weights.
        channels: Of the images; the weights themselves come back if it is theirs.

    Raises:
        UserError: It is no number of channels.
    """
    count = plain_numbers(channels)
    if type(count) is not int or count < 1:
        raise UserError(
            f"the number of channels is {channels!r}: expected 1 (gray), 3 (RGB) or more"
        )
    before = stored.config.in_channels
    if count == before:
        return stored
    tensors = dict(stored.tensors)
    tensors[_STEM] = adapted(tensors[_STEM], count)
    how = "summed" if count == 1 else f"repeated and scaled by {before}/{count}"
    note = f"made for {before} channels: the stem's kernels are {how} for {count}"
    return replace(
        stored,
        config=replace(stored.config, in_channels=count),
        tensors=tensors,
        preprocess=replace(
            stored.preprocess,
            channels=count,
            mean=_of_channels(stored.preprocess.mean, count),
            std=_of_channels(stored.preprocess.std, count),
        ),
        provenance=_noted(stored.provenance, note),
    )


def adapted(
    kernel: Float[Tensor, "C in_channels P P"], channels: int
) -> Float[Tensor, "C channels P P"]:
    """Return the kernels of a stem for another number of channels.

    Args:
        kernel: The stem's weight.
        channels: How many it shall take.

    Returns:
        The kernels in the same dtype, computed in fp32.
    """
    before = kernel.shape[1]
    values = kernel.float()
    if channels == 1:
        return values.sum(dim=1, keepdim=True).to(kernel.dtype)
    copies = -(-channels // before)
    repeated = values.repeat(1, copies, 1, 1)[:, :channels]
    return (repeated * (before / channels)).to(kernel.dtype).contiguous()


def _of_channels(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    """Return a mean or deviation for all channels: the mean of the old ones."""
    if len(set(values)) == 1:
        return values[:1] * channels
    return (sum(values) / len(values),) * channels


def _noted(provenance: dict[str, Any], note: str) -> dict[str, Any]:
    before = provenance.get("notes")
    notes = before if isinstance(before, list) else []
    return {**provenance, "notes": [*notes, note]}
