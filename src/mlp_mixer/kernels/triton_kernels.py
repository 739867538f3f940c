"""The kernels of fused token mixing, in Triton.

For one image, with x (S, C) contiguous in C, the token branch is

    y = x + W2 gelu(W1 LN(x) + b1) + b2

LayerNorm joins the channels of a token, but only through two numbers, which
`statistics` computes first. All else leaves every channel a column of its own. So a
program takes a tile of BC channels with all their S tokens, normalises it on load, and
walks over the hidden units in slices of BD. Neither LN(x) nor the hidden values nor
anything transposed reaches memory; unfused, these are most of the traffic.

Everything is computed transposed: channels x tokens, and channels x hidden units. The
hidden slice is then the left factor of the second product, and it leaves the first
product in the registers in which the second one reads it (the tensor cores of Hopper
read the left factor from registers, but the right one from shared memory only). Both
weights come packed as (D, S), zero where padded, as `w1` and as `v`, the transpose of
W2, so that forward and backward are the same two shapes of product:

    a = xn w1'       h = gelu(a + b1)            y' = h v         (BC, BD), (BC, S)
    e = dy' v'       g = e gelu'(a + b1)         dxn' = g w1      (BC, BD), (BC, S)
    dw1 = g' xn      dv = h' dy'                 summed over images and channels

Factors are 16-bit numbers, sums are float32 throughout: a sum of several
hundred products in bf16, which has 8 bits, would lose its small terms.

Axes: S tokens, C channels, D hidden units of the token MLP. SP and DP are S and D
padded, in registers and in the packed weights only: images are masked, never padded.
Offsets of images are 64-bit, since a batch may have more than 2^31 numbers.
"""
# mypy: ignore-errors
# ruff: noqa: RUF005
# The compiler of this file is Triton's: its values have no Python types, and it knows
# no (*a, b).

from __future__ import annotations

import triton
import triton.language as tl

from .triton_gelu import gelu, gelu_slope


