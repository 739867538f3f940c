"""Sharpness-aware minimisation: gradients at weights where the loss is higher.

SAM (Foret et al. 2020, arXiv 2010.01412) and GSAM (Zhuang et al. 2022, arXiv
2203.08065), as in google-research/big_vision (`trainers/proj/gsam/gsam.py`), from which
the published GSAM Mixers come.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import get_total_norm

from ...distributed import all_reduce_mean
from ...errors import UserError
from ..config import OptimChoice, ScheduleChoice

MicroBatch = TypeVar("MicroBatch")
Tensors = tuple[Tensor, ...] | list[Tensor]
_EPS = 1e-12


def sharpness_gradients(
    model: nn.Module,
    loss_of: Callable[[MicroBatch], Tensor],
    micro_batches: Sequence[MicroBatch],
    *,
    rho: float,
    alpha: float = 0.0,
) -> Tensor:
    """Add the SAM or GSAM gradient to `.grad`, as `backward` would the plain one.

    Each micro-batch has its own ascent step ("m-sharpness", m its number of images).
    With g the gradient of its mean loss at the weights w, and g_s that at
    w + rho g / |g|, it contributes g_s - alpha (g - <g, g_s> g_s / |g_s|^2), and all
    micro-batches weigh the same. alpha = 0 is SAM.

    Both gradients see the same random numbers, and the generators are left as after one
    pass. The weights end with the bits that they had, also after an error.

    As in the original, ascent steps are not shared between processes. Only the result
    is averaged over them, here, so that nothing is left to reduce, and k processes with
    one micro-batch each do what one process with k does.

    Args:
        model: What `loss_of` calls; under `DistributedDataParallel` the wrapper.
        loss_of: Gives the mean loss of a micro-batch; is called twice for each. Under
            `autocast`, inside or outside.
        micro_batches: What `loss_of` takes.
        rho: The length of the ascent step.
        alpha: How strongly GSAM closes the surrogate gap.

    Returns:
        The mean loss at the weights.

    Raises:
        UserError: The weights are sharded, so that no process has a whole gradient.
    """
    parameters: list[Tensor] = [
        parameter for parameter in model.parameters() if parameter.requires_grad
    ]
    if any(isinstance(parameter, DTensor) for parameter in parameters):
        raise UserError(
            "sharpness-aware minimisation needs whole weights in each process; do not "
            "shard them, or set optim.rho=0"
        )
    # Going back by subtraction would round; a copy has the bits that were there.
    weights = [parameter.detach().clone() for parameter in parameters]
    total = [torch.zeros_like(parameter) for parameter in parameters]
    losses = []
    with _no_exchange(model):
        for micro_batch in micro_batches:
            with _same_random_numbers_afterwards(parameters[0].device):
                loss, clean = _gradients(loss_of, micro_batch, parameters)
            try:
                scale = rho / (get_total_norm(clean) + _EPS)
                ascent = torch._foreach_mul(clean, scale)
                _change(torch._foreach_add_, parameters, ascent)
                _, robust = _gradients(loss_of, micro_batch, parameters)
            finally:
                _change(torch._foreach_copy_, parameters, weights)
            if alpha:
                robust = _decompose(clean, robust, alpha)
            torch._foreach_add_(total, robust)
            losses.append(loss)
    torch._foreach_div_(total, len(micro_batches))
    for parameter, gradient in zip(parameters, total, strict=True):
        all_reduce_mean(gradient)
        if parameter.grad is None:
            parameter.grad = gradient
        else:
            parameter.grad = parameter.grad + gradient
    return torch.stack(losses).mean()


def rho_at(factor: float, choice: OptimChoice, schedule: ScheduleChoice) -> float:
    """Return the length of the ascent step where the learning rate has a given factor.

    GSAM lets it fall with the learning rate, from `rho` to `rho_min`; early in the
    warm-up it may be a little less.

    Args:
        factor: The learning rate in units of its peak; `schedule.final` is the least.
        choice: Holds `rho` and `rho_min`.
        schedule: Holds `final`.
    """
    # A rate that stays at its peak leaves nothing to follow.
    if schedule.final == 1:
        return choice.rho
    least = choice.rho if choice.rho_min is None else choice.rho_min
    fallen = (choice.rho - least) * (factor - schedule.final) / (1 - schedule.final)
    return max(0.0, least + fallen)


def _no_exchange(model: nn.Module) -> AbstractContextManager[Any]:
    """Keep gradients in this process for the block."""
    if isinstance(model, DistributedDataParallel):
        return model.no_sync()
    return nullcontext()


def _gradients(
    loss_of: Callable[[MicroBatch], Tensor],
    micro_batch: MicroBatch,
    parameters: list[Tensor],
) -> tuple[Tensor, Tensors]:
    """Return the loss and its gradient; `.grad` and the hooks on it are left alone."""
    loss = loss_of(micro_batch)
    return loss.detach(), torch.autograd.grad(loss, parameters)


@torch.no_grad()
def _change(how: Callable[..., Any], parameters: list[Tensor], values: Tensors) -> None:
    """Change the weights in place."""
    how(parameters, values)
    # An autocast around us keeps bf16 copies of the weights for the whole block. It
    # would compute the second gradient with copies of the old ones.
    torch.clear_autocast_cache()


def _decompose(clean: Tensors, robust: Tensors, alpha: float) -> Tensors:
    """Return robust - alpha times the part of clean that is orthogonal to robust."""
    norm = get_total_norm(robust) + _EPS
    products = []
    for g, s in zip(clean, robust, strict=True):
        products.append(torch.dot(g.flatten(), s.flatten()))
    along = torch.stack(products).sum() / norm
    orthogonal = torch._foreach_sub(clean, torch._foreach_mul(robust, along / norm))
    return torch._foreach_sub(robust, orthogonal, alpha=alpha)


def _same_random_numbers_afterwards(
    device: torch.device,
) -> AbstractContextManager[None]:
    """Let what is drawn inside the block be drawn again after it."""
    if device.type == "cpu":
        return torch.random.fork_rng(devices=[])
    return torch.random.fork_rng(devices=[device], device_type=device.type)
