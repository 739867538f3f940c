"""Augmentation policies: a few random operations per image.

Uniform numbers that belong to the image choose them, so the same image in the same epoch
looks the same whatever the number of workers, and after a resume.

"randaugment_bv" is the RandAugment of the paper's authors (google-research/big_vision,
pp/archive/autoaugment.py) as it runs, which is not quite as it reads. Every layer always
acts: the probabilities it draws are never used. The threshold of Solarize is an 8-bit
number and wraps around, so that magnitude 15 means 128, and 10 and 20 invert the image.
One thing is ours: translations and Cutout are theirs at 224 pixels (150 and a square of
120 at magnitude 15) and grow and shrink with the image, since on one of 32 theirs would
leave nothing to see. What is chosen (`plan`) and what is done (`operate`) are two things.
Pixels are Pillow's. Measured against TensorFlow 2.12 on 24 photos and noise, magnitudes
1 to 20: Color, Contrast and Sharpness differ by up to 2 levels of 255 at 15 and 3 at 20,
AutoContrast by 1, rotations and shears where two neighbours are equally near (up to 0.1
and 4 % of pixels), all others nowhere.

The other policies are the classes of torchvision.transforms.v2 with their defaults:
nearest neighbours, black for what moves in. torchvision is imported when one of them is
first used.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageOps

from ..choices import Policy
from ..errors import UserError
from .decode import Pixels

# Uniform numbers that an operation of big_vision owns: which one, its sign, and two that
# say where Cutout goes.
SLOT = 4

_GRAY = 128  # what moves in with big_vision, and what Cutout leaves

# In the order of big_vision, which a draw counts through.
_BIG_VISION = (
    "AutoContrast", "Equalize", "Invert", "Rotate", "Posterize", "Solarize", "Color",
    "Contrast", "Brightness", "Sharpness", "ShearX", "ShearY", "TranslateX", "TranslateY",
    "Cutout", "SolarizeAdd",
)  # fmt: skip


class Step(NamedTuple):
    """An operation of big_vision's RandAugment and its numbers.

    Attributes:
        name: As in big_vision.
        values: Degrees, a factor, a threshold, bits, pixels, or (pad, row, column) of
            Cutout.
    """

    name: str
    values: tuple[float, ...] = ()


def policy_draws(policy: Policy, layers: int) -> int:
    """Return how many uniform numbers of its own an image needs for a policy.

    Args:
        policy: Its name.
        layers: Operations on an image; only the RandAugments ask for it.
    """
    if policy == "none":
        return 0
    # torchvision draws all it needs from one generator, and a single number seeds it.
    return SLOT * layers if policy == "randaugment_bv" else 1


def apply_policy(
    image: Pixels,
    draws: np.ndarray,
    policy: Policy,
    layers: int = 2,
    magnitude: float = 10,
) -> Pixels:
    """Return what a policy makes of an image.

    Args:
        image: uint8 (H, W, 1) or (H, W, 3).
        draws: At least `policy_draws(policy, layers)` numbers in [0, 1).
        policy: Its name.
        layers: Operations on the image, of the two RandAugments.
        magnitude: Of the two RandAugments; for torchvision's a whole number of 0 to 30.

    Raises:
        UserError: The image has another number of channels, or the policy is
            torchvision's, which cannot be imported.
    """
    channels = image.shape[2]
    if channels not in (1, 3):
        raise UserError(
            f"augment.policy needs images of 1 or 3 channels, got {channels}; "
            "set augment.policy=none"
        )
    if policy == "none":
        return image
    pixels = image[..., 0] if channels == 1 else image
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    if policy == "randaugment_bv":
        for step in plan(draws, image.shape[:2], layers, magnitude):
            picture = operate(picture, step)
    else:
        transform = _torchvision_transform(policy, layers, int(magnitude))
        picture = _seeded(transform, picture, draws[0])
    return np.asarray(picture).reshape(image.shape)


@functools.cache
def _torchvision_transform(
    policy: Policy, layers: int, magnitude: int
) -> Callable[[Image.Image], Image.Image]:
    """Return torchvision's object for a policy."""
    try:
        from torchvision.transforms import v2
    # An installation for another torch raises RuntimeError from inside.
    except Exception as error:
        raise UserError(
            f"augment.policy={policy} is torchvision's, which cannot be imported "
            f"({error}): install the one made for your torch, or set "
            "augment.policy=randaugment_bv"
        ) from error
    if policy == "randaugment":
        transform: Any = v2.RandAugment(num_ops=layers, magnitude=magnitude)
    elif policy == "trivialaugment":
        transform = v2.TrivialAugmentWide()
    else:
        table = policy.removeprefix("autoaugment_")
        transform = v2.AutoAugment(v2.AutoAugmentPolicy(table))
    return transform


