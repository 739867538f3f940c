"""Mixup and CutMix: every image of a batch is mixed with a partner.

Mixup (Zhang et al. 2017, arXiv 1710.09412) adds two images, CutMix (Yun et al. 2019,
arXiv 1905.04899) pastes a part of one into the other. All images of a batch have one
share, which follows from (seed, step).

The partner of an image is the one before it in its group; the first one's is the last.
Groups are consecutive places of the global batch and never straddle processes, so the
number of processes changes nothing.

Groups of two pair the images off, as timm does by turning the batch around; any even
share of a batch will do. Larger ones make rings, as google-research/big_vision does
with all images of a device. The order of images is random, so each image meets the same
partners equally often either way; only which pairs come together in one batch differs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from jaxtyping import Float, Float32, Int64, UInt8
from torch import Tensor

from ..randomness import philox
from .settings import Mix


@dataclass(frozen=True)
class MixPlan:
    """Say how one batch is mixed.

    Attributes:
        share: lambda, the part of every image and target that stays its own.
        box: (top, left, bottom, right) of what CutMix takes from the partner; None for
            mixup.
    """

    share: float = 1.0
    box: tuple[int, int, int, int] | None = None


def mix_plan(mix: Mix, seed: int, step: int, size: tuple[int, int]) -> MixPlan:
    """Decide how to mix the batch of a step; the same in all processes.

    A CutMix box has the height H * sqrt(1 - lambda), the width likewise, a centre
    anywhere, and is cut off at the borders; lambda is then what the box really leaves
    (timm's "correct_lam").

    Args:
        mix: The settings.
        seed: Of the run.
        step: Counted from 0.
        size: (H, W) of the images.
    """
    generator = philox("mix", seed, step)
    # All four are drawn whether needed or not, so that a setting never moves the others.
    whether, which, row, column = generator.random(4)
    if not mix.active or whether >= mix.prob:
        return MixPlan()
    cut = mix.cutmix > 0 and (mix.mixup == 0 or which < mix.switch_prob)
    alpha = mix.cutmix if cut else mix.mixup
    share = float(generator.beta(alpha, alpha))
    if mix.rule == "paper":
        share = max(share, 1 - share)
    if not cut:
        return MixPlan(share)
    height, width = size
    top, bottom = _span(row, height, share)
    left, right = _span(column, width, share)
    covered = (bottom - top) * (right - left) / (height * width)
    return MixPlan(1 - covered, (top, left, bottom, right))


def _span(draw: float, length: int, share: float) -> tuple[int, int]:
    """Return where one side of the box begins and ends, cut off at the borders."""
    side = int(length * (1 - share) ** 0.5)
    centre = int(draw * length)
    # Of an odd side the pixel in the middle belongs to the second half.
    return max(0, centre - side // 2), min(length, centre + (side + 1) // 2)


def apply(
    plan: MixPlan,
    images: Float[Tensor, "B C H W"] | UInt8[Tensor, "B C H W"],
    labels: Int64[Tensor, " B"] | Float32[Tensor, "B classes"],
    classes: int,
    group: int = 2,
) -> tuple[Float32[Tensor, "B C H W"], Float32[Tensor, "B classes"]]:
    """Return the mixed images and their targets, on the device of the images.

    Normalising before or after makes no difference but rounding.

    Args:
        plan: From `mix_plan`.
        images: They stay as they are.
        labels: Their classes, or 1 for each of several labels and else 0.
        classes: How many there are.
        group: Images that mix among themselves. It divides B:
            `training.parallel.check_parallel` has refused anything else.
    """
    assert len(images) % group == 0, (len(images), group)
    images = images.float()
    targets = soft_targets(labels, classes)
    if plan.share == 1:
        return images, targets
    if plan.box is None:
        mixed = images * plan.share + _partners(images, group) * (1 - plan.share)
    else:
        top, left, bottom, right = plan.box
        parts = images[:, :, top:bottom, left:right]
        mixed = images.clone()
        mixed[:, :, top:bottom, left:right] = _partners(parts, group)
    return mixed, targets * plan.share + _partners(targets, group) * (1 - plan.share)


def _partners(values: Tensor, group: int) -> Tensor:
    """Return for each place the value one place before it in its group."""
    return values.reshape(-1, group, *values.shape[1:]).roll(1, dims=1).flatten(0, 1)


def soft_targets(
    labels: Int64[Tensor, " B"] | Float32[Tensor, "B classes"],
    classes: int,
    smoothing: float = 0.0,
) -> Float32[Tensor, "B classes"]:
    """Return rows of 1 at the label and 0 elsewhere.

    Args:
        labels: Class numbers, or such rows already, with several labels each.
        classes: How many there are.
        smoothing: A share that is spread evenly over all classes.
    """
    rows = labels if labels.ndim == 2 else F.one_hot(labels, classes).float()
    return rows * (1 - smoothing) + smoothing / classes
