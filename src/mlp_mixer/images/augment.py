"""Augmentation as pure functions of the image and of uniform random numbers that belong to that one sample.

Nothing here draws a random number: the loader hands each sample its own (see `data.sampling`), so a sample looks the
same whatever the number of workers, and after a resume. Axes: B batch, C channels, H, W; values are uint8 until the
network's normalisation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from ..errors import UserError

DRAWS = 32  # uniform numbers a sample owns; the crop takes the first 22, the batch operations 24 to 30
_CROP_TRIES = 10


@dataclass(frozen=True)
class Augment:
    """What happens to a training image, in this order: crop, affine, flip."""

    crop: Literal["none", "pad", "inception"] = "none"
    pad: int = 4  # for crop="pad": zeros around the image before a crop of the old size
    area: tuple[float, float] = (0.05, 1.0)  # for crop="inception": share of the image that is kept
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    shift: float = 0.0  # largest displacement, as a share of the side
    rotate: float = 0.0  # largest rotation, in degrees
    scale: float = 0.0  # largest relative change of size, such as 0.1
    flip: bool = False

    def __post_init__(self) -> None:
        low, high = self.area
        if not 0 < low <= high <= 1:
            raise UserError(f"augment.area must be two shares 0 < low <= high <= 1, got {low}, {high}")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise UserError(f"augment.ratio must be 0 < low <= high, got {self.ratio[0]}, {self.ratio[1]}")
        for name in ("pad", "shift", "rotate", "scale"):
            if getattr(self, name) < 0:
                raise UserError(f"augment.{name} must not be negative, got {getattr(self, name)}")
        if self.scale >= 1:
            raise UserError(f"augment.scale must be below 1, got {self.scale}")


def inception_crop(image: np.ndarray, draws: np.ndarray, size: tuple[int, int], augment: Augment) -> np.ndarray:
    """A random part of the image (uint8 HWC), resized to `size`: Szegedy et al. 2015, with torchvision's fallback."""
    height, width = image.shape[:2]
    top, left, crop_height, crop_width = _crop_box(height, width, draws, augment)
    part = torch.from_numpy(np.ascontiguousarray(image[top : top + crop_height, left : left + crop_width]))
    resized = F.interpolate(
        part.permute(2, 0, 1)[None], size=size, mode=augment.interpolation, antialias=True, align_corners=False
    )
    return resized[0].permute(1, 2, 0).numpy()


def _crop_box(height: int, width: int, draws: np.ndarray, augment: Augment) -> tuple[int, int, int, int]:
    """Top, left, height and width of the crop; the largest central one of a legal shape if ten tries do not fit."""
    log_low, log_high = math.log(augment.ratio[0]), math.log(augment.ratio[1])
    for attempt in range(_CROP_TRIES):
        area = height * width * (augment.area[0] + draws[2 * attempt] * (augment.area[1] - augment.area[0]))
        ratio = math.exp(log_low + draws[2 * attempt + 1] * (log_high - log_low))
        crop_width, crop_height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            top = int(draws[2 * _CROP_TRIES] * (height - crop_height + 1))
            left = int(draws[2 * _CROP_TRIES + 1] * (width - crop_width + 1))
            return top, left, crop_height, crop_width
    ratio = min(max(width / height, augment.ratio[0]), augment.ratio[1])
    crop_width, crop_height = min(width, max(1, round(height * ratio))), min(height, max(1, round(width / ratio)))
    return (height - crop_height) // 2, (width - crop_width) // 2, crop_height, crop_width


def augment_batch(
    images: UInt8[Tensor, "B C H W"], draws: Float[Tensor, "B draws"], augment: Augment
) -> UInt8[Tensor, "B C H W"]:
    """The operations that keep the size: padded crop, affine map, flip."""
    pad_draws, affine_draws, flip_draws = draws[:, 24:26], draws[:, 26:30], draws[:, 30]
    if augment.crop == "pad" and augment.pad:
        images = _pad_crop(images, pad_draws, augment.pad)
    if augment.shift or augment.rotate or augment.scale:
        images = _affine(images, affine_draws, augment)
    if augment.flip:
        images = torch.where(flip_draws[:, None, None, None] < 0.5, images.flip(3), images)
    return images


def _pad_crop(images: Tensor, draws: Tensor, pad: int) -> Tensor:
    """Crop windows of the old size out of zero-padded images, by one gather per axis."""
    height, width = images.shape[2:]
    offsets = (draws * (2 * pad + 1)).long()
    rows = (offsets[:, 0, None] + torch.arange(height))[:, None, :, None]
    columns = (offsets[:, 1, None] + torch.arange(width))[:, None, None, :]
    padded = F.pad(images, (pad, pad, pad, pad))
    padded = padded.gather(2, rows.expand(-1, padded.shape[1], -1, padded.shape[3]))
    return padded.gather(3, columns.expand(-1, padded.shape[1], height, -1))


def _affine(images: Tensor, draws: Tensor, augment: Augment) -> Tensor:
    """Rotate, scale and shift each image about its centre; what comes from outside is zero."""
    height, width = images.shape[2:]
    signed = (2 * draws - 1).float()
    angle = signed[:, 0] * math.radians(augment.rotate)
    zoom = 1 + signed[:, 1] * augment.scale
    cos, sin = torch.cos(angle) / zoom, torch.sin(angle) / zoom
    shift_x, shift_y = 2 * augment.shift * signed[:, 2], 2 * augment.shift * signed[:, 3]
    theta = torch.stack(
        [
            torch.stack([cos, -sin * height / width, shift_x], dim=1),
            torch.stack([sin * width / height, cos, shift_y], dim=1),
        ],
        dim=1,
    )
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    moved = F.grid_sample(images.float(), grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return moved.round().clamp(0, 255).to(torch.uint8)
