"""Scale an image and crop it, in the arithmetic of TensorFlow, OpenCV or Pillow.

Scaling is linear and separable: a value of the result is a weighted sum of a few source
pixels, the taps, along each axis. Only the pixels that a crop keeps are computed, so
that no shape of image needs more memory than the crop.

The order of the sums and the float32 are those of the originals, because big_vision
truncates what comes out: 254.99998 of a white area is 254 there, and so it is here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, Any]

_BITS = 22  # behind the point of Pillow's weights, which are whole numbers


class Taps(NamedTuple):
    """What n pixels of the result take from the source, along one axis.

    Attributes:
        pixel: (taps, n), which source pixels; a place outside the image means its
            border.
        weight: (taps, n), how much of each.
        divisor: Of the weighted sum.
    """

    pixel: Array
    weight: Array
    divisor: np.float32 = np.float32(1)


def area(size: int, scaled: int, first: int, count: int) -> Taps:
    """Return the source pixels that a pixel of the result covers, by their covered part.

    It scales up or down, as tensorflow/core/kernels/image/resize_area_op.cc. Pillow's
    BOX is another filter: that one takes or leaves a pixel.

    Args:
        size: Pixels along the axis before.
        scaled: Pixels along the axis after.
        first: The first pixel of the result that is wanted.
        count: How many are wanted.
    """
    scale = np.float32(size) / np.float32(scaled)
    edges = np.arange(first, first + count + 1).astype(np.float32) * scale
    start = edges[:-1]
    stop = edges[1:]
    # Of a very long image two edges may be the same float32.
    most = max(int((np.ceil(stop) - np.floor(start)).max()), 1)
    at = _neighbours(start, range(most))
    # A pixel may stick out at the end of the span, at its beginning, or at both.
    covered_last = np.where(at < start, scale, stop - at)
    covered_first = np.where(at < start, at + 1 - start, 1)
    part = np.where(at + 1 > stop, covered_last, covered_first)
    return Taps(_inside(at, size), np.maximum(part, 0).astype(np.float32), scale)


def linear(size: int, scaled: int, first: int, count: int) -> Taps:
    """Return the two nearest source pixels, without antialiasing.

    Pixel centres are at halves, as in
    tensorflow/core/kernels/image/resize_bilinear_op.cc with half_pixel_centers, which
    tf.image.resize of TF 2 sets. Arguments as of `area`.
    """
    half = np.float32(0.5)
    scale = np.float32(size) / np.float32(scaled)
    wanted = np.arange(first, first + count).astype(np.float32)
    at = (wanted + half) * scale - half
    part = (at - np.floor(at)).astype(np.float64)
    return Taps(_inside(_neighbours(at, range(2)), size), np.stack([1 - part, part]))


def cubic(size: int, scaled: int, first: int, count: int) -> Taps:
    """Return four source pixels of a cubic convolution, without antialiasing.

    As INTER_CUBIC in OpenCV's modules/imgproc/src/resize.cpp with its a = -0.75, in
    exact numbers as its x86 builds have it from Intel's IPP. Without IPP, OpenCV rounds
    the weights of 8-bit images to 2048ths, which moves 3 % of the values by one level.
    Arguments as of `area`.
    """
    at = (np.arange(first, first + count) + 0.5) * (size / scaled) - 0.5
    x = at - np.floor(at)
    a = -0.75
    near = [((a + 2) * d - (a + 3)) * d * d + 1 for d in (x, 1 - x)]
    far = [((a * d - 5 * a) * d + 8 * a) * d - 4 * a for d in (1 + x, 2 - x)]
    weight = np.stack([far[0], *near, far[1]])
    return Taps(_inside(_neighbours(at, range(-1, 3)), size), weight)


def resample(image: Array, rows: Taps, columns: Taps) -> Array:
    """Return the pixels that the taps describe, not rounded and not clipped.

    Args:
        image: uint8 (H', W', C).
        rows: For n rows of the result.
        columns: For n columns of the result.

    Returns:
        float32 (n rows, n columns, C).
    """
    total: Any = 0
    for row, row_weight in zip(rows.pixel, rows.weight, strict=True):
        line: Any = 0
        for column, weight in zip(columns.pixel, columns.weight, strict=True):
            line = line + image[np.ix_(row, column)] * weight[:, None]
        total = total + line * row_weight[:, None, None]
    # TensorFlow multiplies by the reciprocal; a division would round otherwise.
    reciprocal = np.float32(1.0 / float(rows.divisor * columns.divisor))
    return np.asarray(total * reciprocal, dtype=np.float32)


def antialiased(kind: str, size: int, scaled: int, first: int, count: int) -> Taps:
    """Return the source pixels and the weights of Pillow.

    As precompute_coeffs and normalize_coeffs_8bpc in Pillow's src/libImaging/Resample.c:
    the filter grows with the source pixels that a pixel of the result stands for.

    Args:
        kind: "nearest", "bilinear", "bicubic" or "area", which is Pillow's BOX.
        size: As of `area`.
        scaled: As of `area`.
        first: As of `area`.
        count: As of `area`.

    Returns:
        Weights are int64, in units of 2 ** -22.
    """
    reach, weigh = _ANTIALIASED[kind]
    scale = size / scaled
    # "nearest" takes the pixel under the centre, however many a pixel stands for.
    widened = 1.0 if kind == "nearest" else max(scale, 1.0)
    centre = (np.arange(first, first + count) + 0.5) * scale
    if kind == "nearest":
        centre = np.floor(centre) + 0.5
    low = np.maximum(centre - reach * widened + 0.5, 0).astype(np.int64)
    high = np.minimum(centre + reach * widened + 0.5, size).astype(np.int64)
    at = low + np.arange((high - low).max())[:, None]
    weight = weigh((at - centre + 0.5) * (1 / widened))
    weight[at >= high] = 0
    weight = weight / weight.sum(axis=0)
    rounded = weight * 2**_BITS + np.where(weight < 0, -0.5, 0.5)
    return Taps(_inside(at, size), rounded.astype(np.int64))


def resample_in_two_steps(image: Array, rows: Taps, columns: Taps) -> Array:
    """Return the pixels that Pillow's taps describe, rounded after each axis as there.

    The columns come first. Some versions of Pillow begin with the rows where a tall
    image shrinks, which rounds other values in between.

    Args:
        image: uint8 (H', W', C).
        rows: For n rows of the result, of `antialiased`.
        columns: For n columns of the result, of `antialiased`.

    Returns:
        uint8 (n rows, n columns, C).
    """
    # Of a tall image only the rows under the crop are looked at.
    top = rows.pixel.min()
    needed = image[top : rows.pixel.max() + 1]
    wide = _weighted(needed.transpose(1, 0, 2), columns).transpose(1, 0, 2)
    return _weighted(wide, rows._replace(pixel=rows.pixel - top))


def _weighted(lines: Array, taps: Taps) -> Array:
    """Return the sums over the first axis as uint8, rounded and clipped."""
    total: Any = 1 << (_BITS - 1)
    for pixel, weight in zip(taps.pixel, taps.weight, strict=True):
        total = total + lines[pixel] * weight[:, None, None]
    return np.asarray((total >> _BITS).clip(0, 255), dtype=np.uint8)


def _box(x: Array) -> Array:
    return ((x > -0.5) & (x <= 0.5)).astype(np.float64)


def _triangle(x: Array) -> Array:
    return np.maximum(1 - np.abs(x), 0)


def _cubic_of_pillow(x: Array) -> Array:
    """Keys' cubic convolution with a = -0.5, where OpenCV has -0.75."""
    x = np.abs(x)
    a = -0.5
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1, near, np.where(x < 2, far, 0))


# How far a filter reaches, in pixels of the result, and its weight there.
_ANTIALIASED: dict[str, tuple[float, Callable[[Array], Array]]] = {
    "nearest": (0.5, _box),
    "area": (0.5, _box),
    "bilinear": (1.0, _triangle),
    "bicubic": (2.0, _cubic_of_pillow),
}


def _neighbours(at: Array, steps: range) -> Array:
    """Return the pixels (taps, n) at these steps from the one in which a place lies."""
    return np.floor(at) + np.array(steps)[:, None]


def _inside(at: Array, size: int) -> Array:
    return np.clip(at, 0, size - 1).astype(np.int64)
