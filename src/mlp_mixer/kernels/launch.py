"""Launch the kernels of fused token mixing, forward and backward.

The backward pass needs x and the statistics of its tokens (two numbers each), and
computes the hidden values again. `ops` makes operators of torch of both functions.

Axes: B batch, S patches (tokens), C channels, D tokens_mlp_dim. SP and DP are S and D
padded (see `triton_kernels`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from . import triton_kernels as kernels
from .tiles import (
    MOST_TOKENS,
    PROGRAMS,
    Kernel,
    Tile,
    padded,
    padded_hidden,
    parts,
    tile_for,
)

# With TRITON_INTERPRET=1 the kernels run on the CPU, to be tested. NumPy, which the
# interpreter computes with, has no bf16.
INTERPRETED = not isinstance(kernels.forward, triton.JITFunction)
DTYPES: tuple[torch.dtype, ...] = (torch.float32, torch.float16)
if not INTERPRETED:
    DTYPES = (*DTYPES, torch.bfloat16)

# Kernels over whole rows of channels take so many numbers at once: enough to keep the
# loads of a program busy, few enough for its registers.
_ROW_NUMBERS = 2048


class _Branch(NamedTuple):
    """The inputs of a token branch, as the backward pass needs them."""

    x: Tensor
    mean: Tensor
    rstd: Tensor
    gamma: Tensor
    beta: Tensor
    w1: Tensor
    b1: Tensor
    w2: Tensor
    scale: Tensor | None
    tanh: bool

    @property
    def norm(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What the kernels normalise x with."""
        return self.mean, self.rstd, self.gamma, self.beta

    def sizes(self) -> dict[str, Any]:
        """Return the axes that the kernels are compiled for."""
        S = self.x.shape[1]
        D = self.w1.shape[0]
        return {
            "S": S,
            "C": self.x.shape[2],
            "SP": sum(parts(S)),
            "DP": padded_hidden(D),
            "PARTS": parts(S),
            "SCALED": self.scale is not None,
        }


