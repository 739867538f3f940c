"""TensorFlow's random crop, which Google's recipes mean by "inception crop".

It differs from torchvision's in three ways: the side of the crop is uniform, not its
area, so that crops are smaller; there are 100 tries and then the whole image; and
tf.image.resize does not antialias unless it is told to.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import UInt8
from torch import Tensor

from .decode import Pixels

_TRIES = 100

# A white area may come out as 254.99998, on one processor and not on another.
_NUDGE = 1e-3


def tensorflow_box(
    height: int,
    width: int,
    draws: tuple[float, float, float],
    area: tuple[float, float],
    ratio: tuple[float, float],
) -> tuple[int, int, int, int]:
    """Return a random part as tf.image.sample_distorted_bounding_box draws it.

    With min_object_covered=0 and no boxes, as big_vision and vit_jax call it.

    Args:
        height: Of the image, in pixels.
        width: Of the image, in pixels.
        draws: Uniform in [0, 1): for the tries, for the top and for the left.
        area: Share of the image, from and to.
        ratio: Width / height, from and to; uniform.

    Returns:
        Top, left, height and width in pixels.
    """
    for_tries, for_top, for_left = draws
    # A generator of its own for each sample, from 53 bits that belong to it.
    generator = np.random.Generator(np.random.Philox(key=int(for_tries * 2**53)))
    for _ in range(_TRIES):
        ratio_draw, side_draw = generator.random(2).tolist()
        shape = ratio[0] + ratio_draw * (ratio[1] - ratio[0])
        sides = _sides(height, width, shape, side_draw, area)
        if sides is not None:
            tall, wide = sides
            # Theirs never reaches the last row or column, and neither does this.
            top = int(for_top * (height - tall))
            left = int(for_left * (width - wide))
            return top, left, tall, wide
    return 0, 0, height, width


def _sides(
    height: int,
    width: int,
    shape: float,
    draw: float,
    area: tuple[float, float],
) -> tuple[int, int] | None:
    """Return the height and width of a part; None if no such part fits the image.

    GenerateRandomCrop in tensorflow/core/kernels/image/sample_distorted_bounding_box_op.cc,
    step by step.

    Args:
        height: Of the image.
        width: Of the image.
        shape: Width / height of the part.
        draw: Uniform in [0, 1), for the height of the part.
        area: Share of the image, from and to.
    """
    least = area[0] * height * width
    most = area[1] * height * width
    shortest = round(math.sqrt(least / shape))
    tallest = round(math.sqrt(most / shape))
    if round(tallest * shape) > width:
        tallest = int((width + 0.5 - 1e-7) / shape)
        if round(tallest * shape) > width:
            tallest -= 1
    tallest = min(tallest, height)
    shortest = min(shortest, tallest)
    tall = shortest + int(draw * (tallest - shortest + 1))
    wide = round(tall * shape)
    # Rounding may have left the range of areas by one row.
    if tall * wide < least:
        tall += 1
        wide = round(tall * shape)
    if tall * wide > most:
        tall -= 1
        wide = round(tall * shape)
    right_area = least <= tall * wide <= most
    if right_area and 0 < tall <= height and 0 < wide <= width:
        return tall, wide
    return None


def tensorflow_resize(part: Pixels, size: tuple[int, int]) -> UInt8[Tensor, "C H W"]:
    """Return a part at another size as tf.image.resize and a cast to uint8 make it.

    Bilinear, without antialiasing, rounded towards zero as in big_vision.

    Args:
        part: uint8 (H', W', C).
        size: (H, W) of the result.
    """
    pixels = torch.from_numpy(np.ascontiguousarray(part)).permute(2, 0, 1)[None]
    scaled = F.interpolate(
        pixels.float(), size=size, mode="bilinear", align_corners=False
    )
    return (scaled[0] + _NUDGE).to(torch.uint8)
