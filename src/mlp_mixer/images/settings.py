"""What can be set about augmentation and mixing, checked; no torch, so that recipes load fast."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from ..choices import EraseValue, MixRule, Policy
from ..errors import UserError, unknown

# Magnitudes 0 to 30 of torchvision's RandAugment and TrivialAugment; AutoAugment has ten.
BINS = 31


@dataclass(frozen=True)
class Augment:
    """What happens to a training image, in this order: crop, affine, flip, policy,
    erasing.

    Without an affine map this is big_vision's order (inception_crop | flip_lr |
    randaug), with erasing last as in timm.
    """

    crop: Literal["none", "pad", "inception"] = "none"
    pad: int = 4  # for crop="pad": zeros around the image before a crop of the old size
    area: tuple[float, float] = (
        0.05,
        1.0,
    )  # for crop="inception": share of the image that is kept
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    # for crop="inception": JPEGs no finer than the crop needs (see
    # `images.decode.Part`)
    scaled_decode: bool = True
    shift: float = 0.0  # largest displacement, as a share of the side
    rotate: float = 0.0  # largest rotation, in degrees
    scale: float = 0.0  # largest relative change of size, such as 0.1
    flip: bool = False
    # of flips: every other epoch (Jordan, arXiv 2404.00498), instead of by chance
    alternate: bool = False
    policy: Policy = "none"  # see `images.policies`
    policy_layers: int = 2  # operations per image, of both RandAugments
    # of both RandAugments, 0 to 30: 15 in the paper; torchvision's default is 9
    policy_magnitude: float = 10.0
    # probability of a random rectangle (Zhong et al. 2020, arXiv 1708.04896) without
    # content
    erase: float = 0.0
    # noise of the data's mean and deviation (timm "pixel"), their mean, or black
    erase_value: EraseValue = "random"
    # side lengths in pixels, one drawn for each step: see `training.extras.elastic`
    sides: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        low, high = self.area
        if not 0 < low <= high <= 1:
            raise UserError(
                f"augment.area must be two shares 0 < low <= high <= 1, got {low}, {high}"
            )
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise UserError(
                f"augment.ratio must be 0 < low <= high, got {self.ratio[0]}, {self.ratio[1]}"
            )
        for name in ("pad", "shift", "rotate", "scale"):
            if getattr(self, name) < 0:
                raise UserError(
                    f"augment.{name} must not be negative, got {getattr(self, name)}"
                )
        if self.scale >= 1:
            raise UserError(f"augment.scale must be below 1, got {self.scale}")
        for name, kind in (("policy", Policy), ("erase_value", EraseValue)):
            if getattr(self, name) not in get_args(kind):
                raise unknown(
                    f"augment.{name}", str(getattr(self, name)), get_args(kind)
                )
        if self.policy_layers < 1:
            raise UserError(
                f"augment.policy_layers must be at least 1, got {self.policy_layers}"
            )
        if not 0 <= self.policy_magnitude <= BINS - 1:
            raise UserError(
                f"augment.policy_magnitude must be 0 to {BINS - 1}, got {self.policy_magnitude}"
            )
        if self.policy == "randaugment" and self.policy_magnitude % 1:
            raise UserError(
                f"augment.policy_magnitude must be a whole number for torchvision's randaugment, "
                f"got {self.policy_magnitude}"
            )
        if not 0 <= self.erase <= 1:
            raise UserError(
                f"augment.erase must be a probability from 0 to 1, got {self.erase}"
            )


@dataclass(frozen=True)
class Mix:
    """Whether and how batches are mixed.

    Args:
        mixup: the a of Beta(a, a), from which a mixup's share is drawn; 0: no mixup.
            The paper's Mixers: 0.2 or 0.5.
        cutmix: the same of CutMix. Where both are on, each batch has one of them.
        prob: the share of batches that are mixed at all.
        switch_prob: of these, the share that have CutMix where both are on.
        rule: "paper" leaves the larger share to an image's own content, as big_vision;
            "timm" takes it as it falls.
        group: how many consecutive images mix among themselves; divides every process's
            part of the batch.

    Raises:
        UserError: a field has no such value.
    """

    mixup: float = 0.0
    cutmix: float = 0.0
    prob: float = 1.0
    switch_prob: float = 0.5
    rule: MixRule = "paper"
    group: int = 2

    def __post_init__(self) -> None:
        for name in ("mixup", "cutmix"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise UserError(
                    f"mix.{name} must be a number of at least 0, got {getattr(self, name)}"
                )
        for name in ("prob", "switch_prob"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(
                    f"mix.{name} must be a probability from 0 to 1, got {getattr(self, name)}"
                )
        if self.rule not in get_args(MixRule):
            raise unknown("mix.rule", str(self.rule), get_args(MixRule))
        if self.group < 2:
            raise UserError(f"mix.group must be at least 2 images, got {self.group}")

    @property
    def active(self) -> bool:
        """Whether any batch is mixed."""
        return self.prob > 0 and (self.mixup > 0 or self.cutmix > 0)
