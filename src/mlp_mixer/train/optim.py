"""Optimisers over a Mixer's parameters."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from .config import OptimChoice


def build_optimizer(model: nn.Module, choice: OptimChoice) -> Optimizer:
    """The chosen optimiser in two groups: kernels (two or more axes) decay, biases and norms do not."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": choice.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    if choice.name == "sgd":
        return SGD(groups, lr=choice.lr, momentum=choice.momentum, nesterov=choice.nesterov)
    return AdamW(groups, lr=choice.lr, betas=choice.betas, fused=True)


def set_lr(optimizer: Optimizer, lr: float) -> None:
    """Give every group the same learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = lr


class Ema:
    """Exponential moving average of the weights; young averages forget faster: decay min(d, (1 + t) / (10 + t))."""

    def __init__(self, model: nn.Module, average: nn.Module, decay: float) -> None:
        """model: whose weights are followed; average: a copy of it that will hold their average."""
        self.decay = decay
        self.online: list[Tensor] = list(model.parameters())
        self.average: list[Tensor] = list(average.parameters())

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move the average towards the weights after optimiser step number `step` (counted from 0)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.average, self.online, 1 - decay)
