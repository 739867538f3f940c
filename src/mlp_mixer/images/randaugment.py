"""RandAugment (arXiv 1909.13719) as its users run it: which operations, how strong.

big_vision's (google-research/big_vision, pp/archive/autoaugment.py) is that of the
paper's authors as it runs, which is not quite as it reads. Every layer always acts: the
probabilities it draws are never used. The threshold of Solarize is an 8-bit number and
wraps around, so that magnitude 15 means 128, and 10 and 20 invert the image. One thing
is ours: translations and Cutout are theirs at 224 pixels (150 and a square of 120 at
magnitude 15) and grow and shrink with the image, since on one of 32 theirs would leave
nothing to see.

timm's (timm/data/auto_augment.py) is `rand-m9-mstd0.5-inc1` with the magnitude for the
9, as DeiT and ResMLP are trained. Each layer acts on half of the images. The magnitude
is that of the setting with a deviation of 0.5, and stays within 0 and 10. Whatever has a
strength becomes stronger with it.
"""

from __future__ import annotations

from statistics import NormalDist

import numpy as np

from .operations import Step
from .settings import MOST_OF_TIMM

# Uniform numbers that an operation owns. big_vision: which one, its sign, and two that
# say where Cutout goes. timm: which one, whether it acts, its sign, its magnitude.
SLOT = 4

# In the order of big_vision, which a draw counts through.
BIG_VISION = (
    "AutoContrast", "Equalize", "Invert", "Rotate", "Posterize", "Solarize", "Color",
    "Contrast", "Brightness", "Sharpness", "ShearX", "ShearY", "TranslateX", "TranslateY",
    "Cutout", "SolarizeAdd",
)  # fmt: skip

# The order of timm's list with inc1. It has no Cutout: erasing takes its place.
TIMM = (
    "AutoContrast", "Equalize", "Invert", "Rotate", "Posterize", "Solarize", "SolarizeAdd",
    "Color", "Contrast", "Brightness", "Sharpness", "ShearX", "ShearY", "TranslateX",
    "TranslateY",
)  # fmt: skip

_SPREAD = 0.5  # mstd0.5: standard deviation of the magnitude
_ACTS = 0.5  # the share of images that a layer of timm acts on
_LEAST_DRAW = (
    2.0**-54
)  # below the smallest draw above 0; a normal quantile of 0 is none


def big_vision_plan(
    draws: np.ndarray, size: tuple[int, ...], layers: int = 2, magnitude: float = 10
) -> list[Step]:
    """Return what big_vision's RandAugment does to an image with these draws.

    Args:
        draws: At least SLOT * layers numbers in [0, 1).
        size: (H, W) of the image.
        layers: How many operations.
        magnitude: 10 is the largest intended, 15 the paper's.
    """
    own = draws[: SLOT * layers].reshape(-1, SLOT)
    steps = []
    for which, sign, row, column in own:
        name = BIG_VISION[int(which * len(BIG_VISION))]
        steps.append(_step(name, magnitude / 10, sign < 0.5, size, (row, column)))
    return steps


def _step(
    name: str,
    level: float,
    negative: bool,
    size: tuple[int, ...],
    place: tuple[float, float],
) -> Step:
    """Return the operation at a level of which 1 is the largest intended.

    `negative` turns what has a direction around.
    """
    height, width = size
    sign = -1.0 if negative else 1.0
    match name:
        case "Rotate":
            return Step(name, (sign * level * 30,))
        case "ShearX" | "ShearY":
            shear = sign * level * 0.3
            # About the middle of the first pixel, so the first line stays in place.
            return Step(name, (shear, -shear / 2))
        case "TranslateX":
            return Step(name, (sign * level * 100 * width / 224,))
        case "TranslateY":
            return Step(name, (sign * level * 100 * height / 224,))
        case "Color" | "Contrast" | "Brightness" | "Sharpness":
            return Step(name, (level * 1.8 + 0.1,))
        case "Posterize":
            # TensorFlow shifts uint8 by at most 7 bits, and takes a negative shift for a
            # large one.
            lost = min((8 - int(level * 4)) % 256, 7)
            return Step(name, (8 - lost,))
        case "Solarize":
            return Step(name, (int(level * 256) % 256,))
        case "SolarizeAdd":
            return Step(name, (int(level * 110),))
        case "Cutout":
            pad = int(level * 40 * min(size) / 224)
            row = int(place[0] * height)
            column = int(place[1] * width)
            return Step(name, (pad, row, column))
    return Step(name)


def timm_plan(
    draws: np.ndarray, size: tuple[int, ...], layers: int = 2, magnitude: float = 9
) -> list[Step]:
    """Return what timm's RandAugment does to an image with these draws.

    Args:
        draws: At least SLOT * layers numbers in [0, 1).
        size: (H, W) of the image.
        layers: How many operations at most.
        magnitude: 0 to 10, DeiT's is 9.
    """
    own = draws[: SLOT * layers].reshape(-1, SLOT)
    steps = []
    for which, acts, sign, noise in own:
        if acts > _ACTS:
            continue
        name = TIMM[int(which * len(TIMM))]
        drawn = NormalDist(magnitude, _SPREAD).inv_cdf(max(float(noise), _LEAST_DRAW))
        level = min(max(drawn, 0.0), MOST_OF_TIMM) / MOST_OF_TIMM
        steps.append(_timm_step(name, level, sign > 0.5, size))
    return steps


def _timm_step(name: str, level: float, negative: bool, size: tuple[int, ...]) -> Step:
    """Return timm's operation at a level of 0 to 1."""
    height, width = size
    signed = -level if negative else level
    match name:
        case "Rotate":
            return Step(name, (signed * 30,))
        case "ShearX" | "ShearY":
            # About the corner of the first pixel, which moves a little.
            return Step(name, (signed * 0.3, 0.0))
        case "TranslateX":
            return Step(name, (-signed * 0.45 * width,))
        case "TranslateY":
            return Step(name, (-signed * 0.45 * height,))
        case "Color" | "Contrast" | "Brightness" | "Sharpness":
            # Away from 1, which changes nothing, in either direction.
            return Step(name, (max(0.1, 1 + signed * 0.9),))
        case "Posterize":
            # At the largest level no bit is left, and the image is black.
            return Step(name, (4 - int(level * 4),))
        case "Solarize":
            return Step(name, (256 - min(256, int(level * 256)),))
        case "SolarizeAdd":
            return Step(name, (min(128, int(level * 110)),))
    return Step(name)
