"""Augmentation policies: a few random operations per image.

Uniform numbers that belong to the image choose them, so the same image in the same epoch
looks the same whatever the number of workers, and after a resume.

"randaugment_bv" is the RandAugment of the paper's authors, "randaugment_timm" that of
timm and DeiT; `randaugment` states both. What is chosen (a plan) and what is done
(`operations.operate`) are two things. big_vision takes the nearest pixel, and gray moves
in; with timm the filter is that of the crop, and the mean of the data moves in.

The other policies are the classes of torchvision.transforms.v2 with their defaults:
nearest neighbours, black for what moves in. torchvision is imported when one of them is
first used.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image

from ..choices import Policy
from ..errors import UserError
from .decode import Pixels
from .operations import Moving, Step, operate
from .randaugment import SLOT, big_vision_plan, timm_plan

_FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}
_OWN = ("randaugment_bv", "randaugment_timm")  # not torchvision's


def policy_draws(policy: Policy, layers: int) -> int:
    """Return how many uniform numbers of its own an image needs for a policy.

    Args:
        policy: Its name.
        layers: Operations on an image; only the RandAugments ask for it.
    """
    if policy == "none":
        return 0
    # torchvision draws all it needs from one generator, and a single number seeds it.
    return SLOT * layers if policy in _OWN else 1


def apply_policy(
    image: Pixels,
    draws: np.ndarray,
    policy: Policy,
    layers: int = 2,
    magnitude: float = 10,
    *,
    mean: Sequence[float] = (0.5,),
    interpolation: Literal["bilinear", "bicubic"] = "bilinear",
) -> Pixels:
    """Return what a policy makes of an image.

    Args:
        image: uint8 (H, W, 1) or (H, W, 3).
        draws: At least `policy_draws(policy, layers)` numbers in [0, 1).
        policy: Its name.
        layers: Operations on the image, of the RandAugments.
        magnitude: Of the RandAugments; for torchvision's a whole number of 0 to 30, for
            timm's at most 10.
        mean: Of the data, in [0, 1], one or one per channel: what moves in with timm's.
        interpolation: Of timm's.

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
    size = image.shape[:2]
    if policy == "randaugment_bv":
        steps = big_vision_plan(draws, size, layers, magnitude)
        picture = _operated(picture, steps, Moving())
    elif policy == "randaugment_timm":
        steps = timm_plan(draws, size, layers, magnitude)
        # As timm's create_transform rounds it.
        fill = tuple(min(255, round(255 * value)) for value in mean)
        picture = _operated(picture, steps, Moving(fill, _FILTERS[interpolation]))
    else:
        transform = _torchvision_transform(policy, layers, int(magnitude))
        picture = _seeded(transform, picture, draws[0])
    return np.asarray(picture).reshape(image.shape)


def _operated(
    picture: Image.Image, steps: Sequence[Step], moving: Moving
) -> Image.Image:
    for step in steps:
        picture = operate(picture, step, moving)
    return picture


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
