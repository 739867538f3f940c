"""Fused token mixing as operators of torch: `mlp_mixer::token_mix` and its gradient.

They are opaque to `torch.compile` and `torch.export`, which see shapes only, and
differentiable once. The backward pass keeps x and the statistics of its tokens (2
numbers each), and computes the hidden values again.

Axes: B batch, S patches (tokens), C channels, D tokens_mlp_dim; SP and DP padded (see
    `triton_kernels`).
"""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor

from . import triton_kernels as kernels
from .tiles import MOST_TOKENS, PROGRAMS, padded, padded_hidden, parts, tile_for

INTERPRETED = not isinstance(
    kernels.forward, triton.JITFunction
)  # TRITON_INTERPRET=1: on the CPU, to test
DTYPES = (
    (torch.float32, torch.float16)
    if INTERPRETED
    else (torch.float32, torch.float16, torch.bfloat16)
)


def forward(
    x: Tensor, gamma: Tensor, beta: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, scale: Tensor | None,
    eps: float, tanh: bool, deterministic: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """x + scale (W2 gelu(W1 LN(x) + b1) + b2), with the mean and the reciprocal
    deviation of each token (B, S).

    x (B, S, C), contiguous, at most 256 tokens; its dtype is that of the products,
    whose sums are float32. gamma, beta (C); w1 (D, S), b1 (D), w2 (S, D), b2 (S): as in
    `nn.LayerNorm` and `nn.Linear`, of any float dtype. scale (B): each image's factor
    of the branch, for stochastic depth; it gets no gradient.
    tanh: the tanh form of GELU, else erf. deterministic: the gradients' sums have a
        fixed order.
    """
    B, S, C = x.shape
    assert x.is_contiguous(), x.stride()
    assert S <= MOST_TOKENS, S
    D = w1.shape[0]
    SP = sum(parts(S))
    tile = tile_for("forward", S, D, 8 * x.element_size(), roomy=_roomy(x))
    mean, rstd = (x.new_empty(B, S, dtype=torch.float32) for _ in range(2))
    y = torch.empty_like(x)
    with torch.cuda.device(x.get_device()):
        channels = padded(C)
        rows = max(1, 2048 // channels)
        _run(
            kernels.statistics,
            (triton.cdiv(B * S, rows),),
            x,
            mean,
            rstd,
            B * S,
            eps,
            C=C,
            BR=rows,
            CP=channels,
        )
        packed = _pack(w1, w2, x.dtype)
        _run(
            kernels.forward, (B * triton.cdiv(C, tile.channels),),
            x, mean, rstd, gamma, beta, packed[0], b1, packed[1], b2, scale, y,
            S=S, C=C, D=D, SP=SP, PARTS=parts(S), BC=tile.channels, BD=tile.hidden, TANH=tanh, SCALED=scale is not None,
            PRECISION=float32_products(), num_warps=tile.warps, num_stages=tile.stages,
        )  # fmt: skip
    return y, mean, rstd


def backward(
    dy: Tensor, x: Tensor, mean: Tensor, rstd: Tensor, gamma: Tensor, beta: Tensor, w1: Tensor, b1: Tensor, w2: Tensor,
    scale: Tensor | None, tanh: bool, deterministic: bool,
) -> tuple[Tensor, ...]:  # fmt: skip
    """The gradients of x, gamma, beta, w1, b1, w2 and b2, the sums over the batch in
    float32 before any rounding.
    """
    B, S, C = x.shape
    D = w1.shape[0]
    SP = sum(parts(S))
    bits = 8 * x.element_size()
    scaled = scale is not None
    DP = padded_hidden(D)
    precision = float32_products()
    dy = dy.contiguous()
    h, g = x.new_empty(
        2, B, C, DP
    )  # of this block alone, and only until this function returns
    dxn = torch.empty_like(x)
    dx = torch.empty_like(x)
    with torch.cuda.device(x.get_device()):
        packed = _pack(w1, w2, x.dtype)
        tile = tile_for("backward", S, D, bits, roomy=_roomy(x))
        _run(
            kernels.backward, (B * triton.cdiv(C, tile.channels),),
            x, mean, rstd, gamma, beta, packed[0], b1, packed[1], scale, dy, h, g, dxn,
            S=S, C=C, D=D, SP=SP, DP=DP, PARTS=parts(S), BC=tile.channels, BD=tile.hidden, TANH=tanh, SCALED=scaled,
            PRECISION=precision, num_warps=tile.warps, num_stages=tile.stages,
        )  # fmt: skip

        tile = tile_for("weights", S, D, bits, roomy=_roomy(x))
        steps = B * triton.cdiv(C, tile.channels)
        blocks = DP // tile.hidden
        share = triton.cdiv(steps, max(1, PROGRAMS // blocks))
        programs = triton.cdiv(steps, share)
        slices = programs if deterministic else 1
        new = torch.empty if deterministic else torch.zeros
        dw1, dv = new(2, slices, DP, SP, dtype=torch.float32, device=x.device)
        db1 = new(slices, DP, dtype=torch.float32, device=x.device)
        for left, right, grad in ((g, x, dw1), (h, dy, dv)):
            _run(
                kernels.weight_gradient, (blocks, programs),
                left, right, mean, rstd, gamma, beta, scale, grad, db1, steps, share,
                S=S, C=C, SP=SP, DP=DP, PARTS=parts(S), BC=tile.channels, BD=tile.hidden, OF_W1=left is g,
                SCALED=scaled, ATOMIC=not deterministic, PRECISION=precision, num_warps=tile.warps,
                num_stages=tile.stages,
            )  # fmt: skip

        channels = padded(C)
        rows = max(1, 2048 // channels)
        share = rows * triton.cdiv(B * S, rows * 8 * PROGRAMS)
        programs = triton.cdiv(B * S, share)
        dgamma, dbeta = (
            x.new_empty(programs, C, dtype=torch.float32) for _ in range(2)
        )
        row_sums = x.new_empty(B, S, dtype=torch.float32)
        _run(
            kernels.norm_backward, (programs,),
            x, mean, rstd, gamma, dxn, dy, scale, dx, dgamma, dbeta, row_sums, B * S, share,
            S=S, C=C, BR=rows, CP=channels, SCALED=scaled,
        )  # fmt: skip
    return (
        dx,
        dgamma.sum(0).to(gamma.dtype),
        dbeta.sum(0).to(beta.dtype),
        dw1.sum(0)[:D, :S].to(w1.dtype).contiguous(),
        db1.sum(0)[:D].to(b1.dtype).clone(),
        dv.sum(0)[:D, :S].t().to(w2.dtype).contiguous(),
        row_sums.sum(0).to(w2.dtype),
    )


def _pack(w1: Tensor, w2: Tensor, dtype: torch.dtype) -> Tensor:
    """Both weights as (2, DP, SP), zero where padded: aligned rows for any S, and no
    masks in the inner loops.
    """
    D, S = w1.shape
    DP = padded_hidden(D)
    SP = sum(parts(S))
    packed = w1.new_empty(2, DP, SP, dtype=dtype)
    grid = DP // 16, SP // 16
    _run(
        kernels.pack,
        grid,
        w1.contiguous(),
        w2.contiguous(),
        packed[0],
        packed[1],
        S=S,
        D=D,
        SP=SP,
    )
    return packed


def _run(kernel: Any, grid: tuple[int, ...], *args: Any, **constants: Any) -> None:
    kernel[grid](
        *args, **constants, enable_fp_fusion=True
    )  # else Triton 3.9 warns that its default will change


def _roomy(x: Tensor) -> bool:
    return (
        not x.is_cuda
        or torch.cuda.get_device_properties(x.device).shared_memory_per_block_optin
        >= 200 * 1024
    )


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]  # Dynamo cannot trace it
def float32_products() -> str:
    """How products of float32 are taken: as torch takes its own, "tf32" or "ieee"."""
    return "tf32" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "ieee"


token_mix = torch.library.custom_op(
    "mlp_mixer::token_mix",
    forward,
    mutates_args=(),
    schema="(Tensor x, Tensor gamma, Tensor beta, Tensor w1, Tensor b1, Tensor w2, Tensor b2, Tensor? scale, "
    "float eps, bool tanh, bool deterministic) -> (Tensor, Tensor, Tensor)",
)
token_mix_backward = torch.library.custom_op(
    "mlp_mixer::token_mix_backward",
    backward,
    mutates_args=(),
    schema="(Tensor dy, Tensor x, Tensor mean, Tensor rstd, Tensor gamma, Tensor beta, Tensor w1, Tensor b1, "
    "Tensor w2, Tensor? scale, bool tanh, bool deterministic) -> "
    "(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)


@token_mix.register_fake
def _(x: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    statistics = x.new_empty(x.shape[:2], dtype=torch.float32)
    return torch.empty_like(x), statistics, torch.empty_like(statistics)


@token_mix_backward.register_fake
def _(
    dy: Tensor, x: Tensor, mean: Tensor, rstd: Tensor, *inputs: Any
) -> tuple[Tensor, ...]:
    gamma, beta, w1, b1, w2 = inputs[:5]
    return (
        *map(torch.empty_like, (x, gamma, beta, w1, b1, w2)),
        w2.new_empty(x.shape[1]),
    )


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, gamma, beta, w1, b1, w2, _, scale, _, ctx.tanh, ctx.deterministic = inputs
    ctx.save_for_backward(x, output[1], output[2], gamma, beta, w1, b1, w2, scale)


def _gradients(ctx: Any, dy: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
    grads = token_mix_backward(dy, *ctx.saved_tensors, ctx.tanh, ctx.deterministic)
    return (*grads, None, None, None, None)


token_mix.register_autograd(_gradients, setup_context=_keep)
