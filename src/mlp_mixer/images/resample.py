"""Scaling an image in the arithmetic of TensorFlow and of OpenCV, which differs from
Pillow's.

Scaling is linear and separable: a value of the result is a weighted sum of a few source
    pixels, the taps, along each
axis. Only the pixels that a crop keeps are computed, so that no shape of image needs
more memory than the crop. The order of the sums and the float32 are those of the
originals, because big_vision truncates what comes out: 254.99998 of a white area is 254
there, and so it is here.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, Any]


class Taps(NamedTuple):
    """Along one axis, what n pixels of the result take from the source."""

    pixel: Array  # (taps, n), which ones; a place outside the image means its border
    weight: Array  # (taps, n)
    divisor: np.float32 = np.float32(1)  # of the weighted sum


def area(size: int, scaled: int, first: int, count: int) -> Taps:
    """The source pixels that a pixel of the result covers, by their covered part, up or
    down.

    size, scaled: pixels along the axis before and after. first, count: which pixels of
        the result.
    As tensorflow/core/kernels/image/resize_area_op.cc, which Pillow's BOX is not: that
    one takes or leaves a pixel.
    """
    scale = np.float32(size) / np.float32(scaled)
    edges = np.arange(first, first + count + 1).astype(np.float32) * scale
    start = edges[:-1]
    stop = edges[1:]
    at = _neighbours(start, range(int((np.ceil(stop) - np.floor(start)).max())))
    part = np.where(
        at + 1 > stop,
        np.where(at < start, scale, stop - at),
        np.where(at < start, at + 1 - start, 1),
    )
    return Taps(_inside(at, size), np.maximum(part, 0).astype(np.float32), scale)


def linear(size: int, scaled: int, first: int, count: int) -> Taps:
    """The two nearest source pixels, without antialiasing, pixel centres at halves;
    arguments as of `area`.

    As tensorflow/core/kernels/image/resize_bilinear_op.cc with half_pixel_centers,
    which tf.image.resize of TF 2 sets.
    """
    scale = np.float32(size) / np.float32(scaled)
    at = (
        np.arange(first, first + count).astype(np.float32) + np.float32(0.5)
    ) * scale - np.float32(0.5)
    part = (at - np.floor(at)).astype(np.float64)
    return Taps(_inside(_neighbours(at, range(2)), size), np.stack([1 - part, part]))


def cubic(size: int, scaled: int, first: int, count: int) -> Taps:
    """Cubic convolution over four source pixels, a = -0.75, without antialiasing;
    arguments as of `area`.

    As INTER_CUBIC in OpenCV's modules/imgproc/src/resize.cpp, in exact numbers as its
    x86 builds have it from Intel's IPP; without IPP, OpenCV rounds the weights of 8-bit
    images to 2048ths, which moves 3 % of the values by one level.
    """
    at = (np.arange(first, first + count) + 0.5) * (size / scaled) - 0.5
    x = at - np.floor(at)
    a = -0.75
    near = [((a + 2) * d - (a + 3)) * d * d + 1 for d in (x, 1 - x)]
    far = [((a * d - 5 * a) * d + 8 * a) * d - 4 * a for d in (1 + x, 2 - x)]
    return Taps(
        _inside(_neighbours(at, range(-1, 3)), size), np.stack([far[0], *near, far[1]])
    )


def resample(image: Array, rows: Taps, columns: Taps) -> Array:
    """uint8 (H', W', C) to float32 (n rows, n columns, C), not rounded and not clipped."""
    total: Any = 0
    for row, row_weight in zip(rows.pixel, rows.weight, strict=True):
        line: Any = 0
        for column, weight in zip(columns.pixel, columns.weight, strict=True):
            line = line + image[np.ix_(row, column)] * weight[:, None]
        total = total + line * row_weight[:, None, None]
    return np.asarray(
        total * np.float32(1.0 / float(rows.divisor * columns.divisor)),
        dtype=np.float32,
    )


def _neighbours(at: Array, steps: range) -> Array:
    """(taps, n): the pixels at these steps from the one in which a place lies."""
    return np.floor(at) + np.array(steps)[:, None]


def _inside(at: Array, size: int) -> Array:
    return np.clip(at, 0, size - 1).astype(np.int64)
