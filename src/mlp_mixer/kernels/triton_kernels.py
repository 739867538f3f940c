"""The kernels of fused token mixing, in Triton.

For one image, with x (S, C) contiguous in C, the token branch is `y = x + W2 gelu(W1
LN(x) + b1) + b2`: every channel is a column of its own. A program takes a tile of BC
channels and all S tokens, normalises it on load, and walks over the hidden units in
slices of BD: neither LN(x) nor the hidden values nor anything transposed reaches
memory.

Everything is computed transposed, channels x tokens and channels x hidden units: the
    hidden slice then leaves the first
product in the registers in which the second one reads it. Both weights come packed as
(D, S), zero where padded, as `w1` and `v` = W2 transposed, so that forward and backward
are the same two shapes of product:

    a = xn w1'      h = gelu(a + b1)           y' = h v          (BC, BD), (BC, BD),
    (BC, S) e = dy' v'      g = e gelu'(a + b1)      dxn = g w1 dw1 = g' xn       dv =
    h' dy                                   summed over images and channels

Axes: S tokens, C channels, D hidden units of the token MLP; SP and DP are S and D
    padded (in registers and in the
packed weights only: images are masked, never padded). Offsets of images are 64-bit.
"""
# mypy: ignore-errors
# ruff: noqa: RUF005
# The compiler of this file is Triton's: its values have no Python types, and it knows
# no (*a, b).

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _gelu(a, TANH: tl.constexpr):
    if TANH:
        return a * tl.sigmoid(1.5957691216057308 * a * (1 + 0.044715 * a * a))
    return 0.5 * a * (1 + tl.erf(0.7071067811865476 * a))


@triton.jit
def _gelu_slope(a, TANH: tl.constexpr):
    if TANH:
        gate = tl.sigmoid(1.5957691216057308 * a * (1 + 0.044715 * a * a))
        return gate + a * gate * (1 - gate) * 1.5957691216057308 * (
            1 + 0.134145 * a * a
        )
    return 0.5 * (1 + tl.erf(0.7071067811865476 * a)) + a * 0.3989422804014327 * tl.exp(
        -0.5 * a * a
    )


@triton.jit
def _tile(x, s, c, S: tl.constexpr, C: tl.constexpr):
    """One image's (tokens, channels), zero outside of it."""
    return tl.load(
        x + s[:, None] * C + c[None, :],
        mask=(s[:, None] < S) & (c[None, :] < C),
        other=0.0,
    )


@triton.jit
def _normalised(tile, mean, rstd, gamma, beta, s, c, S: tl.constexpr, C: tl.constexpr):
    """LN of a tile, from the statistics of its tokens. Rows beyond S are not zero:
    there the packed weights are.
    """
    mean = tl.load(mean + s, mask=s < S, other=0.0)[:, None]
    rstd = tl.load(rstd + s, mask=s < S, other=0.0)[:, None]
    gamma = tl.load(gamma + c, mask=c < C, other=0.0).to(tl.float32)[None, :]
    beta = tl.load(beta + c, mask=c < C, other=0.0).to(tl.float32)[None, :]
    return (tile.to(tl.float32) - mean) * rstd * gamma + beta


@triton.jit
def pack(
    w1, w2, packed_w1, packed_v, S: tl.constexpr, D: tl.constexpr, SP: tl.constexpr
):
    """w1 (D, S) and w2 (S, D) -> (DP, SP) each, in the dtype of the computation, by
    tiles of 16 x 16.
    """
    d = tl.program_id(0) * 16 + tl.arange(0, 16)[:, None]
    s = tl.program_id(1) * 16 + tl.arange(0, 16)[None, :]
    inside = (d < D) & (s < S)
    to = d * SP + s
    tl.store(
        packed_w1 + to,
        tl.load(w1 + d * S + s, mask=inside, other=0.0).to(packed_w1.dtype.element_ty),
    )
    tl.store(
        packed_v + to,
        tl.load(w2 + s * D + d, mask=inside, other=0.0).to(packed_v.dtype.element_ty),
    )


