"""The hidden units of token-mixing MLPs as pictures: Figures 5 and 6 of the paper
(arXiv 2105.01601, App. D).

A hidden unit is one row of W1 (D_S, S): a weight for each patch, so it is an h x w
picture. The paper sorts the units by a heuristic that shows low frequencies first, and
follows each unit by the one closest to its inverse; it leaves the heuristic open. Ours:
the mean radial frequency weighted by spectral power, and the least cosine similarity.

N units, H x W picture (for a unit: patch rows x patch columns).
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import UserError
from ..images.mosaic import mosaic

Array = NDArray[Any]

# ColorBrewer's RdBu (colorbrewer2.org, Apache-2.0) from blue to red: readable with the
# common colour deficiencies.
_DIVERGING = np.array(
    [
        *[
            (5, 48, 97),
            (33, 102, 172),
            (67, 147, 195),
            (146, 197, 222),
            (209, 229, 240),
        ],
        (247, 247, 247),
        *[(253, 219, 199), (244, 165, 130), (214, 96, 77), (178, 24, 43), (103, 0, 31)],
    ],
    dtype=np.float64,
)
_GAP = (
    116,
    122,
    133,
)  # a grey that no weight has, calm on a light page and on a dark one
# the side of one unit in `token_unit_pictures`, before rounding to whole pixels per
# patch
_UNIT_PIXELS = 64
_MOST_COLUMNS = 16  # even, so that no pair is torn apart at the end of a line


def mean_frequency(units_NHW: Array) -> NDArray[np.float64]:
    """The mean radial frequency of each unit (N,), weighted by spectral power, in
    cycles per patch: 0 to 0.71.

    The mean is not removed: a unit that takes the average of the image is the lowest
        frequency there is, and without
    its mean only its noise would be judged. A unit of zeros has no frequency and gets
    infinity, so that it sorts last. Raises `UserError` for weights that are not (N, H,
    W) or not finite.
    """
    units = _checked(units_NHW)
    power = np.abs(np.fft.fft2(_normalised(units))) ** 2
    height, width = units.shape[1:]
    radius = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None, :])
    total = power.sum(axis=(1, 2))
    weighted = (power * radius).sum(axis=(1, 2))
    frequencies: NDArray[np.float64] = np.divide(
        weighted, total, out=np.full(len(units), np.inf), where=total > 0
    )
    return frequencies


def order_units(units_NHW: Array) -> NDArray[np.intp]:
    """The order (N,) in which to show the units: low frequencies first, each followed
    by its closest inverse.

    Greedy: of the units not yet shown the one of lowest frequency comes next, then the
        one with the least cosine
    similarity to it, which takes that place whatever its own frequency. An odd unit out
    comes last.
    """
    units = _checked(units_NHW)
    rows = _normalised(units).reshape(len(units), units.shape[1] * units.shape[2])
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    rows = np.divide(rows, norms, out=np.zeros_like(rows), where=norms > 0)
    waiting = np.argsort(mean_frequency(units), kind="stable")
    order: list[int] = []
    while len(waiting):
        first = waiting[0]
        waiting = waiting[1:]
        order.append(int(first))
        if len(waiting):
            inverse = int(
                np.argmin(rows[waiting] @ rows[first])
            )  # the first of equals: the lower frequency
            order.append(int(waiting[inverse]))
            waiting = np.delete(waiting, inverse)
    return np.array(order, dtype=np.intp)


def draw_units(
    units_NHW: Array, *, columns: int, scale: int, gap: int
) -> NDArray[np.uint8]:
    """Draw units in reading order as one uint8 RGB mosaic (H, W, 3), with a frame of
    `gap` pixels around each.

    Blue is negative, red is positive, near-white is zero; each unit is scaled by its
    own largest magnitude, and each weight becomes a crisp square of `scale` pixels.
    Raises `UserError` if there are no units or a size is not positive.
    """
    units = _checked(units_NHW)
    if not len(units) or columns < 1 or scale < 1 or gap < 0:
        raise UserError(
            f"cannot draw {len(units)} units with columns={columns}, scale={scale}, gap={gap}: expected at least one "
            "unit, columns >= 1, scale >= 1 and gap >= 0"
        )
    tiles = colours(_normalised(units))
    return mosaic(tiles, columns=columns, gap=gap, colour=_GAP, scale=scale)


def token_unit_pictures(
    token_weights: Sequence[Array],
    grid: tuple[int, int],
    *,
    most_units: int | None = None,
) -> list[NDArray[np.uint8]]:
    """One mosaic (H, W, 3) for each block, from its first token-mixing weight W1 (D_S,
    S), patches in reading order.

    `grid` is (patch rows, patch columns). With `most_units` only that many are drawn:
    the first in the order, so the lowest frequencies with their inverses. Raises
    `UserError` if a weight does not fit the grid.
    """
    return [_picture(weight, grid, most_units) for weight in token_weights]


def to_png(image: Array) -> bytes:
    """Encode a uint8 image (H, W), (H, W, 1) or (H, W, 3) as PNG; `UserError` for
    anything else.
    """
    pixels = image[:, :, 0] if image.shape[2:] == (1,) else image
    if (
        image.dtype != np.uint8
        or not image.size
        or pixels.ndim < 2
        or pixels.shape[2:] not in ((), (3,))
    ):
        raise UserError(
            f"cannot write an image of shape {image.shape} and type {image.dtype} as PNG: expected uint8 "
            "(H, W), (H, W, 1) or (H, W, 3)"
        )
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG", optimize=True)
    return file.getvalue()


def _picture(
    weight: Array, grid: tuple[int, int], most_units: int | None
) -> NDArray[np.uint8]:
    height, width = grid
    if weight.ndim != 2 or weight.shape[1] != height * width:
        raise UserError(
            f"token-mixing weights of shape {weight.shape} do not fit a grid of {height} x {width} patches: "
            f"expected (hidden units, {height * width})"
        )
    units = weight.reshape(-1, height, width)
    chosen = order_units(units)[:most_units]
    columns = min(_MOST_COLUMNS, len(chosen) + len(chosen) % 2)
    scale = max(1, _UNIT_PIXELS // max(height, width))
    return draw_units(units[chosen], columns=columns, scale=scale, gap=4)


def _checked(units_NHW: Array) -> NDArray[np.float64]:
    if units_NHW.ndim != 3 or 0 in units_NHW.shape[1:]:
        raise UserError(f"expected units of shape (N, H, W), got {units_NHW.shape}")
    units = units_NHW.astype(np.float64)
    if not np.isfinite(units).all():
        raise UserError(
            "the units hold NaN or infinity: these weights cannot be drawn; did the training diverge?"
        )
    return units


def _normalised(units_NHW: NDArray[np.float64]) -> NDArray[np.float64]:
    """Each unit divided by its largest magnitude, so that weights of 1e-200 are seen as
    well; zeros stay zeros.
    """
    largest = np.abs(units_NHW).max(axis=(1, 2), keepdims=True)
    scaled: NDArray[np.float64] = np.divide(
        units_NHW, largest, out=np.zeros_like(units_NHW), where=largest > 0
    )
    return scaled


def colours(values: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Values in -1 to 1 (...) as RGB (..., 3), interpolated between the anchors."""
    places = np.linspace(-1, 1, len(_DIVERGING))
    channels = [
        np.interp(values, places, _DIVERGING[:, channel]) for channel in range(3)
    ]
    return np.stack(channels, axis=-1).round().astype(np.uint8)
