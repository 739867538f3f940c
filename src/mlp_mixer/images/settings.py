"""What can be set about augmentation and mixing, checked.

No torch: recipes are made of these values, and they must load fast.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from ..choices import EraseValue, MixRule, Policy
from ..errors import UserError, unknown

# The largest magnitude of torchvision's RandAugment, which has 31 of them from 0.
_MOST_MAGNITUDE = 30
MOST_OF_TIMM = 10.0  # of timm's


@dataclass(frozen=True)
class Augment:
    """Say what happens to a training image: crop, affine, flip, policy, colours, erasing.

    That is the order. Without an affine map it is big_vision's (inception_crop | flip_lr
    | randaug), with erasing last as in timm.

    Attributes:
        crop: "pad" and the inception crops choose a random part; "none" takes the whole
            image. "inception" is torchvision's RandomResizedCrop. "inception_tf" is
            TensorFlow's, for the recipes of Google: its parts are smaller (the side is
            uniform, not the area) and resized without antialiasing (see
            `images.tensorflow_crop`).
        pad: For crop="pad": zeros around the image before a crop of the old size.
        area: Of the inception crops: share of the image that is kept, from and to.
        ratio: Of the inception crops: width / height of the part, from and to.
        interpolation: For crop="inception": the filter that resizes the part. Also of
            policy="randaugment_timm": the filter of rotations and the like.
        scaled_decode: For crop="inception": decode JPEGs no finer than the crop needs
            (see `images.decode.Part`).
        shift: Largest displacement, as a share of the side.
        rotate: Largest rotation, in degrees.
        scale: Largest relative change of size, such as 0.1.
        flip: Mirror half of the images, left and right.
        alternate: Mirror an image in every other epoch (Jordan, arXiv 2404.00498),
            instead of by chance.
        policy: See `images.policies`.
        policy_layers: Operations per image, of the RandAugments.
        policy_magnitude: Of the RandAugments, 0 to 30: 15 in the paper; torchvision's
            default is 9. With "randaugment_timm" 0 to 10: 9 in DeiT.
        jitter: Largest relative change of brightness, contrast and saturation, each by
            a factor of 1 - jitter to 1 + jitter, in four images of five.
        gray: Probability that an image loses its colours.
        erase: Probability of a random rectangle without content (Zhong et al. 2020,
            arXiv 1708.04896).
        erase_value: Noise of the data's mean and deviation (timm "pixel"), their mean,
            or black.
        sides: Side lengths in pixels, one drawn for each step (see
            `training.extras.elastic`).

    Raises:
        UserError: A field has no such value.
    """

    crop: Literal["none", "pad", "inception", "inception_tf"] = "none"
    pad: int = 4
    area: tuple[float, float] = (0.05, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    scaled_decode: bool = True
    shift: float = 0.0
    rotate: float = 0.0
    scale: float = 0.0
    flip: bool = False
    alternate: bool = False
    policy: Policy = "none"
    policy_layers: int = 2
    policy_magnitude: float = 10.0
    jitter: float = 0.0
    gray: float = 0.0
    erase: float = 0.0
    erase_value: EraseValue = "random"
    sides: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        low, high = self.area
        if not 0 < low <= high <= 1:
            raise UserError(
                f"augment.area must be two shares 0 < low <= high <= 1, got {low}, {high}"
            )
        low, high = self.ratio
        if not 0 < low <= high:
            raise UserError(f"augment.ratio must be 0 < low <= high, got {low}, {high}")
        if self.crop == "inception_tf" and self.interpolation != "bilinear":
            raise UserError(
                f"augment.interpolation is {self.interpolation!r}, and "
                "augment.crop=inception_tf is bilinear: set "
                "augment.interpolation=bilinear or augment.crop=inception"
            )
        for name in ("pad", "shift", "rotate", "scale"):
            value = getattr(self, name)
            if value < 0:
                raise UserError(f"augment.{name} must not be negative, got {value}")
        if self.scale >= 1:
            raise UserError(f"augment.scale must be below 1, got {self.scale}")
        _check_word("augment.policy", self.policy, get_args(Policy))
        _check_word("augment.erase_value", self.erase_value, get_args(EraseValue))
        self._check_policy()
        for name in ("gray", "erase"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise UserError(
                    f"augment.{name} must be a probability from 0 to 1, got {value}"
                )
        if not 0 <= self.jitter < 1:
            raise UserError(
                f"augment.jitter must be at least 0 and below 1, got {self.jitter}"
            )

    def _check_policy(self) -> None:
        if self.policy_layers < 1:
            raise UserError(
                f"augment.policy_layers must be at least 1, got {self.policy_layers}"
            )
        magnitude = self.policy_magnitude
        if not 0 <= magnitude <= _MOST_MAGNITUDE:
            raise UserError(
                f"augment.policy_magnitude must be 0 to {_MOST_MAGNITUDE}, got {magnitude}"
            )
        if self.policy == "randaugment_timm" and magnitude > MOST_OF_TIMM:
            raise UserError(
                f"augment.policy_magnitude must be 0 to {MOST_OF_TIMM:g} for "
                f"randaugment_timm, got {magnitude}"
            )
        if self.policy == "randaugment" and magnitude % 1:
            raise UserError(
                "augment.policy_magnitude must be a whole number for torchvision's "
                f"randaugment, got {magnitude}"
            )


@dataclass(frozen=True)
class Mix:
    """Say whether and how batches are mixed.

    Attributes:
        mixup: The a of Beta(a, a), from which a mixup's share is drawn; 0: no mixup.
            The paper's Mixers: 0.2 or 0.5.
        cutmix: The same of CutMix. Where both are on, each batch has one of them.
        prob: The share of batches that are mixed at all.
        switch_prob: Of these, the share that have CutMix where both are on.
        rule: "paper" leaves the larger share to an image's own content, as big_vision;
            "timm" takes the share as drawn.
        group: How many consecutive images mix among themselves; divides every process's
            part of the batch.

    Raises:
        UserError: A field has no such value.
    """

    mixup: float = 0.0
    cutmix: float = 0.0
    prob: float = 1.0
    switch_prob: float = 0.5
    rule: MixRule = "paper"
    group: int = 2

    def __post_init__(self) -> None:
        for name in ("mixup", "cutmix"):
            value = getattr(self, name)
            if not 0 <= value < float("inf"):
                raise UserError(
                    f"mix.{name} must be a number of at least 0, got {value}"
                )
        for name in ("prob", "switch_prob"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise UserError(
                    f"mix.{name} must be a probability from 0 to 1, got {value}"
                )
        _check_word("mix.rule", self.rule, get_args(MixRule))
        if self.group < 2:
            raise UserError(f"mix.group must be at least 2 images, got {self.group}")

    @property
    def active(self) -> bool:
        """Whether any batch is mixed."""
        return self.prob > 0 and (self.mixup > 0 or self.cutmix > 0)


def _check_word(field: str, word: str, legal: tuple[str, ...]) -> None:
    if word not in legal:
        raise unknown(field, str(word), legal)
