"""In which precision a run computes: chosen once, and kept when the run is resumed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ..choices import Computed
from ..devices import (
    LEAST_BF16_GAIN,
    Product,
    bf16_gain,
    computed_in,
    cpu_computes_bf16,
)
from ..distributed import all_gather
from ..models import IsotropicMlp
from .config import LoopChoice

# Multiply-accumulates of the trial: some milliseconds of a core in fp32.
_TRIAL_WORK = 2**26


def settle_precision(
    choice: LoopChoice,
    device: torch.device,
    model: IsotropicMlp,
    kept: Computed | None = None,
) -> tuple[Computed, tuple[str, ...]]:
    """Return what a run computes in, the same in all its processes.

    Args:
        choice: The loop; its `precision` may leave the choice to this machine.
        device: Where it computes.
        model: The network, whose largest product is tried on a CPU.
        kept: What the run has computed in so far, if it is resumed: its bits depend on
            it, so it stays, even where it is slower.

    Returns:
        The precision, and notes for the journal where it is not the usual one.
    """
    if choice.precision != "auto":
        return computed_in(choice.precision, device), ()
    product = largest_product(model, choice.batch_size)
    if kept is not None:
        return kept, _notes_on_kept(kept, device, product)
    mine = computed_in("auto", device, product)
    # Processes on unlike machines must agree.
    precision: Computed = "bf16"
    if "fp32" in all_gather(mine):
        precision = "fp32"
    notes: tuple[str, ...] = ()
    if device.type == "cpu" and precision == "bf16":
        gain = bf16_gain(product)
        notes = (f"it computes in bf16: products are {gain:.1f} times as fast here",)
    return precision, notes


def _notes_on_kept(
    kept: Computed, device: torch.device, product: Product
) -> tuple[str, ...]:
    """Say where a kept precision is slow on this machine."""
    if device.type != "cpu" or kept != "bf16":
        return ()
    gain = bf16_gain(product)
    if gain >= LEAST_BF16_GAIN:
        return ()
    return (
        f"it goes on in bf16, in which it began, though products are {gain:.2f} times as "
        "fast as in fp32 here",
    )


def largest_product(model: IsotropicMlp, images: int) -> Product:
    """Return the largest matrix product of a block, with as many rows as a trial needs.

    Args:
        model: The network.
        images: In a batch.
    """
    kernels = [weight for weight in model.blocks.parameters() if weight.ndim == 2]
    outer, inner = max(kernels, key=torch.Tensor.numel).shape
    rows = min(images * model.config.num_patches, _TRIAL_WORK // (outer * inner))
    return max(1, rows), inner, outer


def precision_of_state(
    made_with: Mapping[str, Any], config: Mapping[str, Any], device: torch.device
) -> Computed | None:
    """Return what a saved run computed in; None if its settings say it.

    Args:
        made_with: Of the state.
        config: Of the state, as it was written.
        device: Where the run goes on.
    """
    found = made_with.get("precision")
    if found in ("fp32", "bf16"):
        return "bf16" if found == "bf16" else "fp32"
    # Versions without such a record knew no trial: on a CPU "auto" was fp32, and "fast"
    # believed the processor.
    train = config.get("train")
    word = train.get("precision") if isinstance(train, Mapping) else None
    if word not in ("auto", "fast", None):
        return None
    if device.type != "cpu":
        return computed_in("auto", device)
    return "bf16" if word == "fast" and cpu_computes_bf16() else "fp32"