@triton.jit
def statistics(
    x, mean, rstd, rows, eps, C: tl.constexpr, BR: tl.constexpr, CP: tl.constexpr
):
    """Mean and reciprocal deviation of each row of x (rows, C), in float32 and in two
    passes over registers.
    """
    row = tl.program_id(0).to(tl.int64) * BR + tl.arange(0, BR)
    c = tl.arange(0, CP)[None, :]
    inside = (row[:, None] < rows) & (c < C)
    values = tl.load(x + row[:, None] * C + c, mask=inside, other=0.0).to(tl.float32)
    middle = tl.sum(values, 1) / C
    apart = tl.where(inside, values - middle[:, None], 0.0)
    tl.store(mean + row, middle, mask=row < rows)
    tl.store(
        rstd + row, 1 / tl.sqrt(tl.sum(apart * apart, 1) / C + eps), mask=row < rows
    )


@triton.jit
def _tokens(PARTS: tl.constexpr):
    """All tokens, in PARTS whose sizes are powers of two: 196 are 128 + 64 + 16 with
    little padding.
    """
    s = ()
    start = 0
    for part in tl.static_range(len(PARTS)):
        s = s + (start + tl.arange(0, PARTS[part]),)
        start += PARTS[part]
    return s


@triton.jit
def _zeros(ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    return tl.zeros((ROWS, COLUMNS), tl.float32)


@triton.jit
def forward(
    x, mean, rstd, gamma, beta, w1, b1, v, b2, scale, y,
    S: tl.constexpr, C: tl.constexpr, D: tl.constexpr, SP: tl.constexpr, PARTS: tl.constexpr,
    BC: tl.constexpr, BD: tl.constexpr, TANH: tl.constexpr, SCALED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """y = x + scale (W2 gelu(W1 LN(x) + b1) + b2) of one image and BC channels."""
    tiles: tl.constexpr = (C + BC - 1) // BC
    image = tl.program_id(0) // tiles
    s = _tokens(PARTS)
    c = (tl.program_id(0) % tiles) * BC + tl.arange(0, BC)
    here = image.to(tl.int64) * S * C
    kind: tl.constexpr = x.dtype.element_ty
    factor = tl.load(scale + image).to(tl.float32) if SCALED else 1.0
    xn = ()
    out = ()
    for p in tl.static_range(len(PARTS)):
        tile = _tile(x + here, s[p], c, S, C)
        normalised = _normalised(
            tile, mean + image * S, rstd + image * S, gamma, beta, s[p], c, S, C
        )
        xn = xn + (tl.trans(normalised.to(kind)),)
        bias = tl.load(b2 + s[p], mask=s[p] < S, other=0.0).to(tl.float32)
        out = out + (tl.trans(tile).to(tl.float32) + factor * bias[None, :],)
    for start in range(0, D, BD):
        d = start + tl.arange(0, BD)
        a = (
            tl.zeros((BC, BD), tl.float32)
            + tl.load(b1 + d, mask=d < D, other=0.0).to(tl.float32)[None, :]
        )
        for p in tl.static_range(len(PARTS)):
            w1_tile = tl.load(w1 + d[:, None] * SP + s[p][None, :])
            a = tl.dot(xn[p], tl.trans(w1_tile), a, input_precision=PRECISION)
        h = (factor * _gelu(a, TANH)).to(kind)
        sums = ()
        for p in tl.static_range(len(PARTS)):
            v_tile = tl.load(v + d[:, None] * SP + s[p][None, :])
            sums = sums + (tl.dot(h, v_tile, out[p], input_precision=PRECISION),)
        out = sums
    for p in tl.static_range(len(PARTS)):
        to = y + here + s[p][:, None] * C + c[None, :]
        tl.store(
            to, tl.trans(out[p].to(kind)), mask=(s[p][:, None] < S) & (c[None, :] < C)
        )


@triton.jit
def backward(
    x, mean, rstd, gamma, beta, w1, b1, v, scale, dy, h, g, dxn,
    S: tl.constexpr, C: tl.constexpr, D: tl.constexpr, SP: tl.constexpr, DP: tl.constexpr, PARTS: tl.constexpr,
    BC: tl.constexpr, BD: tl.constexpr, TANH: tl.constexpr, SCALED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The gradient of LN(x) (S, C) of one image and BC channels; h and g (C, DP) for
    the gradients of the weights.
    """
    tiles: tl.constexpr = (C + BC - 1) // BC
    image = tl.program_id(0) // tiles
    s = _tokens(PARTS)
    c = (tl.program_id(0) % tiles) * BC + tl.arange(0, BC)
    here = image.to(tl.int64) * S * C
    kind: tl.constexpr = x.dtype.element_ty
    xn = ()
    dy_tiles = ()
    out = ()
    for p in tl.static_range(len(PARTS)):
        tile = _tile(x + here, s[p], c, S, C)
        normalised = _normalised(
            tile, mean + image * S, rstd + image * S, gamma, beta, s[p], c, S, C
        )
        xn = xn + (tl.trans(normalised.to(kind)),)
        above = _tile(dy + here, s[p], c, S, C)
        if SCALED:
            above = (above * tl.load(scale + image).to(tl.float32)).to(kind)
        dy_tiles = dy_tiles + (tl.trans(above),)
        out = out + (_zeros(BC, PARTS[p]),)
    for start in range(0, DP, BD):
        d = start + tl.arange(0, BD)
        a = (
            tl.zeros((BC, BD), tl.float32)
            + tl.load(b1 + d, mask=d < D, other=0.0).to(tl.float32)[None, :]
        )
        e = tl.zeros((BC, BD), tl.float32)
        w1_tiles = ()
        for p in tl.static_range(len(PARTS)):
            w1_tiles = w1_tiles + (tl.load(w1 + d[:, None] * SP + s[p][None, :]),)
            a = tl.dot(xn[p], tl.trans(w1_tiles[p]), a, input_precision=PRECISION)
            v_tile = tl.load(v + d[:, None] * SP + s[p][None, :])
            e = tl.dot(dy_tiles[p], tl.trans(v_tile), e, input_precision=PRECISION)
        g_tile = (e * _gelu_slope(a, TANH)).to(kind)
        to = image.to(tl.int64) * C * DP + c[:, None] * DP + d[None, :]
        tl.store(h + to, _gelu(a, TANH).to(kind), mask=c[:, None] < C)
        tl.store(g + to, g_tile, mask=c[:, None] < C)
        sums = ()
        for p in tl.static_range(len(PARTS)):
            sums = sums + (
                tl.dot(g_tile, w1_tiles[p], out[p], input_precision=PRECISION),
            )
        out = sums
    for p in tl.static_range(len(PARTS)):
        to = dxn + here + s[p][:, None] * C + c[None, :]
        tl.store(
            to, tl.trans(out[p].to(kind)), mask=(s[p][:, None] < S) & (c[None, :] < C)
        )


@triton.jit
def weight_gradient(
    left, right, mean, rstd, gamma, beta, scale, grad, grad_bias, steps, share,
    S: tl.constexpr, C: tl.constexpr, SP: tl.constexpr, DP: tl.constexpr, PARTS: tl.constexpr, BC: tl.constexpr,
    BD: tl.constexpr, OF_W1: tl.constexpr, SCALED: tl.constexpr, ATOMIC: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Sum left' right over `share` of the `steps` (image, tile of channels): g' LN(x)
    with OF_W1, else h' (scale dy).

    left (B, C, DP), right (B, S, C). Each program writes its sum as a slice of grad
    (programs, DP, SP), in float32; or adds it to grad (DP, SP) in whatever order the
    programs come, with ATOMIC. OF_W1 also sums g for grad_bias (.., DP).
    """
    tiles: tl.constexpr = (C + BC - 1) // BC
    s = _tokens(PARTS)
    d = tl.program_id(0) * BD + tl.arange(0, BD)
    kind: tl.constexpr = left.dtype.element_ty
    bias = tl.zeros((BD,), tl.float32)
    total = ()
    for p in tl.static_range(len(PARTS)):
        total = total + (_zeros(BD, PARTS[p]),)
    first = tl.program_id(1) * share
    for step in range(first, tl.minimum(first + share, steps)):
        image = step // tiles
        c = (step % tiles) * BC + tl.arange(0, BC)
        at = left + image.to(tl.int64) * C * DP + c[:, None] * DP + d[None, :]
        left_tile = tl.load(at, mask=c[:, None] < C, other=0.0)
        if OF_W1:
            bias += tl.sum(left_tile.to(tl.float32), 0)
        sums = ()
        for p in tl.static_range(len(PARTS)):
            tile = _tile(right + image.to(tl.int64) * S * C, s[p], c, S, C)
            if OF_W1:
                tile = _normalised(
                    tile, mean + image * S, rstd + image * S, gamma, beta, s[p], c, S, C
                )
            elif SCALED:
                tile = tile * tl.load(scale + image).to(tl.float32)
            product = tl.dot(
                tl.trans(left_tile),
                tl.trans(tile.to(kind)),
                total[p],
                input_precision=PRECISION,
            )
            sums = sums + (product,)
        total = sums
    if not ATOMIC:
        grad += tl.program_id(1).to(tl.int64) * DP * SP
        grad_bias += tl.program_id(1) * DP
    for p in tl.static_range(len(PARTS)):
        to = grad + d[:, None] * SP + s[p][None, :]
        if ATOMIC:
            tl.atomic_add(to, total[p])
        else:
            tl.store(to, total[p])
    if OF_W1 and ATOMIC:
        tl.atomic_add(grad_bias + d, bias)
    elif OF_W1:
        tl.store(grad_bias + d, bias)


@triton.jit
def norm_backward(
    x, mean, rstd, gamma, dxn, dy, scale, dx, dgamma, dbeta, row_sums, rows, share,
    S: tl.constexpr, C: tl.constexpr, BR: tl.constexpr, CP: tl.constexpr, SCALED: tl.constexpr,
):  # fmt: skip
    """Through LayerNorm and the skip connection, for `share` of the rows (B S, C).

    Also this program's sums for gamma and beta (programs, C), and each row's sum of
    scale dy, for b2.
    """
    c = tl.arange(0, CP)[None, :]
    weight = tl.load(gamma + c, mask=c < C, other=0.0).to(tl.float32)
    dgamma_sum = tl.zeros((CP,), tl.float32)
    dbeta_sum = tl.zeros((CP,), tl.float32)
    first = tl.program_id(0) * share
    for start in range(first, tl.minimum(first + share, rows), BR):
        row = start + tl.arange(0, BR)
        real = (row < rows) & (row < first + share)
        inside = real[:, None] & (c < C)
        at = row.to(tl.int64)[:, None] * C + c
        own_mean = tl.load(mean + row, mask=real, other=0.0)[:, None]
        own_rstd = tl.load(rstd + row, mask=real, other=0.0)[:, None]
        hat = (
            tl.load(x + at, mask=inside, other=0.0).to(tl.float32) - own_mean
        ) * own_rstd
        above = tl.load(dxn + at, mask=inside, other=0.0).to(tl.float32)
        skip = tl.load(dy + at, mask=inside, other=0.0).to(tl.float32)
        dgamma_sum += tl.sum(above * hat, 0)
        dbeta_sum += tl.sum(above, 0)
        inner = above * weight
        along = tl.sum(inner * hat, 1)[:, None] / C
        total = skip + own_rstd * (inner - tl.sum(inner, 1)[:, None] / C - hat * along)
        tl.store(dx + at, total.to(dx.dtype.element_ty), mask=inside)
        row_sum = tl.sum(skip, 1)
        if SCALED:
            row_sum *= tl.load(scale + row // S, mask=real, other=0.0).to(tl.float32)
        tl.store(row_sums + row, row_sum, mask=real)
    to = tl.program_id(0) * C + tl.arange(0, CP)
    tl.store(dgamma + to, dgamma_sum, mask=tl.arange(0, CP) < C)
    tl.store(dbeta + to, dbeta_sum, mask=tl.arange(0, CP) < C)