def forward(
    x: Tensor,
    gamma: Tensor,
    beta: Tensor,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    b2: Tensor,
    scale: Tensor | None,
    eps: float,
    tanh: bool,
    deterministic: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute x + scale (W2 gelu(W1 LN(x) + b1) + b2).

    Args:
        x: (B, S, C), contiguous, with at most 256 tokens. Its dtype is that of the
            products; their sums are float32.
        gamma: (C), as in `nn.LayerNorm`; it and all parameters of any float dtype.
        beta: (C).
        w1: (D, S), as in `nn.Linear`.
        b1: (D).
        w2: (S, D).
        b2: (S).
        scale: (B), each image's factor of the branch, for stochastic depth. It gets no
            gradient.
        eps: Added to the variance by LayerNorm.
        tanh: Use the tanh form of GELU, not the exact one.
        deterministic: Sum the gradients in a fixed order. The backward pass reads it.

    Returns:
        The tokens (B, S, C), and the mean and the reciprocal deviation of each token
        (B, S) in float32, for the backward pass.
    """
    B, S, C = x.shape
    assert x.is_contiguous(), x.stride()
    assert S <= MOST_TOKENS, S
    D = w1.shape[0]
    mean = x.new_empty(B, S, dtype=torch.float32)
    rstd = x.new_empty(B, S, dtype=torch.float32)
    y = torch.empty_like(x)
    tile = _tile_for("forward", x, D)
    # Triton launches on the current device, which need not be that of x.
    with torch.cuda.device(x.get_device()):
        channels = padded(C)
        rows = max(1, _ROW_NUMBERS // channels)
        _run(
            kernels.statistics,
            (triton.cdiv(B * S, rows),),
            (x, mean, rstd, B * S, eps),
            C=C,
            BR=rows,
            CP=channels,
        )
        packed_w1, packed_v = _pack(w1, w2, x.dtype)
        norm = (mean, rstd, gamma, beta)
        _run(
            kernels.forward,
            (B * triton.cdiv(C, tile.channels),),
            (x, *norm, packed_w1, b1, packed_v, b2, scale, y),
            S=S,
            C=C,
            D=D,
            SP=sum(parts(S)),
            PARTS=parts(S),
            SCALED=scale is not None,
            **_gelu(x, tanh),
            **_tiling(tile),
        )
    return y, mean, rstd


def backward(
    dy: Tensor,
    x: Tensor,
    mean: Tensor,
    rstd: Tensor,
    gamma: Tensor,
    beta: Tensor,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    scale: Tensor | None,
    tanh: bool,
    deterministic: bool,
    weights: bool,
) -> tuple[Tensor, ...]:
    """Compute the gradients of `forward`.

    Args:
        dy: The gradient of the output, (B, S, C) in any layout.
        x: As in `forward`, like all that follow.
        mean: (B, S), from `forward`.
        rstd: (B, S), from `forward`.
        gamma: (C).
        beta: (C).
        w1: (D, S).
        b1: (D).
        w2: (S, D).
        scale: (B), or None.
        tanh: Use the tanh form of GELU.
        deterministic: Sum in a fixed order; else with atomic additions, which need a
            smaller workspace. `torch.use_deterministic_algorithms` demands the order
            too.
        weights: Whether w1, b1 or w2 needs a gradient. Where none does, as in a frozen
            network, two kernels and the workspace are saved.

    Returns:
        The gradients of x, gamma, beta, w1, b1, w2 and b2. Sums over the batch are
        float32 before any rounding. Without `weights` those of w1, b1 and w2 are empty.
    """
    branch = _Branch(x, mean, rstd, gamma, beta, w1, b1, w2, scale, tanh)
    dy = dy.contiguous()
    of_weights = tuple(w.new_empty(0) for w in (w1, b1, w2))
    with torch.cuda.device(x.get_device()):
        h, g, dxn = _hidden_gradients(branch, dy, keep=weights)
        if weights:
            ordered = deterministic or torch.are_deterministic_algorithms_enabled()
            of_weights = _weight_gradients(branch, dy, h, g, ordered)
        dx, dgamma, dbeta, row_sums = _norm_gradients(branch, dy, dxn)
    # The first axis is that of the programs: each has written a sum of its own.
    return (
        dx,
        dgamma.sum(0).to(gamma.dtype),
        dbeta.sum(0).to(beta.dtype),
        *of_weights,
        row_sums.sum(0).to(w2.dtype),
    )


def _hidden_gradients(
    branch: _Branch, dy: Tensor, *, keep: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the hidden values h, their gradients g (B, C, DP), and that of LN(x).

    Without `keep`, h and g hold nothing.
    """
    x = branch.x
    B, _, C = x.shape
    D = branch.w1.shape[0]
    # A workspace of this block alone, which lives only until `backward` returns. To
    # keep h from the forward pass instead would cost that memory for every block.
    h, g = x.new_empty(2, B, C, padded_hidden(D) if keep else 0)
    dxn = torch.empty_like(x)
    packed_w1, packed_v = _pack(branch.w1, branch.w2, x.dtype)
    tile = _tile_for("backward", x, D)
    _run(
        kernels.backward,
        (B * triton.cdiv(C, tile.channels),),
        (x, *branch.norm, packed_w1, branch.b1, packed_v, branch.scale, dy, h, g, dxn),
        D=D,
        KEEP=keep,
        **_gelu(x, branch.tanh),
        **branch.sizes(),
        **_tiling(tile),
    )
    return h, g, dxn


def _weight_gradients(
    branch: _Branch, dy: Tensor, h: Tensor, g: Tensor, deterministic: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of w1, b1 and w2, in their dtypes."""
    x = branch.x
    B, _, C = x.shape
    D, S = branch.w1.shape
    sizes = branch.sizes()
    tile = _tile_for("weights", x, D)
    # Blocks of hidden units are independent; the sum over images and channels is cut
    # into as many shares as it takes to give every multiprocessor one program.
    steps = B * triton.cdiv(C, tile.channels)
    blocks = sizes["DP"] // tile.hidden
    share = triton.cdiv(steps, max(1, PROGRAMS // blocks))
    programs = triton.cdiv(steps, share)
    # Atomic additions start from zeros; a program's own slice is written whole.
    new = torch.empty if deterministic else torch.zeros
    slices = programs if deterministic else 1
    size = (slices, sizes["DP"], sizes["SP"])
    dw1, dv = new(2, *size, dtype=torch.float32, device=x.device)
    db1 = new(size[:2], dtype=torch.float32, device=x.device)
    for left, right, grad in ((g, x, dw1), (h, dy, dv)):
        _run(
            kernels.weight_gradient,
            (blocks, programs),
            (left, right, *branch.norm, branch.scale, grad, db1, steps, share),
            OF_W1=left is g,
            ATOMIC=not deterministic,
            **sizes,
            **_tiling(tile),
        )
    # The first axis is that of the programs that summed. The kernels pad the weights
    # and hold W2 transposed, as `_pack` made them.
    return (
        dw1.sum(0)[:D, :S].to(branch.w1.dtype).contiguous(),
        db1.sum(0)[:D].to(branch.b1.dtype).clone(),
        dv.sum(0)[:D, :S].t().to(branch.w2.dtype).contiguous(),
    )


def _norm_gradients(
    branch: _Branch, dy: Tensor, dxn: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of x, gamma and beta, and each token's sum of scale dy."""
    x = branch.x
    B, S, C = x.shape
    dx = torch.empty_like(x)
    channels = padded(C)
    rows = max(1, _ROW_NUMBERS // channels)
    # This kernel waits for memory, not for products: eight programs on each
    # multiprocessor keep more loads under way. Whole steps of `rows` for each.
    share = rows * triton.cdiv(B * S, rows * 8 * PROGRAMS)
    programs = triton.cdiv(B * S, share)
    dgamma = x.new_empty(programs, C, dtype=torch.float32)
    dbeta = x.new_empty(programs, C, dtype=torch.float32)
    row_sums = x.new_empty(B, S, dtype=torch.float32)
    inputs = (x, branch.mean, branch.rstd, branch.gamma, dxn, dy, branch.scale)
    results = (dx, dgamma, dbeta, row_sums)
    _run(
        kernels.norm_backward,
        (programs,),
        (*inputs, *results, B * S, share),
        S=S,
        C=C,
        BR=rows,
        CP=channels,
        SCALED=branch.scale is not None,
    )
    return dx, dgamma, dbeta, row_sums


def _pack(w1: Tensor, w2: Tensor, dtype: torch.dtype) -> Tensor:
    """Return w1 and W2 transposed as (2, DP, SP), zero where padded.

    Rows are then aligned for any number of tokens, and the inner loops of the kernels
    need no masks.
    """
    D, S = w1.shape
    DP = padded_hidden(D)
    SP = sum(parts(S))
    packed = w1.new_empty(2, DP, SP, dtype=dtype)
    _run(
        kernels.pack,
        (DP // 16, SP // 16),
        (w1.contiguous(), w2.contiguous(), packed[0], packed[1]),
        S=S,
        D=D,
        SP=SP,
    )
    return packed


def _tile_for(kernel: Kernel, x: Tensor, hidden: int) -> Tile:
    """Look up the tile of a kernel for tokens x on their device."""
    bits = 8 * x.element_size()
    return tile_for(kernel, x.shape[1], hidden, bits, roomy=_roomy(x))


def _tiling(tile: Tile) -> dict[str, int]:
    """Return a tile as the kernels and Triton's compiler name its numbers."""
    return {
        "BC": tile.channels,
        "BD": tile.hidden,
        "num_warps": tile.warps,
        "num_stages": tile.stages,
    }


def _gelu(x: Tensor, tanh: bool) -> dict[str, bool]:
    """Return how the kernels compute GELU on tokens x, as they name it.

    In bf16 by the GPU's own tanh, whose error is small beside bf16's rounding. float16
    has three bits more, beside which it would not be.
    """
    return {
        "TANH": tanh,
        "QUICK": x.dtype == torch.bfloat16,
        "HARDWARE": not INTERPRETED,
    }


def _run(
    kernel: Any, grid: tuple[int, ...], inputs: tuple[Any, ...], **constants: Any
) -> None:
    """Launch a kernel, compiled for these constants, as a grid of programs."""
    # Without the option Triton 3.9 warns that its default will change.
    kernel[grid](*inputs, **constants, enable_fp_fusion=True)


def _roomy(x: Tensor) -> bool:
    """Return whether a program may have 200 KiB of shared memory (`tiles`)."""
    if not x.is_cuda:
        return True
    properties = torch.cuda.get_device_properties(x.device)
    return properties.shared_memory_per_block_optin >= 200 * 1024
