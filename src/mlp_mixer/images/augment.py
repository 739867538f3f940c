"""Augmentation as pure functions of the image and of the image's own random numbers.

Nothing here draws a random number: the loader hands each sample its own (see
`randomness`), so a sample looks the same whatever the number of workers, and after a
resume. Axes: B batch, C channels, H, W; values are uint8 until the network's
normalisation.

Columns of a sample's numbers: 0-21 the inception crops, 24-30 the operations of whole
batches, 22, 23 and 31 colours, 32-55 erasing, and from 56 on the policy, so that none
moves another's numbers.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from .decode import Part, Pixels
from .policies import apply_policy, policy_draws
from .settings import Augment
from .tensorflow_crop import tensorflow_box, tensorflow_resize

FLIP = 30  # the column that says whether an image is mirrored: below 0.5

# Uniform numbers that a sample owns at least; `draws_needed` says how many.
DRAWS = 32

_TRIES = 10  # of the crop and of erasing

_COLOURS = [22, 23, 31]  # columns: brightness, contrast, saturation
_JITTERED = 0.8  # share of the images whose colours change

# Columns of erasing: whether, area and ratio of each try, top and left, the key of noise.
_ERASE = slice(DRAWS, DRAWS + 2 * _TRIES + 4)
_POLICY = _ERASE.stop

# torchvision's; timm's end at 1 / 3 of the area and at a ratio of 1 / 0.3.
_ERASED_AREA = (0.02, 0.33)
_ERASED_RATIO = (0.3, 3.3)

Box = tuple[int, int, int, int]
"""Top, left, height and width of a part of an image, in pixels."""


def draws_needed(augment: Augment) -> int:
    """Return how many uniform numbers each sample needs.

    What the first ones do never depends on it.

    Args:
        augment: The settings.
    """
    if augment.policy != "none":
        return _POLICY + policy_draws(augment.policy, augment.policy_layers)
    return _ERASE.stop if augment.erase else DRAWS


def inception_crop(
    read: Callable[[Part], Pixels],
    draws: np.ndarray,
    size: tuple[int, int],
    augment: Augment,
) -> UInt8[Tensor, "C H W"]:
    """Return a random part of an image, resized (Szegedy et al. 2015).

    Args:
        read: Decodes the part that it is given.
        draws: The sample's numbers.
        size: (H, W) of the result.
        augment: The settings; crop, area, ratio, interpolation and scaled_decode count.
    """
    if augment.crop == "inception_tf":
        # Never decoded coarser, which would be a kind of antialiasing.
        whole = read(Part(functools.partial(_tensorflow_box, draws, augment)))
        return tensorflow_resize(whole, size)

    def box(height: int, width: int) -> Box:
        return _crop_box(height, width, draws, augment)

    part = read(Part(box, size if augment.scaled_decode else None))
    pixels = torch.from_numpy(np.ascontiguousarray(part[None])).permute(0, 3, 1, 2)
    return F.interpolate(
        pixels,
        size=size,
        mode=augment.interpolation,
        antialias=True,
        align_corners=False,
    )[0]


def _tensorflow_box(
    draws: np.ndarray, augment: Augment, height: int, width: int
) -> Box:
    position = 2 * _TRIES
    own = (float(draws[0]), float(draws[position]), float(draws[position + 1]))
    return tensorflow_box(height, width, own, augment.area, augment.ratio)


def _crop_box(height: int, width: int, draws: np.ndarray, augment: Augment) -> Box:
    """Return the crop; the largest central one of a legal shape if ten tries miss."""
    top_draw = draws[2 * _TRIES]
    left_draw = draws[2 * _TRIES + 1]
    for attempt in range(_TRIES):
        crop_height, crop_width = _random_sides(
            height * width,
            draws[2 * attempt],
            draws[2 * attempt + 1],
            augment.area,
            augment.ratio,
        )
        if 0 < crop_width <= width and 0 < crop_height <= height:
            top = int(top_draw * (height - crop_height + 1))
            left = int(left_draw * (width - crop_width + 1))
            return top, left, crop_height, crop_width
    # torchvision's fallback.
    low, high = augment.ratio
    ratio = min(max(width / height, low), high)
    crop_width = min(width, max(1, round(height * ratio)))
    crop_height = min(height, max(1, round(width / ratio)))
    top = (height - crop_height) // 2
    left = (width - crop_width) // 2
    return top, left, crop_height, crop_width


def _random_sides(
    pixels: int,
    area_draw: float,
    ratio_draw: float,
    area: tuple[float, float],
    ratio: tuple[float, float],
) -> tuple[int, int]:
    """Return the height and width of a rectangle; the ratio is width / height."""
    share = area[0] + area_draw * (area[1] - area[0])
    # Uniform in the logarithm: twice as wide is as likely as twice as high.
    log_low = math.log(ratio[0])
    log_high = math.log(ratio[1])
    shape = math.exp(log_low + ratio_draw * (log_high - log_low))
    covered = pixels * share
    return round(math.sqrt(covered / shape)), round(math.sqrt(covered * shape))


def augment_batch(
    images: UInt8[Tensor, "B C H W"],
    draws: Float[Tensor, "B draws"],
    augment: Augment,
    *,
    mean: Sequence[float] = (0.5,),
    std: Sequence[float] = (0.5,),
) -> UInt8[Tensor, "B C H W"]:
    """Apply what keeps the size: padded crop, affine map, flip, policy, colours, erasing.

    Args:
        images: On any device; policies compute on the CPU and give the result back.
        draws: `draws_needed(augment)` or more numbers for each image, on any device.
        augment: The settings.
        mean: Of the data, in [0, 1], one or one per channel: what erasing leaves behind
            and what moves in with randaugment_timm.
        std: Of the data, likewise.

    Raises:
        UserError: There is a policy, and the images are neither gray nor RGB.
    """
    if augment.crop == "pad" and augment.pad:
        images = _pad_crop(images, draws[:, 24:26], augment.pad)
    if augment.shift or augment.rotate or augment.scale:
        images = _affine(images, draws[:, 26:30], augment)
    if augment.flip:
        images = _flip(images, draws[:, FLIP] < 0.5)
    if augment.policy != "none":
        images = _with_policy(images, draws[:, _POLICY:].cpu().numpy(), augment, mean)
    if augment.jitter or augment.gray:
        images = _recoloured(images, draws, augment)
    if augment.erase:
        images = _erase(images, draws[:, _ERASE].cpu().numpy(), augment, mean, std)
    return images


def _flip(images: Tensor, flipped: Tensor) -> Tensor:
    if images.device.type == "cpu":
        # One by one: torch.where takes six times as long there.
        each = zip(images, flipped.tolist(), strict=True)
        return torch.stack([image.flip(2) if flip else image for image, flip in each])
    flipped = flipped.to(images.device)[:, None, None, None]
    return torch.where(flipped, images.flip(3), images)


def _pad_crop(images: Tensor, draws: Tensor, pad: int) -> Tensor:
    """Crop windows of the old size out of zero-padded images, by one gather per axis."""
    height, width = images.shape[2:]
    device = images.device
    offsets = (draws * (2 * pad + 1)).long().to(device)
    rows = offsets[:, 0, None] + torch.arange(height, device=device)
    columns = offsets[:, 1, None] + torch.arange(width, device=device)
    padded = F.pad(images, (pad, pad, pad, pad))
    channels = images.shape[1]
    padded_width = padded.shape[3]
    rows = rows[:, None, :, None].expand(-1, channels, -1, padded_width)
    columns = columns[:, None, None, :].expand(-1, channels, height, -1)
    return padded.gather(2, rows).gather(3, columns)


def _affine(images: Tensor, draws: Tensor, augment: Augment) -> Tensor:
    """Rotate, scale and shift each image about its centre; zeros move in."""
    height, width = images.shape[2:]
    signed = (2 * draws - 1).float()
    angle = signed[:, 0] * math.radians(augment.rotate)
    zoom = 1 + signed[:, 1] * augment.scale
    cos = torch.cos(angle) / zoom
    sin = torch.sin(angle) / zoom
    shift_x = 2 * augment.shift * signed[:, 2]
    shift_y = 2 * augment.shift * signed[:, 3]
    # Both axes of torch's grid run from -1 to 1, so a turn of a wide image needs the
    # ratio of its sides.
    row_x = torch.stack([cos, -sin * height / width, shift_x], dim=1)
    row_y = torch.stack([sin * width / height, cos, shift_y], dim=1)
    theta = torch.stack([row_x, row_y], dim=1).to(images.device)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    moved = F.grid_sample(
        images.float(), grid, mode="bilinear", padding_mode="zeros", align_corners=False
    )
    return moved.round().clamp(0, 255).to(torch.uint8)


def _with_policy(
    images: Tensor, draws: np.ndarray, augment: Augment, mean: Sequence[float]
) -> Tensor:
    pictures = images.permute(0, 2, 3, 1).contiguous().cpu().numpy()
    changed = [
        apply_policy(
            picture,
            own,
            augment.policy,
            augment.policy_layers,
            augment.policy_magnitude,
            mean=mean,
            interpolation=augment.interpolation,
        )
        for picture, own in zip(pictures, draws, strict=True)
    ]
    stacked = torch.from_numpy(np.stack(changed)).permute(0, 3, 1, 2)
    return stacked.contiguous().to(images.device)


def _recoloured(images: Tensor, draws: Tensor, augment: Augment) -> Tensor:
    """Change brightness, contrast and saturation, in this order, and take colours away.

    SimCLR's (Chen et al., arXiv 2002.05709), without its turns of the hue.
    """
    # Three columns are free, and five numbers are wanted: where a draw decides by a
    # threshold, its place on one side of it is again uniform.
    light, contrast, saturation = draws[:, _COLOURS].float().to(images.device).T
    changed = light < _JITTERED
    gray = saturation < augment.gray
    light = light / _JITTERED
    saturation = (saturation - augment.gray) / max(1 - augment.gray, 1e-6)

    def factor(draw: Tensor) -> Tensor:
        moved = 1 + augment.jitter * (2 * draw - 1)
        return torch.where(changed, moved, 1.0)[:, None, None, None]

    pixels = images * factor(light)
    pixels = pixels.mean(dim=(1, 2, 3), keepdim=True).lerp(pixels, factor(contrast))
    kept = factor(saturation).masked_fill(gray[:, None, None, None], 0.0)
    pixels = pixels.mean(dim=1, keepdim=True).lerp(pixels, kept)
    return pixels.round().clamp(0, 255).to(torch.uint8)


def _erase(
    images: Tensor,
    draws: np.ndarray,
    augment: Augment,
    mean: Sequence[float],
    std: Sequence[float],
) -> Tensor:
    """Put new content into rectangles, rounded and clipped to what an image can hold."""
    images = images.clone()
    channels, height, width = images.shape[1:]
    centre = np.asarray(mean, np.float32)[:, None, None]
    spread = np.asarray(std, np.float32)[:, None, None]
    for image, own in zip(images, draws, strict=True):
        if own[0] >= augment.erase:
            continue
        box = _erased_box(height, width, own[1:])
        if box is None:
            continue
        top, left, box_height, box_width = box
        content = np.zeros((channels, box_height, box_width), np.float32)
        if augment.erase_value != "zero":
            content += centre
        if augment.erase_value == "random":
            # A generator of its own for each sample, from 53 bits that belong to it.
            generator = np.random.Generator(np.random.Philox(key=int(own[-1] * 2**53)))
            noise = generator.standard_normal(content.shape, dtype=np.float32)
            content += spread * noise
        pixels = torch.from_numpy(np.rint(content * 255).clip(0, 255).astype(np.uint8))
        pixels = pixels.to(images.device)
        image[:, top : top + box_height, left : left + box_width] = pixels
    return images


def _erased_box(height: int, width: int, draws: np.ndarray) -> Box | None:
    """Return a rectangle smaller than the image, or None if ten tries do not fit.

    The rules are torchvision's.
    """
    top_draw = draws[2 * _TRIES]
    left_draw = draws[2 * _TRIES + 1]
    for attempt in range(_TRIES):
        # torchvision's ratio is height / width here, and width / height in the crop.
        box_width, box_height = _random_sides(
            height * width,
            draws[2 * attempt],
            draws[2 * attempt + 1],
            _ERASED_AREA,
            _ERASED_RATIO,
        )
        if box_height < height and box_width < width:
            top = int(top_draw * (height - box_height + 1))
            left = int(left_draw * (width - box_width + 1))
            return top, left, box_height, box_width
    return None
