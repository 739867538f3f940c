"""Fused token mixing as operators of torch: `mlp_mixer::token_mix` and its gradient.

`torch.compile` and `torch.export` see only the shapes of these operators, and place
them in their graphs as they are. They are differentiable once. Axes as in `launch`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .launch import backward, forward

# The schemas are written out, since torch infers none from `tuple[Tensor, ...]`.
token_mix = torch.library.custom_op(
    "mlp_mixer::token_mix",
    forward,
    mutates_args=(),
    schema="(Tensor x, Tensor gamma, Tensor beta, Tensor w1, Tensor b1, Tensor w2, "
    "Tensor b2, Tensor? scale, float eps, bool tanh, bool deterministic) -> "
    "(Tensor, Tensor, Tensor)",
)
token_mix_backward = torch.library.custom_op(
    "mlp_mixer::token_mix_backward",
    backward,
    mutates_args=(),
    schema="(Tensor dy, Tensor x, Tensor mean, Tensor rstd, Tensor gamma, Tensor beta, "
    "Tensor w1, Tensor b1, Tensor w2, Tensor? scale, bool tanh, bool deterministic, "
    "bool weights) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)


# "Fake" kernels tell torch.compile the shapes and dtypes of the results.
@token_mix.register_fake
def _(x: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    statistics = x.new_empty(x.shape[:2], dtype=torch.float32)
    return torch.empty_like(x), statistics, torch.empty_like(statistics)


@token_mix_backward.register_fake
def _(
    dy: Tensor, x: Tensor, mean: Tensor, rstd: Tensor, *inputs: Any
) -> tuple[Tensor, ...]:
    gamma, beta, *weights = inputs[:5]
    like = [torch.empty_like(tensor) for tensor in (x, gamma, beta)]
    for weight in weights:
        # The last argument says whether the gradients of the weights are wanted.
        like.append(torch.empty_like(weight) if inputs[-1] else weight.new_empty(0))
    return (*like, weights[-1].new_empty(x.shape[1]))


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, gamma, beta, w1, b1, w2, _, scale, _, ctx.tanh, ctx.deterministic = inputs
    _, mean, rstd = output
    ctx.save_for_backward(x, mean, rstd, gamma, beta, w1, b1, w2, scale)


def _gradients(ctx: Any, dy: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
    needed = ctx.needs_input_grad[:7]
    # Those of w1, b1 and w2, which two kernels sum.
    weights = any(needed[3:6])
    options = (ctx.tanh, ctx.deterministic, weights)
    grads = token_mix_backward(dy, *ctx.saved_tensors, *options)
    wanted = [grad if need else None for grad, need in zip(grads, needed, strict=True)]
    # scale, eps, tanh and deterministic have no gradients.
    return (*wanted, None, None, None, None)


token_mix.register_autograd(_gradients, setup_context=_keep)
