"""Sharpness-aware minimisation: SAM (Foret et al., 2020, arXiv 2010.01412) and GSAM
(Zhuang et al., 2022, 2203.08065).

As in google-research/big_vision (`trainers/proj/gsam/gsam.py`), from which the
published GSAM Mixers come.
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
    """Add the SAM or GSAM gradient to `.grad`, as `backward` would the plain one; gives
    the mean loss at the weights.

    Each micro-batch has its own ascent step ("m-sharpness", m its number of images):
    with g the gradient of its mean loss at w, and g_s that at w + rho g / |g|, it
    contributes g_s - alpha (g - <g, g_s> g_s / |g_s|^2), and all of them weigh the
    same. alpha = 0 is SAM. Both gradients see the same random numbers, and the
    generators are left as after one pass. The weights end with the bits that they had,
    also after an error.

    model: what `loss_of` calls, under `DistributedDataParallel` the wrapper. As in the
        original, ascent steps are not
    shared between processes; only the result is averaged over them, here, so that
    nothing is left to reduce and k processes with one micro-batch each do what one
    process with k does.
    loss_of: the mean loss of a micro-batch; is called twice for each. Under `autocast`,
        inside or outside.
    Raises `UserError` for sharded weights, of which no process has a whole gradient.
    """
    parameters: list[Tensor] = [
        parameter for parameter in model.parameters() if parameter.requires_grad
    ]
    if any(isinstance(parameter, DTensor) for parameter in parameters):
        raise UserError(
            "sharpness-aware minimisation needs whole weights in each process; shard none, or set optim.rho=0"
        )
    weights = [parameter.detach().clone() for parameter in parameters]
    total = [torch.zeros_like(parameter) for parameter in parameters]
    losses = []
    with (
        model.no_sync() if isinstance(model, DistributedDataParallel) else nullcontext()
    ):
        for micro_batch in micro_batches:
            with _same_random_numbers_afterwards(parameters[0].device):
                loss, clean = _gradients(loss_of, micro_batch, parameters)
            try:
                ascent = torch._foreach_mul(clean, rho / (get_total_norm(clean) + _EPS))
                _change(torch._foreach_add_, parameters, ascent)
                _, robust = _gradients(loss_of, micro_batch, parameters)
            finally:
                _change(torch._foreach_copy_, parameters, weights)
            torch._foreach_add_(
                total, _decompose(clean, robust, alpha) if alpha else robust
            )
            losses.append(loss)
    torch._foreach_div_(total, len(micro_batches))
    for parameter, gradient in zip(parameters, total, strict=True):
        all_reduce_mean(gradient)
        parameter.grad = (
            gradient if parameter.grad is None else parameter.grad + gradient
        )
    return torch.stack(losses).mean()


def rho_at(factor: float, choice: OptimChoice, schedule: ScheduleChoice) -> float:
    """The length of the ascent step where the learning rate is `factor` of its peak, of
    which `final` is the least.

    GSAM lets it fall with the learning rate, from `rho` to `rho_min`; early in the
    warm-up it may be a little less.
    """
    least = choice.rho if choice.rho_min is None else choice.rho_min
    if schedule.final == 1:
        return choice.rho
    return max(
        0.0,
        least + (choice.rho - least) * (factor - schedule.final) / (1 - schedule.final),
    )


def _gradients(
    loss_of: Callable[[MicroBatch], Tensor],
    micro_batch: MicroBatch,
    parameters: list[Tensor],
) -> tuple[Tensor, Tensors]:
    """The loss and its gradient, without touching `.grad` or waking what waits for it
    to be filled.
    """
    loss = loss_of(micro_batch)
    return loss.detach(), torch.autograd.grad(loss, parameters)


@torch.no_grad()
def _change(how: Callable[..., Any], parameters: list[Tensor], values: Tensors) -> None:
    """Change the weights, and let an autocast that surrounds us forget what it has made
    of the old ones.
    """
    how(parameters, values)
    torch.clear_autocast_cache()


def _decompose(clean: Tensors, robust: Tensors, alpha: float) -> Tensors:
    """The gradient at the perturbed weights, minus alpha times what of the clean one is
    orthogonal to it.
    """
    norm = get_total_norm(robust) + _EPS
    along = (
        torch.stack(
            [
                torch.dot(g.flatten(), s.flatten())
                for g, s in zip(clean, robust, strict=True)
            ]
        ).sum()
        / norm
    )
    orthogonal = torch._foreach_sub(clean, torch._foreach_mul(robust, along / norm))
    return torch._foreach_sub(robust, orthogonal, alpha=alpha)


def _same_random_numbers_afterwards(
    device: torch.device,
) -> AbstractContextManager[None]:
    """What is drawn inside is drawn again after it."""
    if device.type == "cpu":
        return torch.random.fork_rng(devices=[])
    return torch.random.fork_rng(devices=[device], device_type=device.type)
