"""Draw the hidden units of token-mixing MLPs: Figures 5 and 6 of the paper.

A hidden unit is one row of W1 (D_S, S): a weight for each patch, so it is an h x w
picture (arXiv 2105.01601, App. D). The paper sorts the units by a heuristic that shows
low frequencies first, and follows each unit by the one closest to its inverse; it
leaves the heuristic open. Ours: the mean radial frequency weighted by spectral power,
and the least cosine similarity.

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
        (5, 48, 97),
        (33, 102, 172),
        (67, 147, 195),
        (146, 197, 222),
        (209, 229, 240),
        (247, 247, 247),
        (253, 219, 199),
        (244, 165, 130),
        (214, 96, 77),
        (178, 24, 43),
        (103, 0, 31),
    ],
    dtype=np.float64,
)
# The same from bright blue to bright red over the card of a dark page.
_DIVERGING_DARK = np.array(
    [
        (150, 205, 255),
        (98, 165, 232),
        (58, 117, 182),
        (38, 74, 118),
        (31, 48, 70),
        (28, 31, 37),
        (66, 38, 40),
        (120, 49, 46),
        (180, 70, 58),
        (230, 112, 88),
        (255, 172, 145),
    ],
    dtype=np.float64,
)
# A grey that no weight has, calm on a light page and on a dark one.
_GAP = (116, 122, 133)
# The side of one unit in `token_unit_pictures`, before rounding to whole pixels per
# patch.
_UNIT_PIXELS = 64
# Even, so that no pair is torn apart at the end of a line.
_MOST_COLUMNS = 16


def mean_frequency(units_NHW: Array) -> NDArray[np.float64]:
    """Compute the mean radial frequency of each unit, weighted by spectral power.

    The mean of a unit is not removed: a unit that averages the image is the lowest
    frequency there is, and without its mean only its noise would count.

    Args:
        units_NHW: The units.

    Returns:
        Cycles per patch (N,), 0 to 0.71. A unit of zeros has no frequency and gets
        infinity, so that it sorts last.

    Raises:
        UserError: The weights are not (N, H, W), or not finite.
    """
    units = _checked(units_NHW)
    power = np.abs(np.fft.fft2(_normalised(units))) ** 2
    height, width = units.shape[1:]
    radius = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None, :])
    total = power.sum(axis=(1, 2))
    weighted = (power * radius).sum(axis=(1, 2))
    without = np.full(len(units), np.inf)
    frequencies: NDArray[np.float64] = np.divide(
        weighted, total, out=without, where=total > 0
    )
    return frequencies


def order_units(units_NHW: Array) -> NDArray[np.intp]:
    """Order units for a picture: low frequencies first, each with its closest inverse.

    Greedy: of the units not yet shown the one of lowest frequency comes next, then the
    one with the least cosine similarity to it, which takes that place whatever its own
    frequency. An odd unit out comes last.

    Args:
        units_NHW: The units.

    Returns:
        Positions (N,).

    Raises:
        UserError: The weights are not (N, H, W), or not finite.
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
            # argmin takes the first of equals, which has the lower frequency.
            inverse = int(np.argmin(rows[waiting] @ rows[first]))
            order.append(int(waiting[inverse]))
            waiting = np.delete(waiting, inverse)
    return np.array(order, dtype=np.intp)


def draw_units(
    units_NHW: Array, *, columns: int, scale: int, gap: int, dark: bool = False
) -> NDArray[np.uint8]:
    """Draw units in reading order as one RGB mosaic.

    Blue is negative, red is positive, near-white is zero (near-black where `dark`); each
    unit is scaled by its own largest magnitude.

    Args:
        units_NHW: The units.
        columns: Units in a row.
        scale: Each weight becomes a crisp square of so many pixels.
        gap: Pixels of the frame around each unit.
        dark: For a dark page.

    Returns:
        A uint8 picture (height, width, 3).

    Raises:
        UserError: There are no units, or a size is not positive.
    """
    units = _checked(units_NHW)
    if not len(units) or columns < 1 or scale < 1 or gap < 0:
        raise UserError(
            f"cannot draw {len(units)} units with columns={columns}, scale={scale}, "
            f"gap={gap}: expected at least one unit, columns >= 1, scale >= 1 and "
            "gap >= 0"
        )
    tiles = colours(_normalised(units), dark=dark)
    return mosaic(tiles, columns=columns, gap=gap, colour=_GAP, scale=scale)


