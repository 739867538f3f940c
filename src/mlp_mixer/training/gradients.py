"""Look at gradients: their norms by block, and steps whose gradient is far too long."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

WINDOW = 100
"""Steps whose gradients say what is usual."""

_FEWEST = 20  # of them, before which nothing is a spike


def total_norm(parameters: Sequence[nn.Parameter]) -> Tensor:
    """Return the norm of the gradient over some parameters, whole where it is sharded.

    Args:
        parameters: Those without a gradient count as zeros.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


def block_norms(model: nn.Module, beside: nn.Module | None) -> dict[str, Tensor]:
    """Return the norm of the gradient of each block, and of what is around the blocks.

    The root of the sum of their squares is the norm of the whole gradient.

    Args:
        model: The network.
        beside: What learns beside it, if anything does; it is called "beside".

    Returns:
        Scalars on the model's device by name: "stem", "blocks.0", ..., "norm", "head".
    """
    groups: dict[str, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        first, second = name.split(".")[:2]
        key = f"{first}.{second}" if first == "blocks" else first
        groups.setdefault(key, []).append(parameter)
    if beside is not None:
        groups["beside"] = list(beside.parameters())
    return {key: total_norm(group) for key, group in groups.items()}


class SpikeWatch:
    """Tells which gradients are far longer than usual.

    A gradient is a spike if its norm is more than `factor` times the median of the
    norms of the last `WINDOW` steps. The median, because a few spikes must not become
    what is usual; and all steps count, because a lasting change must.

    ZClip (arXiv 2504.02507) compares with recent norms likewise, by mean and standard
    deviation. PaLM (arXiv 2204.02311, section 5.1) leaves the batches of spikes out.

    Attributes:
        norms: Of the last steps, the newest last: what a saved state must hold.
    """

    def __init__(self, factor: float) -> None:
        """Know nothing yet.

        Args:
            factor: Times the median.
        """
        self.factor = factor
        self.norms: list[float] = []

    def check(self, norm: float) -> str:
        """Count a step; return in words why its gradient is a spike, "" if it is none.

        Args:
            norm: Of its gradient. One that is not finite is left to `train.nonfinite`.
        """
        if not math.isfinite(norm):
            return ""
        words = ""
        if len(self.norms) >= _FEWEST:
            usual = statistics.median(self.norms)
            if norm > self.factor * usual:
                words = (
                    f"the gradient's norm is {norm:.4g}, more than {self.factor:g} times "
                    f"the median of the last {len(self.norms)} steps ({usual:.4g})"
                )
        self.norms = [*self.norms, norm][-WINDOW:]
        return words
