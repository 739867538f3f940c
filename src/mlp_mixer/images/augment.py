"""Augmentation as pure functions of the image and of uniform random numbers that belong
to that one sample.

Nothing here draws a random number: the loader hands each sample its own (see
    `data.sampling`), so a sample looks the
same whatever the number of workers, and after a resume. Axes: B batch, C channels, H,
W; values are uint8 until the network's normalisation.

Columns of a sample's numbers: 0-21 the inception crop, 24-30 the operations of whole
batches, 32-55 erasing, and from 56 on the policy, so that none moves another's numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from ..errors import UserError, unknown
from .decode import Part, Pixels
from .policies import BINS, SLOT, Policy, apply_policy, slots

FLIP = 30  # the column that says whether an image is mirrored: below 0.5
DRAWS = 32  # uniform numbers a sample owns at least; `draws_needed` says how many
_TRIES = 10  # of the crop and of erasing
_ERASE = slice(
    DRAWS, DRAWS + 2 * _TRIES + 4
)  # whether, area and ratio of each try, top and left, the key of noise
_POLICY = _ERASE.stop
_ERASED_AREA, _ERASED_RATIO = (
    (0.02, 0.33),
    (0.3, 3.3),
)  # torchvision's; timm's end at 1 / 3 and 1 / 0.3

EraseValue = Literal["zero", "mean", "random"]


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
    sides: tuple[
        int, ...
    ] = ()  # pixels; all is scaled to one of them, drawn for each step: see `train.elastic`

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


def draws_needed(augment: Augment) -> int:
    """How many uniform numbers each sample needs; what the first ones do never depends
    on it.
    """
    if augment.policy != "none":
        return _POLICY + SLOT * slots(augment.policy, augment.policy_layers)
    return _ERASE.stop if augment.erase else DRAWS


def inception_crop(
    read: Callable[[Part], Pixels],
    draws: np.ndarray,
    size: tuple[int, int],
    augment: Augment,
) -> UInt8[Tensor, "C H W"]:
    """A random part of the image that `read` gives, resized to `size`: Szegedy et al.
    2015, torchvision's fallback.
    """
    part = read(
        Part(
            lambda height, width: _crop_box(height, width, draws, augment),
            size if augment.scaled_decode else None,
        )
    )
    pixels = torch.from_numpy(np.ascontiguousarray(part[None])).permute(0, 3, 1, 2)
    return F.interpolate(
        pixels,
        size=size,
        mode=augment.interpolation,
        antialias=True,
        align_corners=False,
    )[0]


def _crop_box(
    height: int, width: int, draws: np.ndarray, augment: Augment
) -> tuple[int, int, int, int]:
    """Top, left, height and width of the crop; the largest central one of a legal shape
    if ten tries do not fit.
    """
    log_low = math.log(augment.ratio[0])
    log_high = math.log(augment.ratio[1])
    for attempt in range(_TRIES):
        area = (
            height
            * width
            * (
                augment.area[0]
                + draws[2 * attempt] * (augment.area[1] - augment.area[0])
            )
        )
        ratio = math.exp(log_low + draws[2 * attempt + 1] * (log_high - log_low))
        crop_width = round(math.sqrt(area * ratio))
        crop_height = round(math.sqrt(area / ratio))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            top = int(draws[2 * _TRIES] * (height - crop_height + 1))
            left = int(draws[2 * _TRIES + 1] * (width - crop_width + 1))
            return top, left, crop_height, crop_width
    ratio = min(max(width / height, augment.ratio[0]), augment.ratio[1])
    crop_width = min(width, max(1, round(height * ratio)))
    crop_height = min(height, max(1, round(width / ratio)))
    return (
        (height - crop_height) // 2,
        (width - crop_width) // 2,
        crop_height,
        crop_width,
    )


def augment_batch(
    images: UInt8[Tensor, "B C H W"],
    draws: Float[Tensor, "B draws"],
    augment: Augment,
    *,
    mean: Sequence[float] = (0.5,),
    std: Sequence[float] = (0.5,),
) -> UInt8[Tensor, "B C H W"]:
    """The operations that keep the size: padded crop, affine map, flip, policy,
    erasing.

    images: on any device; policies compute on the CPU and give the result back to it.
    draws: `draws_needed(augment)` or more numbers for each image, on any device.
    mean, std: of the data, in [0, 1], one or one per channel: what erasing leaves
        behind.
    Raises `UserError` for a policy on images that are neither gray nor RGB.
    """
    pad_draws = draws[:, 24:26]
    affine_draws = draws[:, 26:30]
    flip_draws = draws[:, FLIP]
    if augment.crop == "pad" and augment.pad:
        images = _pad_crop(images, pad_draws, augment.pad)
    if augment.shift or augment.rotate or augment.scale:
        images = _affine(images, affine_draws, augment)
    if augment.flip:
        images = _flip(images, flip_draws < 0.5)
    if augment.policy != "none":
        images = _with_policy(images, draws[:, _POLICY:].cpu().numpy(), augment)
    if augment.erase:
        images = _erase(images, draws[:, _ERASE].cpu().numpy(), augment, mean, std)
    return images


def _flip(images: Tensor, flipped: Tensor) -> Tensor:
    if (
        images.device.type == "cpu"
    ):  # one by one: torch.where takes six times as long there
        each = zip(images, flipped.tolist(), strict=True)
        return torch.stack([image.flip(2) if flip else image for image, flip in each])
    return torch.where(
        flipped.to(images.device)[:, None, None, None], images.flip(3), images
    )


def _pad_crop(images: Tensor, draws: Tensor, pad: int) -> Tensor:
    """Crop windows of the old size out of zero-padded images, by one gather per axis."""
    height, width = images.shape[2:]
    offsets = (draws * (2 * pad + 1)).long().to(images.device)
    rows = (offsets[:, 0, None] + torch.arange(height, device=images.device))[
        :, None, :, None
    ]
    columns = (offsets[:, 1, None] + torch.arange(width, device=images.device))[
        :, None, None, :
    ]
    padded = F.pad(images, (pad, pad, pad, pad))
    padded = padded.gather(2, rows.expand(-1, padded.shape[1], -1, padded.shape[3]))
    return padded.gather(3, columns.expand(-1, padded.shape[1], height, -1))


def _affine(images: Tensor, draws: Tensor, augment: Augment) -> Tensor:
    """Rotate, scale and shift each image about its centre; what comes from outside is
    zero.
    """
    height, width = images.shape[2:]
    signed = (2 * draws - 1).float()
    angle = signed[:, 0] * math.radians(augment.rotate)
    zoom = 1 + signed[:, 1] * augment.scale
    cos = torch.cos(angle) / zoom
    sin = torch.sin(angle) / zoom
    shift_x = 2 * augment.shift * signed[:, 2]
    shift_y = 2 * augment.shift * signed[:, 3]
    theta = torch.stack(
        [
            torch.stack([cos, -sin * height / width, shift_x], dim=1),
            torch.stack([sin * width / height, cos, shift_y], dim=1),
        ],
        dim=1,
    )
    grid = F.affine_grid(
        theta.to(images.device), list(images.shape), align_corners=False
    )
    moved = F.grid_sample(
        images.float(), grid, mode="bilinear", padding_mode="zeros", align_corners=False
    )
    return moved.round().clamp(0, 255).to(torch.uint8)


def _with_policy(images: Tensor, draws: np.ndarray, augment: Augment) -> Tensor:
    pictures = images.permute(0, 2, 3, 1).contiguous().cpu().numpy()
    changed = [
        apply_policy(
            picture,
            own,
            augment.policy,
            augment.policy_layers,
            augment.policy_magnitude,
        )
        for picture, own in zip(pictures, draws, strict=True)
    ]
    return (
        torch.from_numpy(np.stack(changed))
        .permute(0, 3, 1, 2)
        .contiguous()
        .to(images.device)
    )


def _erase(
    images: Tensor,
    draws: np.ndarray,
    augment: Augment,
    mean: Sequence[float],
    std: Sequence[float],
) -> Tensor:
    """Rectangles of new content, rounded and clipped to what an image can hold."""
    images = images.clone()
    channels, height, width = images.shape[1:]
    centre, spread = (
        np.asarray(values, np.float32)[:, None, None] for values in (mean, std)
    )
    for image, own in zip(images, draws, strict=True):
        box = _erased_box(height, width, own[1:]) if own[0] < augment.erase else None
        if box is None:
            continue
        top, left, box_height, box_width = box
        content = np.zeros((channels, box_height, box_width), np.float32)
        if augment.erase_value != "zero":
            content += centre
        if (
            augment.erase_value == "random"
        ):  # a generator of its own for each sample, from 53 bits that belong to it
            generator = np.random.Generator(np.random.Philox(key=int(own[-1] * 2**53)))
            content += spread * generator.standard_normal(
                content.shape, dtype=np.float32
            )
        pixels = torch.from_numpy(np.rint(content * 255).clip(0, 255).astype(np.uint8))
        image[:, top : top + box_height, left : left + box_width] = pixels.to(
            images.device
        )
    return images


def _erased_box(
    height: int, width: int, draws: np.ndarray
) -> tuple[int, int, int, int] | None:
    """Top, left, height and width, smaller than the image; none if ten tries do not fit
    (torchvision's rules).
    """
    log_low, log_high = map(math.log, _ERASED_RATIO)
    for attempt in range(_TRIES):
        area = (
            height
            * width
            * (
                _ERASED_AREA[0]
                + draws[2 * attempt] * (_ERASED_AREA[1] - _ERASED_AREA[0])
            )
        )
        ratio = math.exp(log_low + draws[2 * attempt + 1] * (log_high - log_low))
        box_height = round(math.sqrt(area * ratio))
        box_width = round(math.sqrt(area / ratio))
        if box_height < height and box_width < width:
            top = int(draws[2 * _TRIES] * (height - box_height + 1))
            return (
                top,
                int(draws[2 * _TRIES + 1] * (width - box_width + 1)),
                box_height,
                box_width,
            )
    return None