@triton.jit
def _load(pointers, mask):
    """Numbers as float32, zero where the mask is not."""
    return tl.load(pointers, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def _vector(pointer, i, N: tl.constexpr):
    """Elements i of a vector of N, as float32; zero outside of it."""
    return _load(pointer + i, i < N)


@triton.jit
def _tile(x, s, c, S: tl.constexpr, C: tl.constexpr):
    """One image's (tokens, channels), zero outside of it."""
    inside = (s[:, None] < S) & (c[None, :] < C)
    return tl.load(x + s[:, None] * C + c[None, :], mask=inside, other=0.0)


@triton.jit
def _weight_tile(w, d, s, SP: tl.constexpr):
    """(hidden, tokens) of a packed weight, which needs no mask."""
    return tl.load(w + d[:, None] * SP + s[None, :])


@triton.jit
def _store_tile(y, value, s, c, S: tl.constexpr, C: tl.constexpr):
    """Write (channels, tokens) to their places in one image (tokens, channels)."""
    inside = (s[:, None] < S) & (c[None, :] < C)
    tl.store(y + s[:, None] * C + c[None, :], tl.trans(value), mask=inside)


@triton.jit
def _normalised(tile, mean, rstd, gamma, beta, s, c, S: tl.constexpr, C: tl.constexpr):
    """LN of a tile, from the statistics of its tokens.

    Rows beyond S become beta and not zero. They do no harm: what they are multiplied
    by, the packed weights, is zero there.
    """
    mean = _vector(mean, s, S)[:, None]
    rstd = _vector(rstd, s, S)[:, None]
    gamma = _vector(gamma, c, C)[None, :]
    beta = _vector(beta, c, C)[None, :]
    return (tile.to(tl.float32) - mean) * rstd * gamma + beta


@triton.jit
def pack(
    w1, w2, packed_w1, packed_v, S: tl.constexpr, D: tl.constexpr, SP: tl.constexpr
):
    """w1 (D, S) and w2 (S, D) -> (DP, SP) each, in the dtype of the computation."""
    # Each program copies 16 x 16 numbers, the step to which both sides are padded.
    d = tl.program_id(0) * 16 + tl.arange(0, 16)[:, None]
    s = tl.program_id(1) * 16 + tl.arange(0, 16)[None, :]
    inside = (d < D) & (s < S)
    from_w1 = tl.load(w1 + d * S + s, mask=inside, other=0.0)
    from_w2 = tl.load(w2 + s * D + d, mask=inside, other=0.0)
    # No mask: the padding is written too, as zeros.
    at = d * SP + s
    tl.store(packed_w1 + at, from_w1.to(packed_w1.dtype.element_ty))
    tl.store(packed_v + at, from_w2.to(packed_v.dtype.element_ty))


@triton.jit
def statistics(
    x, mean, rstd, rows, eps, C: tl.constexpr, BR: tl.constexpr, CP: tl.constexpr
):
    """Mean and reciprocal deviation of each row of x (rows, C), in float32."""
    row = tl.program_id(0).to(tl.int64) * BR + tl.arange(0, BR)
    c = tl.arange(0, CP)[None, :]
    inside = (row[:, None] < rows) & (c < C)
    values = _load(x + row[:, None] * C + c, inside)
    # Two passes, over registers: E[x^2] - E[x]^2 would cancel where the mean is large.
    middle = tl.sum(values, 1) / C
    apart = tl.where(inside, values - middle[:, None], 0.0)
    variance = tl.sum(apart * apart, 1) / C
    tl.store(mean + row, middle, mask=row < rows)
    tl.store(rstd + row, 1 / tl.sqrt(variance + eps), mask=row < rows)


@triton.jit
def _tokens(PARTS: tl.constexpr):
    """The numbers of all tokens, in PARTS whose sizes are powers of two.

    Triton's ranges need such sizes: 196 tokens are 128 + 64 + 16 with little padding.
    A tuple of tiles takes the place of one tile in all kernels below, and loops over
    `tl.static_range(len(PARTS))` are unrolled.
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
    S: tl.constexpr, C: tl.constexpr, D: tl.constexpr, SP: tl.constexpr,
    PARTS: tl.constexpr, BC: tl.constexpr, BD: tl.constexpr,
    TANH: tl.constexpr, SCALED: tl.constexpr, QUICK: tl.constexpr, HARDWARE: tl.constexpr,
):  # fmt: skip
    """y = x + scale (W2 gelu(W1 LN(x) + b1) + b2) of one image and BC channels."""
    tiles: tl.constexpr = (C + BC - 1) // BC
    image = tl.program_id(0) // tiles
    s = _tokens(PARTS)
    c = (tl.program_id(0) % tiles) * BC + tl.arange(0, BC)
    here = image.to(tl.int64) * S * C
    kind: tl.constexpr = x.dtype.element_ty
    factor = tl.load(scale + image).to(tl.float32) if SCALED else 1.0
    # The sums begin at the skip connection and the bias, so that all of y is added up
    # in float32 and rounded once, at the end.
    xn = ()
    out = ()
    for p in tl.static_range(len(PARTS)):
        tile = _tile(x + here, s[p], c, S, C)
        normalised = _normalised(
            tile, mean + image * S, rstd + image * S, gamma, beta, s[p], c, S, C
        )
        xn = xn + (tl.trans(normalised.to(kind)),)
        bias = _vector(b2, s[p], S)
        out = out + (tl.trans(tile).to(tl.float32) + factor * bias[None, :],)
    for start in range(0, D, BD):
        d = start + tl.arange(0, BD)
        a = _zeros(BC, BD) + _vector(b1, d, D)[None, :]
        for p in tl.static_range(len(PARTS)):
            w1_tile = _weight_tile(w1, d, s[p], SP)
            a = tl.dot(xn[p], tl.trans(w1_tile), a, input_precision="ieee")
        # Hidden units past D are gelu(0) = 0.
        h = (factor * gelu(a, TANH, QUICK, HARDWARE)).to(kind)
        sums = ()
        for p in tl.static_range(len(PARTS)):
            v_tile = _weight_tile(v, d, s[p], SP)
            sums = sums + (tl.dot(h, v_tile, out[p], input_precision="ieee"),)
        out = sums
    for p in tl.static_range(len(PARTS)):
        _store_tile(y + here, out[p].to(kind), s[p], c, S, C)


@triton.jit
def backward(
    x, mean, rstd, gamma, beta, w1, b1, v, scale, dy, h, g, dxn,
    S: tl.constexpr, C: tl.constexpr, D: tl.constexpr, SP: tl.constexpr, DP: tl.constexpr,
    PARTS: tl.constexpr, BC: tl.constexpr, BD: tl.constexpr,
    TANH: tl.constexpr, SCALED: tl.constexpr, KEEP: tl.constexpr, QUICK: tl.constexpr,
    HARDWARE: tl.constexpr,
):  # fmt: skip
    """The gradient of LN(x) (S, C) of one image and BC channels.

    With KEEP also h and g (C, DP), computed once more, for the gradients of the
    weights.
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
            factor = tl.load(scale + image).to(tl.float32)
            above = (above * factor).to(kind)
        dy_tiles = dy_tiles + (tl.trans(above),)
        out = out + (_zeros(BC, PARTS[p]),)
    # To DP and not to D: `weight_gradient` reads h and g with their padding, so all of
    # it must be written.
    for start in range(0, DP, BD):
        d = start + tl.arange(0, BD)
        a = _zeros(BC, BD) + _vector(b1, d, D)[None, :]
        e = _zeros(BC, BD)
        w1_tiles = ()
        for p in tl.static_range(len(PARTS)):
            w1_tiles = w1_tiles + (_weight_tile(w1, d, s[p], SP),)
            a = tl.dot(xn[p], tl.trans(w1_tiles[p]), a, input_precision="ieee")
            v_tile = _weight_tile(v, d, s[p], SP)
            e = tl.dot(dy_tiles[p], tl.trans(v_tile), e, input_precision="ieee")
        g_tile = (e * gelu_slope(a, TANH, QUICK, HARDWARE)).to(kind)
        if KEEP:
            at = image.to(tl.int64) * C * DP + c[:, None] * DP + d[None, :]
            real = c[:, None] < C
            tl.store(h + at, gelu(a, TANH, QUICK, HARDWARE).to(kind), mask=real)
            tl.store(g + at, g_tile, mask=real)
        sums = ()
        for p in tl.static_range(len(PARTS)):
            sum_of_part = tl.dot(g_tile, w1_tiles[p], out[p], input_precision="ieee")
            sums = sums + (sum_of_part,)
        out = sums
    for p in tl.static_range(len(PARTS)):
        _store_tile(dxn + here, out[p].to(kind), s[p], c, S, C)


@triton.jit
def weight_gradient(
    left, right, mean, rstd, gamma, beta, scale, grad, grad_bias, steps, share,
    S: tl.constexpr, C: tl.constexpr, SP: tl.constexpr, DP: tl.constexpr,
    PARTS: tl.constexpr, BC: tl.constexpr, BD: tl.constexpr,
    OF_W1: tl.constexpr, SCALED: tl.constexpr, ATOMIC: tl.constexpr,
):  # fmt: skip
    """Sum left' right over `share` of the `steps` (image, tile of channels).

    With OF_W1 it is g' LN(x), and g is summed for grad_bias (.., DP); else it is
    h' (scale dy). left (B, C, DP), right (B, S, C). Each program writes its sum in
    float32 as a slice of grad (programs, DP, SP); with ATOMIC it adds it to grad
    (DP, SP), in whatever order the programs come.
    """
    tiles: tl.constexpr = (C + BC - 1) // BC
    s = _tokens(PARTS)
    # The tiles turn: here a program owns BD hidden units with all tokens, and walks
    # over images and channels, over which these gradients are sums.
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
                # Computed again from x: LN(x) was never written.
                tile = _normalised(
                    tile, mean + image * S, rstd + image * S, gamma, beta, s[p], c, S, C
                )
            elif SCALED:
                factor = tl.load(scale + image).to(tl.float32)
                tile = tile * factor
            product = tl.dot(
                tl.trans(left_tile),
                tl.trans(tile.to(kind)),
                total[p],
                input_precision="ieee",
            )
            sums = sums + (product,)
        total = sums
    if not ATOMIC:
        grad += tl.program_id(1).to(tl.int64) * DP * SP
        grad_bias += tl.program_id(1) * DP
    for p in tl.static_range(len(PARTS)):
        at = grad + d[:, None] * SP + s[p][None, :]
        if ATOMIC:
            tl.atomic_add(at, total[p])
        else:
            tl.store(at, total[p])
    if OF_W1 and ATOMIC:
        tl.atomic_add(grad_bias + d, bias)
    elif OF_W1:
        tl.store(grad_bias + d, bias)


@triton.jit
def norm_backward(
    x, mean, rstd, gamma, dxn, dy, scale, dx, dgamma, dbeta, row_sums, rows, share,
    S: tl.constexpr, C: tl.constexpr, BR: tl.constexpr, CP: tl.constexpr,
    SCALED: tl.constexpr,
):  # fmt: skip
    """Through LayerNorm and the skip connection, for `share` of the rows (B S, C).

    Also this program's sums for gamma and beta (programs, C), and each row's sum of
    scale dy, for b2.
    """
    c = tl.arange(0, CP)[None, :]
    weight = _vector(gamma, c, C)
    dgamma_sum = tl.zeros((CP,), tl.float32)
    dbeta_sum = tl.zeros((CP,), tl.float32)
    first = tl.program_id(0) * share
    for start in range(first, tl.minimum(first + share, rows), BR):
        row = start + tl.arange(0, BR)
        real = (row < rows) & (row < first + share)
        inside = real[:, None] & (c < C)
        at = row.to(tl.int64)[:, None] * C + c
        own_mean = _load(mean + row, real)[:, None]
        own_rstd = _load(rstd + row, real)[:, None]
        values = _load(x + at, inside)
        above = _load(dxn + at, inside)
        skip = _load(dy + at, inside)
        hat = (values - own_mean) * own_rstd
        dgamma_sum += tl.sum(above * hat, 0)
        dbeta_sum += tl.sum(above, 0)
        # The gradient of hat, less its mean and less its part along hat: a normalised
        # row can change in neither direction.
        inner = above * weight
        average = tl.sum(inner, 1)[:, None] / C
        along = tl.sum(inner * hat, 1)[:, None] / C
        total = skip + own_rstd * (inner - average - hat * along)
        tl.store(dx + at, total.to(dx.dtype.element_ty), mask=inside)
        row_sum = tl.sum(skip, 1)
        if SCALED:
            row_sum *= _load(scale + row // S, real)
        tl.store(row_sums + row, row_sum, mask=real)
    # A row of sums for each program, and not atomic additions: their order is fixed.
    channel = tl.arange(0, CP)
    at = tl.program_id(0) * C + channel
    tl.store(dgamma + at, dgamma_sum, mask=channel < C)
    tl.store(dbeta + at, dbeta_sum, mask=channel < C)
