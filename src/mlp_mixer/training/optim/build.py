"""Optimisers over a Mixer's parameters."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from ..config import OptimChoice
from .optimizers import Lion, LowPrecisionSGD, Muon

_DTYPES = {"auto": None, "fp32": torch.float32, "bf16": torch.bfloat16}


def build_optimizer(model: nn.Module, choice: OptimChoice) -> Optimizer:
    """The chosen optimiser over the parameters that learn; kernels (two or more axes)
    decay, biases and norms do not.

    Muon takes the kernels of the blocks. The stem maps pixels, the head makes logits:
    both stay with AdamW, as its author advises for embeddings and heads.
    """
    groups = _groups(model, choice)
    optimizer: Optimizer
    if choice.name == "lion":
        optimizer = Lion(groups, lr=choice.lr, betas=choice.lion_betas)
    elif choice.name == "muon":
        optimizer = Muon(
            groups,
            lr=choice.lr,
            momentum=choice.muon_momentum,
            nesterov=choice.muon_nesterov,
            ns_steps=choice.muon_ns_steps,
            adjust_lr=choice.muon_adjust_lr,
            dtype=_DTYPES[choice.muon_ns_dtype],
            betas=choice.betas,
        )
    elif choice.name == "sgd" and choice.momentum_dtype == "bf16":
        optimizer = LowPrecisionSGD(
            groups, lr=choice.lr, momentum=choice.momentum, nesterov=choice.nesterov
        )
    elif choice.name == "sgd":
        optimizer = SGD(
            groups, lr=choice.lr, momentum=choice.momentum, nesterov=choice.nesterov
        )
    else:
        optimizer = AdamW(groups, lr=choice.lr, betas=choice.betas, fused=True)
    set_lr(optimizer, choice.lr)
    return optimizer


def set_lr(optimizer: Optimizer, lr: float) -> None:
    """Give every group this learning rate, times its own `lr_scale` where it has one."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)


def decay_of_big_vision(decay: float, lr: float) -> float:
    """`weight_decay` for the `wd` of a google-research/big_vision configuration with
    learning rate `lr`.

    Its chain (`optax.py`) adds `wd * kernel` after the learning rate and before the
    schedule, torch's AdamW multiplies by both: 1e-4 at 1e-3 is the paper's 0.1. The two
    agree at every step as long as `lr` stays what it was here.
    """
    return decay / lr


def _groups(model: nn.Module, choice: OptimChoice) -> list[dict[str, Any]]:
    """Groups of equal treatment: matrices for Muon, then other kernels, then the rest;
    within each from the stem up.
    """
    heights = _heights(model)
    top = max(heights.values())
    by_height = choice.layer_decay < 1
    muon = choice.name == "muon"
    assert top > 1 or not (by_height or muon), (
        "their names tell the parts of a network: give it before it is wrapped"
    )
    groups: dict[tuple[int, int], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        kernel = parameter.ndim >= 2
        matrix = muon and parameter.ndim == 2 and name.startswith("blocks.")
        below = top - heights[name] if by_height else 0
        group = {
            "params": [],
            "weight_decay": choice.weight_decay if kernel else 0.0,
            "lr_scale": choice.layer_decay**below
            * (choice.muon_adamw_lr if muon and not matrix else 1.0),
            "matrices": matrix,
        }
        groups.setdefault((0 if matrix else 1 if kernel else 2, -below), group)[
            "params"
        ].append(parameter)
    return [group for _, group in sorted(groups.items())]


def _heights(model: nn.Module) -> dict[str, int]:
    """As timm counts for layer decay: stem 0, block i at i + 1, the last norm with the
    last block, the head above.
    """
    names = [name for name, _ in model.named_parameters()]
    blocks = {
        name: 1 + int(name.split(".")[1])
        for name in names
        if name.startswith("blocks.")
    }
    last = max(blocks.values(), default=0)
    rooms = {"stem": 0, "norm": last}
    return {
        name: blocks.get(name, rooms.get(name.split(".")[0], last + 1))
        for name in names
    }


class Ema:
    """Exponential moving average of the weights; young averages forget faster: decay
    min(d, (1 + t) / (10 + t)).
    """

    def __init__(self, model: nn.Module, average: nn.Module, decay: float) -> None:
        """model: whose weights are followed; average: a copy of it that will hold their
        average.
        """
        self.decay = decay
        self.online: list[Tensor] = list(model.parameters())
        self.average: list[Tensor] = list(average.parameters())

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move the average towards the weights after optimiser step number `step`
        (counted from 0).
        """
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.average, self.online, 1 - decay)