def token_unit_pictures(
    token_weights: Sequence[Array],
    grid: tuple[int, int],
    *,
    most_units: int | None = None,
    dark: bool = False,
) -> list[NDArray[np.uint8]]:
    """Draw the first token-mixing weight of each block as a mosaic of its units.

    Args:
        token_weights: W1 (D_S, S) of each block, patches in reading order.
        grid: Patch rows and patch columns.
        most_units: Draw only so many: the first in the order, so the lowest
            frequencies with their inverses.
        dark: For a dark page.

    Returns:
        A uint8 picture (height, width, 3) for each block.

    Raises:
        UserError: A weight does not fit the grid, or is not finite.
    """
    return [_picture(weight, grid, most_units, dark) for weight in token_weights]


def _picture(
    weight: Array, grid: tuple[int, int], most_units: int | None, dark: bool
) -> NDArray[np.uint8]:
    height, width = grid
    if weight.ndim != 2 or weight.shape[1] != height * width:
        raise UserError(
            f"token-mixing weights of shape {weight.shape} do not fit a grid of "
            f"{height} x {width} patches: expected (hidden units, {height * width})"
        )
    units = weight.reshape(-1, height, width)
    chosen = order_units(units)[:most_units]
    # Rounded up to an even number, for the same reason as _MOST_COLUMNS.
    columns = min(_MOST_COLUMNS, len(chosen) + len(chosen) % 2)
    scale = max(1, _UNIT_PIXELS // max(height, width))
    return draw_units(units[chosen], columns=columns, scale=scale, gap=4, dark=dark)


def visible(image: Array) -> NDArray[np.uint8]:
    """Return an image that can be shown: gray or RGB.

    Args:
        image: uint8 (H, W, C).

    Returns:
        The image itself with 1 or 3 channels, else the mean of all (H, W, 1).
    """
    if image.shape[2] in (1, 3):
        return image
    return np.rint(image.mean(axis=2, keepdims=True)).astype(np.uint8)


def to_png(image: Array) -> bytes:
    """Encode an image as PNG.

    Args:
        image: uint8 (H, W), (H, W, 1), (H, W, 3) or, with opacity, (H, W, 4).

    Returns:
        The bytes of the file.

    Raises:
        UserError: The image has another shape or type.
    """
    return _encoded(image, "PNG", (1, 3, 4), optimize=True)


def to_jpeg(image: Array, quality: int = 85) -> bytes:
    """Encode an image as JPEG, for photos a tenth of a PNG.

    Args:
        image: As for `to_png`, without opacity.
        quality: 1 to 95.

    Returns:
        The bytes of the file.

    Raises:
        UserError: The image has another shape or type.
    """
    return _encoded(image, "JPEG", (1, 3), quality=quality)


def _encoded(
    image: Array, form: str, channels: tuple[int, ...], **options: Any
) -> bytes:
    """Return an image as the bytes of a file in a form that Pillow knows."""
    pixels = image[:, :, 0] if image.shape[2:] == (1,) else image
    known = [(), *((count,) for count in channels)]
    has_shape = image.size > 0 and pixels.ndim >= 2 and pixels.shape[2:] in known
    if not has_shape or image.dtype != np.uint8:
        raise UserError(
            f"cannot write an image of shape {image.shape} and type {image.dtype} as "
            f"{form}: expected uint8 (H, W), (H, W, 1) or (H, W, 3)"
        )
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format=form, **options)
    return file.getvalue()


def colours(values: NDArray[np.float64], *, dark: bool = False) -> NDArray[np.uint8]:
    """Colour values: blue is negative, red is positive, near-white is zero.

    Args:
        values: -1 to 1, of any shape (...).
        dark: Zero is near-black, for a dark page.

    Returns:
        RGB (..., 3), interpolated between the anchors of the palette.
    """
    palette = _DIVERGING_DARK if dark else _DIVERGING
    places = np.linspace(-1, 1, len(palette))
    channels = []
    for channel in range(3):
        channels.append(np.interp(values, places, palette[:, channel]))
    return np.stack(channels, axis=-1).round().astype(np.uint8)


def _checked(units_NHW: Array) -> NDArray[np.float64]:
    if units_NHW.ndim != 3 or 0 in units_NHW.shape[1:]:
        raise UserError(f"expected units of shape (N, H, W), got {units_NHW.shape}")
    units = units_NHW.astype(np.float64)
    if not np.isfinite(units).all():
        raise UserError(
            "the units hold NaN or infinity: these weights cannot be drawn; did the "
            "training diverge?"
        )
    return units


def _normalised(units_NHW: NDArray[np.float64]) -> NDArray[np.float64]:
    """Divide each unit by its largest magnitude; zeros stay zeros.

    Weights of 1e-200, whose squares underflow to zero, are seen as well.
    """
    largest = np.abs(units_NHW).max(axis=(1, 2), keepdims=True)
    zeros = np.zeros_like(units_NHW)
    scaled: NDArray[np.float64] = np.divide(
        units_NHW, largest, out=zeros, where=largest > 0
    )
    return scaled
