"""GELU and its slope inside the kernels: in full, and by the GPU's own tanh."""
# mypy: ignore-errors
# The compiler of this file is Triton's: its values have no Python types.

from __future__ import annotations

import triton
import triton.language as tl

# gelu(a) = a (1 + tanh(a (C0 + C1 a^2 + C2 a^4))) / 2. With these numbers it is the erf
# form within 2.5e-5, and its slope within 1.1e-4; without C2 it is the tanh form.
_ERF_C0 = tl.constexpr(0.79750650)
_ERF_C1 = tl.constexpr(0.03700691)
_ERF_C2 = tl.constexpr(-0.00035172)
_TANH_C0 = tl.constexpr(0.7978845608028654)
_TANH_C1 = tl.constexpr(0.035677408136300125)
# Past 6 the tanh is 1, and past 11 the polynomial of the erf form would turn back.
_MOST_SQUARE = tl.constexpr(36.0)


@triton.jit
def _quick_tanh(u, HARDWARE: tl.constexpr):
    """tanh by one instruction of the GPU, which is 2^-11 off at most.

    Triton's interpreter has no such instruction, and computes it in full.
    """
    if HARDWARE:
        return tl.inline_asm_elementwise(
            "tanh.approx.f32 $0, $1;", "=f,f", [u], tl.float32, is_pure=True, pack=1
        )
    return 2 * tl.sigmoid(2 * u) - 1


@triton.jit
def _quick_gate(a, TANH: tl.constexpr, HARDWARE: tl.constexpr):
    """(1 + tanh(u)) / 2 with gelu(a) = a gate, and du / da."""
    if TANH:
        square = a * a
        u = a * (_TANH_C0 + _TANH_C1 * square)
        slope = _TANH_C0 + 3 * _TANH_C1 * square
    else:
        square = tl.minimum(a * a, _MOST_SQUARE)
        u = a * (_ERF_C0 + square * (_ERF_C1 + square * _ERF_C2))
        slope = _ERF_C0 + square * (3 * _ERF_C1 + square * (5 * _ERF_C2))
    return 0.5 + 0.5 * _quick_tanh(u, HARDWARE), slope


@triton.jit
def gelu(a, TANH: tl.constexpr, QUICK: tl.constexpr, HARDWARE: tl.constexpr):
    """GELU of a, in float32: the tanh or the erf form, by a quick tanh or in full."""
    if QUICK:
        # Its error is a ninth of bf16's own rounding, and it takes a third of the
        # instructions: those of erf would take longer than the products around them.
        gate, _ = _quick_gate(a, TANH, HARDWARE)
        return a * gate
    if TANH:
        # (1 + tanh(u)) / 2 = sigmoid(2 u), with u = sqrt(2 / pi) (a + 0.044715 a^3).
        twice_u = 1.5957691216057308 * a * (1 + 0.044715 * a * a)
        return a * tl.sigmoid(twice_u)
    # a / sqrt(2) goes into erf.
    return 0.5 * a * (1 + tl.erf(0.7071067811865476 * a))


@triton.jit
def gelu_slope(a, TANH: tl.constexpr, QUICK: tl.constexpr, HARDWARE: tl.constexpr):
    """The derivative of `gelu` at a."""
    if QUICK:
        # The slope of (1 + tanh(u)) / 2 is 2 gate (1 - gate) times that of u.
        gate, slope = _quick_gate(a, TANH, HARDWARE)
        return gate + 2 * a * gate * (1 - gate) * slope
    if TANH:
        # The product rule on a sigmoid(2 u): the gate, and a times its own slope.
        gate = tl.sigmoid(1.5957691216057308 * a * (1 + 0.044715 * a * a))
        cubic = 1 + 0.134145 * a * a
        return gate + a * gate * (1 - gate) * 1.5957691216057308 * cubic
    # The normal distribution's function, and a times its density.
    probability = 0.5 * (1 + tl.erf(0.7071067811865476 * a))
    return probability + a * 0.3989422804014327 * tl.exp(-0.5 * a * a)
