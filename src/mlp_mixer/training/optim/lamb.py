"""LAMB, the optimiser of ResMLP and of timm's A1 to A3."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer


class Lamb(Optimizer):
    """LAMB: the direction of Adam, as long as the parameter.

    You et al. 2019 (arXiv 1904.00962), as in timm and in NVIDIA's apex. With Adam's
    direction u: u += weight_decay p, and p -= lr (|p| / |u|) u. The lengths are those of
    the whole parameter. Without decay (biases and norms) it is Adam.
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        *,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
    ) -> None:
        """Prepare the groups.

        Args:
            groups: As torch's optimisers take them.
            lr: The learning rate.
            betas: Of Adam's moments.
            eps: What is added to the root of the second moment.
            weight_decay: The share of a parameter that is added to its direction.
        """
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(groups, defaults)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Take one step, as in torch, but without a closure."""
        assert closure is None
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._change(parameter, parameter.grad, group)

    def _change(
        self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]
    ) -> None:
        update = self._direction(parameter, gradient, group)
        if group["weight_decay"]:
            update.add_(parameter, alpha=group["weight_decay"])
            update.mul_(_trust(_length(parameter), _length(update)))
        parameter.add_(update, alpha=-group["lr"])

    def _direction(
        self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]
    ) -> Tensor:
        """Return Adam's direction, in a new tensor."""
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros(())
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        state["step"] += 1
        count = int(state["step"])
        first, second = group["betas"]
        mean = state["exp_avg"].lerp_(gradient, 1 - first)
        square = state["exp_avg_sq"].mul_(second)
        square.addcmul_(gradient, gradient, value=1 - second)
        size = square.sqrt().div_(math.sqrt(1 - second**count)).add_(group["eps"])
        return (mean / (1 - first**count)).div_(size)


def _length(tensor: Tensor) -> Tensor:
    norm = torch.linalg.vector_norm(tensor)
    # Of a parameter that is spread over processes: of all its parts.
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


def _trust(parameter: Tensor, update: Tensor) -> Tensor:
    """Return the ratio of two lengths; 1 where either is 0, as of a head of zeros."""
    usable = (parameter > 0) & (update > 0)
    return torch.where(usable, parameter / update, 1.0)
