"""Mixup and CutMix: every image of a batch mixed with a partner, in one share for all
that comes from (seed, step).

Mixup (Zhang et al. 2017, arXiv 1710.09412) adds two images, CutMix (Yun et al. 2019,
arXiv 1905.04899) pastes a part of one into the other. The partner of an image is the
one before it in its group, the first one's is the last. Groups are consecutive places
of the global batch and never straddle processes, so that the number of processes
changes nothing.

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

from ..errors import UserError
from ..randomness import philox
from .settings import Mix


@dataclass(frozen=True)
class MixPlan:
    """One batch's mixture.

    Attributes:
        share: lambda, the part of every image and target that stays its own.
        box: (top, left, bottom, right) of what CutMix takes from the partner; none for
            mixup.
    """

    share: float = 1.0
    box: tuple[int, int, int, int] | None = None


def mix_plan(mix: Mix, seed: int, step: int, size: tuple[int, int]) -> MixPlan:
    """How to mix the batch of a step of images of `size` (H, W): a pure function, the
    same in all processes.

    A CutMix box has the height H * sqrt(1 - lambda), the width likewise, a centre
    anywhere, and is cut off at the borders; lambda is then what the box really leaves
    (timm's "correct_lam").
    """
    generator = philox("mix", seed, step)
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
    (top, bottom) = _span(row, height, share)
    (left, right) = _span(column, width, share)
    return MixPlan(
        1 - (bottom - top) * (right - left) / (height * width),
        (top, left, bottom, right),
    )


def _span(draw: float, length: int, share: float) -> tuple[int, int]:
    """From and to of one side of the box, cut off at the borders."""
    side = int(length * (1 - share) ** 0.5)
    centre = int(draw * length)
    return max(0, centre - side // 2), min(length, centre + (side + 1) // 2)


def check_group(group: int, batch_size: int) -> None:
    """`UserError` unless whole groups make up a process's part of the batch."""
    if batch_size % group:
        raise UserError(
            f"mix.group {group} does not divide the {batch_size} images that each process has of a batch; "
            "change train.batch_size or mix.group"
        )


def apply(
    plan: MixPlan,
    images: Float[Tensor, "B C H W"] | UInt8[Tensor, "B C H W"],
    labels: Int64[Tensor, " B"],
    classes: int,
    group: int = 2,
) -> tuple[Float32[Tensor, "B C H W"], Float32[Tensor, "B classes"]]:
    """The mixed images and their targets, on the device of the images; the arguments
    stay as they are.

    Normalising before or after makes no difference but rounding. Raises `UserError` if
    the group does not divide B.
    """
    check_group(group, len(images))
    images = images.float()
    targets = soft_targets(labels, classes)
    if plan.share == 1:
        return images, targets
    if plan.box is None:
        mixed = images * plan.share + _partners(images, group) * (1 - plan.share)
    else:
        top, left, bottom, right = plan.box
        mixed = images.clone()
        mixed[:, :, top:bottom, left:right] = _partners(
            images[:, :, top:bottom, left:right], group
        )
    return mixed, targets * plan.share + _partners(targets, group) * (1 - plan.share)


def _partners(values: Tensor, group: int) -> Tensor:
    """For each place the value one place before it in its group."""
    return values.reshape(-1, group, *values.shape[1:]).roll(1, dims=1).flatten(0, 1)


def soft_targets(
    labels: Int64[Tensor, " B"], classes: int, smoothing: float = 0.0
) -> Float32[Tensor, "B classes"]:
    """Rows of 1 at the label and 0 elsewhere, with the share `smoothing` spread evenly
    over all classes.
    """
    return F.one_hot(labels, classes).float() * (1 - smoothing) + smoothing / classes