def _seeded(
    transform: Callable[[Image.Image], Image.Image], picture: Image.Image, draw: float
) -> Image.Image:
    """Apply a transform whose random numbers all follow from one draw in [0, 1)."""
    # torchvision draws from torch's global CPU generator. The fork puts its state back
    # afterwards, so dropout and the order of images go on as if nothing had happened.
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed: that one would also seed the GPUs, which the fork does
        # not put back. A draw has 53 random bits, and all of them count.
        torch.default_generator.manual_seed(int(draw * 2**53))
        return transform(picture)


def plan(
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
        name = _BIG_VISION[int(which * len(_BIG_VISION))]
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


def operate(picture: Image.Image, step: Step) -> Image.Image:
    """Return what one operation makes of a gray or RGB picture.

    Args:
        picture: Mode L or RGB; it is not changed.
        step: From `plan`.
    """
    return _OPERATIONS[step.name](picture, *step.values)


def _moved(picture: Image.Image, matrix: Sequence[float]) -> Image.Image:
    """Show input (ax + by + c, dx + ey + f) at output (x, y).

    Pixel centres are at halves.
    """
    return picture.transform(
        picture.size,
        Image.Transform.AFFINE,
        matrix,
        Image.Resampling.NEAREST,
        fillcolor=_gray(picture),
    )


def _gray(picture: Image.Image) -> tuple[int, ...]:
    return (_GRAY,) * len(picture.getbands())


def _rotated(picture: Image.Image, degrees: float) -> Image.Image:
    return picture.rotate(degrees, Image.Resampling.NEAREST, fillcolor=_gray(picture))


def _cut_out(
    picture: Image.Image, pad: float, row: float, column: float
) -> Image.Image:
    """Cover a square of side 2 * pad, cut off at the borders."""
    covered = picture.copy()
    box = (int(column - pad), int(row - pad), int(column + pad), int(row + pad))
    covered.paste(_gray(picture), box)
    return covered


def _looked_up(picture: Image.Image, values: Sequence[int]) -> Image.Image:
    """Replace each value v by values[v], in all channels."""
    return picture.point(list(values) * len(picture.getbands()))


def _solarized(picture: Image.Image, least: float) -> Image.Image:
    """Invert the values from `least` on."""
    return _looked_up(picture, [v if v < least else 255 - v for v in range(256)])


def _brightened_darks(picture: Image.Image, more: float) -> Image.Image:
    """Add to the values in the darker half."""
    added = [min(255, v + int(more)) for v in range(128)]
    return _looked_up(picture, [*added, *range(128, 256)])


_OPERATIONS: dict[str, Callable[..., Image.Image]] = {
    "AutoContrast": ImageOps.autocontrast,
    "Equalize": ImageOps.equalize,
    "Invert": ImageOps.invert,
    "Rotate": _rotated,
    "Posterize": lambda picture, bits: ImageOps.posterize(picture, int(bits)),
    "Solarize": _solarized,
    "Color": lambda picture, factor: ImageEnhance.Color(picture).enhance(factor),
    "Contrast": lambda picture, factor: ImageEnhance.Contrast(picture).enhance(factor),
    "Brightness": lambda picture, factor: ImageEnhance.Brightness(picture).enhance(factor),
    "Sharpness": lambda picture, factor: ImageEnhance.Sharpness(picture).enhance(factor),
    "ShearX": lambda picture, shear, shift: _moved(picture, (1, shear, shift, 0, 1, 0)),
    "ShearY": lambda picture, shear, shift: _moved(picture, (1, 0, 0, shear, 1, shift)),
    "TranslateX": lambda picture, pixels: _moved(picture, (1, 0, -pixels, 0, 1, 0)),
    "TranslateY": lambda picture, pixels: _moved(picture, (1, 0, 0, 0, 1, -pixels)),
    "Cutout": _cut_out,
    "SolarizeAdd": _brightened_darks,
}  # fmt: skip
