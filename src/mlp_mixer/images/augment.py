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

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from .decode import Part, Pixels
from .policies import SLOT, apply_policy, slots
from .settings import Augment

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
