"""Augmentation policies: a few random operations per image, chosen by uniform numbers
that belong to that image.

What is chosen (`plan`) and what is done (`operate`) are two things. Pixels are
Pillow's, as in torchvision and timm.

"randaugment_bv" is the RandAugment of the paper's authors (google-research/big_vision,
pp/archive/autoaugment.py) as it runs, which is not quite as it reads: every layer
always acts (the probabilities it draws are never used); the threshold of Solarize is an
8-bit number and wraps around, so that magnitude 15 means 128, and 10 and 20 invert the
image. One thing is ours: translations and Cutout are theirs at 224 pixels (150 and a
square of 120 at magnitude 15) and grow and shrink with the image, since on one of 32
theirs would leave nothing to see. Measured against TensorFlow 2.12 on 24 photos and
noise, magnitudes 1 to 20: Color, Contrast and Sharpness differ by up to 2 levels of 255
at 15 and 3 at 20, AutoContrast by 1, rotations and shears where two neighbours are
equally near (up to 0.1 and 4 % of pixels), all others nowhere.

The others follow the tables and defaults of torchvision.transforms.v2: nearest
neighbours, black for what moves in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageOps

from ..choices import Policy
from ..errors import UserError
from .decode import Pixels
from .settings import BINS

SLOT = 4  # uniform numbers that one operation owns: which one, its sign, and two more

# Each in the order of its source.
_TORCHVISION = (
    *(
        "Identity",
        "ShearX",
        "ShearY",
        "TranslateX",
        "TranslateY",
        "Rotate",
        "Brightness",
        "Color",
        "Contrast",
    ),
    *("Sharpness", "Posterize", "Solarize", "AutoContrast", "Equalize"),
)
_BIG_VISION = (
    *(
        "AutoContrast",
        "Equalize",
        "Invert",
        "Rotate",
        "Posterize",
        "Solarize",
        "Color",
        "Contrast",
        "Brightness",
    ),
    *(
        "Sharpness",
        "ShearX",
        "ShearY",
        "TranslateX",
        "TranslateY",
        "Cutout",
        "SolarizeAdd",
    ),
)

# Cubuk et al. 2019 (arXiv 1805.09501), appendix: operation, probability, magnitude of
# ten; two make a sub-policy.
_SUB_POLICIES = {
    "autoaugment_imagenet": """
        Posterize .4 8 Rotate .6 9 | Solarize .6 5 AutoContrast .6 - | Equalize .8 - Equalize .6 -
        Posterize .6 7 Posterize .6 6 | Equalize .4 - Solarize .2 4 | Equalize .4 - Rotate .8 8
        Solarize .6 3 Equalize .6 - | Posterize .8 5 Equalize 1 - | Rotate .2 3 Solarize .6 8
        Equalize .6 - Posterize .4 6 | Rotate .8 8 Color .4 0 | Rotate .4 9 Equalize .6 -
        Equalize 0 - Equalize .8 - | Invert .6 - Equalize 1 - | Color .6 4 Contrast 1 8
        Rotate .8 8 Color 1 2 | Color .8 8 Solarize .8 7 | Sharpness .4 7 Invert .6 -
        ShearX .6 5 Equalize 1 - | Color .4 0 Equalize .6 - | Equalize .4 - Solarize .2 4
        Solarize .6 5 AutoContrast .6 - | Invert .6 - Equalize 1 - | Color .6 4 Contrast 1 8
        Equalize .8 - Equalize .6 -""",
    "autoaugment_cifar10": """
        Invert .1 - Contrast .2 6 | Rotate .7 2 TranslateX .3 9 | Sharpness .8 1 Sharpness .9 3
        ShearY .5 8 TranslateY .7 9 | AutoContrast .5 - Equalize .9 - | ShearY .2 7 Posterize .3 7
        Color .4 3 Brightness .6 7 | Sharpness .3 9 Brightness .7 9 | Equalize .6 - Equalize .5 -
        Contrast .6 7 Sharpness .6 5 | Color .7 7 TranslateX .5 8 | Equalize .3 - AutoContrast .4 -
        TranslateY .4 3 Sharpness .2 6 | Brightness .9 6 Color .2 8 | Solarize .5 2 Invert 0 -
        Equalize .2 - AutoContrast .6 - | Equalize .2 - Equalize .6 - | Color .9 9 Equalize .6 -
        AutoContrast .8 - Solarize .2 8 | Brightness .1 3 Color .7 0 | Solarize .4 5 AutoContrast .9 -
        TranslateY .9 9 TranslateY .7 9 | AutoContrast .9 - Solarize .8 3 | Equalize .8 - Invert .1 -
        TranslateY .7 9 AutoContrast .9 -""",
    "autoaugment_svhn": """
        ShearX .9 4 Invert .2 - | ShearY .9 8 Invert .7 - | Equalize .6 - Solarize .6 6
        Invert .9 - Equalize .6 - | Equalize .6 - Rotate .9 3 | ShearX .9 4 AutoContrast .8 -
        ShearY .9 8 Invert .4 - | ShearY .9 5 Solarize .2 6 | Invert .9 - AutoContrast .8 -
        Equalize .6 - Rotate .9 3 | ShearX .9 4 Solarize .3 3 | ShearY .8 8 Invert .7 -
        Equalize .9 - TranslateY .6 6 | Invert .9 - Equalize .6 - | Contrast .3 3 Rotate .8 4
        Invert .8 - TranslateY 0 2 | ShearY .7 6 Solarize .4 8 | Invert .6 - Rotate .8 4
        ShearY .3 7 TranslateX .9 3 | ShearX .1 6 Invert .6 - | Solarize .7 2 TranslateY .6 7
        ShearY .8 4 Invert .8 - | ShearX .7 9 TranslateY .8 3 | ShearY .8 5 AutoContrast .7 -
        ShearX .7 2 Invert .1 -""",
}


class Step(NamedTuple):
    """An operation and its numbers: degrees, a factor, a threshold, bits, pixels, or
    (pad, row, column) of Cutout.
    """

    name: str
    values: tuple[float, ...] = ()


SubPolicies = list[list[tuple[str, float, int | None]]]


def _parsed(table: str) -> SubPolicies:
    words = table.replace("|", " ").split()
    found = [
        (name, float(probability), None if magnitude == "-" else int(magnitude))
        for name, probability, magnitude in zip(*[iter(words)] * 3, strict=True)
    ]
    return [found[start : start + 2] for start in range(0, len(found), 2)]


SUB_POLICIES = {name: _parsed(table) for name, table in _SUB_POLICIES.items()}


def slots(policy: Policy, layers: int) -> int:
    """How many operations of SLOT draws each a policy can take; only the RandAugments
    ask for `layers`.
    """
    fixed = {"none": 0, "trivialaugment": 1} | dict.fromkeys(SUB_POLICIES, 2)
    return fixed.get(policy, layers)


def apply_policy(
    image: Pixels,
    draws: np.ndarray,
    policy: Policy,
    layers: int = 2,
    magnitude: float = 10,
) -> Pixels:
    """The policy on one image.

    Args:
        image: uint8 (H, W, 1) or (H, W, 3).
        draws: at least SLOT * slots(policy, layers) numbers in [0, 1).
        layers, magnitude: of the two RandAugments; for torchvision's, a whole magnitude
            of 0 to 30.

    Raises:
        UserError: the image has another number of channels.
    """
    if image.shape[2] not in (1, 3):
        raise UserError(
            f"augment.policy needs images of 1 or 3 channels, got {image.shape[2]}; set augment.policy=none"
        )
    picture = Image.fromarray(
        np.ascontiguousarray(image.squeeze(2) if image.shape[2] == 1 else image)
    )
    fill = 128 if policy == "randaugment_bv" else 0
    for step in plan(policy, draws, image.shape[:2], layers, magnitude):
        picture = operate(picture, step, fill)
    return np.asarray(picture).reshape(image.shape)


def plan(
    policy: Policy,
    draws: np.ndarray,
    size: tuple[int, ...],
    layers: int = 2,
    magnitude: float = 10,
) -> list[Step]:
    """What the policy does to an image of `size` (H, W) with these draws."""
    own = draws[: SLOT * slots(policy, layers)].reshape(-1, SLOT)
    if policy in SUB_POLICIES:
        choices = SUB_POLICIES[policy]
        chosen = choices[int(own[0, 0] * len(choices))]
        return [
            _torchvision(name, bin_ or 0, 10, sign < 0.5, size)
            for (name, probability, bin_), (_, sign, gate, _) in zip(
                chosen, own, strict=True
            )
            if gate < probability
        ]
    steps = []
    for which, sign, third, fourth in own:
        if policy == "randaugment_bv":
            name = _BIG_VISION[int(which * len(_BIG_VISION))]
            steps.append(
                _big_vision(name, magnitude / 10, sign < 0.5, size, (third, fourth))
            )
        else:
            name = _TORCHVISION[int(which * len(_TORCHVISION))]
            wide = policy == "trivialaugment"
            steps.append(
                _torchvision(
                    name,
                    int(third * BINS if wide else magnitude),
                    BINS,
                    sign < 0.5,
                    size,
                    wide,
                )
            )
    return steps


def _big_vision(
    name: str,
    level: float,
    negative: bool,
    size: tuple[int, ...],
    place: tuple[float, float],
) -> Step:
    """The operation at a level of which 1 is the largest intended; negative turns what
    has a direction around.
    """
    sign = -1.0 if negative else 1.0
    match name:
        case "Rotate":
            return Step(name, (sign * level * 30,))
        case "ShearX" | "ShearY":
            shear = sign * level * 0.3
            return Step(
                name, (shear, -shear / 2)
            )  # about the middle of the first pixel
        case "TranslateX" | "TranslateY":
            return Step(name, (sign * level * 100 * size[name == "TranslateX"] / 224,))
        case "Color" | "Contrast" | "Brightness" | "Sharpness":
            return Step(name, (level * 1.8 + 0.1,))
        # TensorFlow shifts uint8 by at most 7 bits, and takes a negative shift for a
        # large one
        case "Posterize":
            return Step(name, (8 - min((8 - int(level * 4)) % 256, 7),))
        case "Solarize":
            return Step(name, (int(level * 256) % 256,))
        case "SolarizeAdd":
            return Step(name, (int(level * 110),))
        case "Cutout":
            pad = int(level * 40 * min(size) / 224)
            return Step(name, (pad, int(place[0] * size[0]), int(place[1] * size[1])))
    return Step(name)


def _torchvision(
    name: str,
    bin_: int,
    bins: int,
    negative: bool,
    size: tuple[int, ...],
    wide: bool = False,
) -> Step:
    """The operation at a magnitude of that many bins, in the ranges of RandAugment or
    of TrivialAugmentWide.
    """

    def directed(largest: float) -> float:
        value = float(
            torch.linspace(0.0, largest, bins)[bin_]
        )  # float32, as in torchvision
        return -value if negative else value

    match name:
        case "ShearX" | "ShearY":
            return Step(name, (directed(0.99 if wide else 0.3), 0.0))
        case "TranslateX" | "TranslateY":
            side = size[1] if name == "TranslateX" else size[0]
            return Step(name, (int(directed(32.0 if wide else 150.0 / 331.0 * side)),))
        case "Rotate":
            return Step(name, (directed(135.0 if wide else 30.0),))
        case "Color" | "Contrast" | "Brightness" | "Sharpness":
            return Step(name, (1 + directed(0.99 if wide else 0.9),))
        case "Posterize":
            return Step(name, (round(8 - bin_ / ((bins - 1) / (6 if wide else 4))),))
        case "Solarize":
            return Step(name, (255 * float(torch.linspace(1.0, 0.0, bins)[bin_]),))
    return Step(name)


def operate(picture: Image.Image, step: Step, fill: int = 0) -> Image.Image:
    """One operation on a gray or RGB picture; `fill` is the gray of what moves in, and
    of Cutout.
    """
    return _OPERATIONS[step.name](picture, fill, *step.values)


def _moved(picture: Image.Image, fill: int, matrix: Sequence[float]) -> Image.Image:
    """Output (x, y) shows input (ax + by + c, dx + ey + f), with pixel centres at
    halves.
    """
    return picture.transform(
        picture.size,
        Image.Transform.AFFINE,
        matrix,
        Image.Resampling.NEAREST,
        fillcolor=_colour(picture, fill),
    )


def _colour(picture: Image.Image, gray: int) -> tuple[int, ...]:
    return (gray,) * len(picture.getbands())


def _table(picture: Image.Image, values: Sequence[int]) -> Image.Image:
    return picture.point(list(values) * len(picture.getbands()))


def _cutout(
    picture: Image.Image, fill: int, pad: float, row: float, column: float
) -> Image.Image:
    """A square of side 2 * pad, cut off at the borders."""
    covered = picture.copy()
    box = (int(column - pad), int(row - pad), int(column + pad), int(row + pad))
    covered.paste(_colour(picture, fill), box)
    return covered


_OPERATIONS: dict[str, Callable[..., Image.Image]] = {
    "Identity": lambda picture, fill: picture,
    "AutoContrast": lambda picture, fill: ImageOps.autocontrast(picture),
    "Equalize": lambda picture, fill: ImageOps.equalize(picture),
    "Invert": lambda picture, fill: ImageOps.invert(picture),
    "Posterize": lambda picture, fill, bits: ImageOps.posterize(picture, int(bits)),
    "Solarize": lambda picture, fill, least: _table(
        picture, [v if v < least else 255 - v for v in range(256)]
    ),
    "SolarizeAdd": lambda picture, fill, more: _table(
        picture, [min(255, v + int(more)) if v < 128 else v for v in range(256)]
    ),
    "Color": lambda picture, fill, factor: ImageEnhance.Color(picture).enhance(factor),
    "Contrast": lambda picture, fill, factor: ImageEnhance.Contrast(picture).enhance(
        factor
    ),
    "Brightness": lambda picture, fill, factor: ImageEnhance.Brightness(
        picture
    ).enhance(factor),
    "Sharpness": lambda picture, fill, factor: ImageEnhance.Sharpness(picture).enhance(
        factor
    ),
    "Rotate": lambda picture, fill, degrees: picture.rotate(
        degrees, Image.Resampling.NEAREST, fillcolor=_colour(picture, fill)
    ),
    "ShearX": lambda picture, fill, shear, shift: _moved(
        picture, fill, (1, shear, shift, 0, 1, 0)
    ),
    "ShearY": lambda picture, fill, shear, shift: _moved(
        picture, fill, (1, 0, 0, shear, 1, shift)
    ),
    "TranslateX": lambda picture, fill, pixels: _moved(
        picture, fill, (1, 0, -pixels, 0, 1, 0)
    ),
    "TranslateY": lambda picture, fill, pixels: _moved(
        picture, fill, (1, 0, 0, 0, 1, -pixels)
    ),
    "Cutout": _cutout,
}
