"""The optimiser of a run, with its groups of parameters, and the average of weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from ...choices import Computed
from ..config import OptimChoice
from .lamb import Lamb
from .optimizers import Lion, LowPrecisionSGD, Muon

Named = Sequence[tuple[str, nn.Parameter]]
"""Parameters with their names."""

_DTYPES = {"auto": None, "fp32": torch.float32, "bf16": torch.bfloat16}


def build_optimizer(
    model: nn.Module,
    choice: OptimChoice,
    beside: nn.Module | None = None,
    precision: Computed = "fp32",
) -> Optimizer:
    """Return the chosen optimiser over the parameters that learn.

    Kernels decay (see `kernel_names`), all else does not. Muon takes the kernels of the
    blocks. The stem maps pixels, the head makes logits: both stay with AdamW, as
    its author advises for embeddings and heads.

    Args:
        model: The network, before it is wrapped: names tell its parts.
        choice: The settings.
        beside: What learns with it and is treated as a head is, such as a projection.
        precision: Of the run. Muon orthogonalises in bf16 where the run computes in it,
            on a CPU too, as `torch.optim.Muon` always does.
    """
    named = list(model.named_parameters())
    kernels = kernel_names(model)
    if beside is not None:
        named += beside.named_parameters(prefix="beside")
        kernels |= {f"beside.{name}" for name in kernel_names(beside)}
    groups = _groups(named, kernels, choice)
    iteration: str = choice.muon_ns_dtype
    if iteration == "auto" and precision == "bf16":
        iteration = "bf16"
    optimizer: Optimizer
    if choice.name == "lion":
        optimizer = Lion(groups, lr=choice.lr, betas=choice.lion_betas)
    elif choice.name == "lamb":
        optimizer = Lamb(groups, lr=choice.lr, betas=choice.betas)
    elif choice.name == "muon":
        optimizer = Muon(
            groups,
            lr=choice.lr,
            momentum=choice.muon_momentum,
            nesterov=choice.muon_nesterov,
            ns_steps=choice.muon_ns_steps,
            adjust_lr=choice.muon_adjust_lr,
            dtype=_DTYPES[iteration],
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
    """Give every group this learning rate, times its own `lr_scale` where it has one.

    Args:
        optimizer: The optimiser.
        lr: The learning rate of the head.
    """
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)


def decay_of_big_vision(decay: float, lr: float) -> float:
    """Translate the `wd` of a big_vision configuration into `weight_decay`.

    Its chain (`optax.py`) adds `wd * kernel` after the learning rate and before the
    schedule, torch's AdamW multiplies by both: 1e-4 at 1e-3 is the paper's 0.1. The two
    agree at every step as long as `lr` stays what it was here.

    Args:
        decay: Its `wd`.
        lr: Its learning rate.
    """
    return decay / lr


def kernel_names(network: nn.Module) -> set[str]:
    """Return the names of the kernels: of linear maps, convolutions and their like.

    Biases, norms, scales (LayerScale, ResMLP's affine maps), tokens and position
    embeddings are none, however many axes they have.

    Args:
        network: Before it is wrapped.
    """
    names = set()
    for place, module in network.named_modules():
        # The weight of a norm over two axes is no kernel.
        if "norm" in type(module).__name__.lower():
            continue
        for own_name, parameter in module.named_parameters(recurse=False):
            # By torch's convention a kernel is called `weight` or something_weight.
            if parameter.ndim >= 2 and "weight" in own_name:
                names.add(f"{place}.{own_name}" if place else own_name)
    return names


def _groups(
    named: Named, kernels: set[str], choice: OptimChoice
) -> list[dict[str, Any]]:
    """Return groups of parameters that are treated alike.

    Matrices for Muon come first, then other kernels, then the rest; within each, layers
    with a learning rate of their own from the stem up. A saved state has the
    optimiser's moments in this order.
    """
    heights = _heights([name for name, _ in named])
    top = max(heights.values())
    by_height = choice.layer_decay < 1
    muon = choice.name == "muon"
    assert top > 1 or not (by_height or muon), (
        "their names tell the parts of a network: give it before it is wrapped"
    )
    groups: dict[tuple[int, int], dict[str, Any]] = {}
    for name, parameter in named:
        if not parameter.requires_grad:
            continue
        kernel = name in kernels
        in_block = name.startswith("blocks.")
        matrix = muon and kernel and parameter.ndim == 2 and in_block
        kind = 2
        if kernel:
            kind = 0 if matrix else 1
        below_top = top - heights[name] if by_height else 0
        lr_scale = choice.layer_decay**below_top
        if muon and not matrix:
            lr_scale *= choice.muon_adamw_lr
        key = (kind, -below_top)
        if key not in groups:
            groups[key] = {
                "params": [],
                "weight_decay": choice.weight_decay if kernel else 0.0,
                "lr_scale": lr_scale,
                "matrices": matrix,
            }
        groups[key]["params"].append(parameter)
    return [groups[key] for key in sorted(groups)]


def _heights(names: Sequence[str]) -> dict[str, int]:
    """Return the height of each parameter's layer, as timm counts for layer decay.

    The stem is at 0, block i at i + 1, the last norm with the last block, and the head
    one above.
    """
    heights = {}
    for name in names:
        if name.startswith("blocks."):
            heights[name] = 1 + int(name.split(".")[1])
    last_block = max(heights.values(), default=0)
    others = {"stem": 0, "norm": last_block}
    for name in names:
        if name not in heights:
            part = name.split(".")[0]
            heights[name] = others.get(part, last_block + 1)
    return heights


class Ema:
    """Keeps an exponential moving average of the weights.

    The decay at step t is min(d, (1 + t) / (10 + t)): a young average forgets faster,
    so that the random weights of the beginning are not in it for long.
    """

    def __init__(self, model: nn.Module, average: nn.Module, decay: float) -> None:
        """Follow the weights of a model.

        Args:
            model: The network that learns.
            average: A copy of it, which will hold the average.
            decay: d.
        """
        self.decay = decay
        self.online: list[Tensor] = list(model.parameters())
        self.average: list[Tensor] = list(average.parameters())

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move the average towards the weights after a step of the optimiser.

        Args:
            step: Its number, counted from 0.
        """
        decay = min(self.decay, (1 + step) / (10 + step))
        # One call for all tensors: a loop over them would be slower than the step.
        torch._foreach_lerp_(self.average, self.online, 1 - decay)
