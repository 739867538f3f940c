"""Changes of images (B, C, H, W) in 0 ... 1: how much of each, and what is drawn is
drawn from `draw`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

Draw = torch.Generator


def placed(images: Tensor, amount: float, draw: Draw, what: str) -> Tensor:
    """Shifted by a share of the side (right, left, down or up, in turn), turned by
    degrees, or scaled; grey beyond.
    """
    turn = math.radians(amount) if what == "turn" else 0.0
    scale = amount if what == "scale" else 1.0
    theta = (
        torch.tensor(
            [[math.cos(turn), -math.sin(turn), 0], [math.sin(turn), math.cos(turn), 0]]
        )
        / scale
    )
    theta = theta.repeat(len(images), 1, 1)
    if what == "shift":
        ways = torch.tensor([[-1.0, 0], [1, 0], [0, -1], [0, 1]])[
            torch.arange(len(images)) % 4
        ]
        theta[:, :, 2] = 2 * amount / images.shape[-1] * ways
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images - 0.5, grid, align_corners=False) + 0.5


def blurred(images: Tensor, sigma: float, draw: Draw) -> Tensor:
    reach = min(math.ceil(3 * sigma), images.shape[-1] - 1)
    bell = torch.exp(-(torch.arange(-reach, reach + 1.0) ** 2) / (2 * sigma**2))
    kernel = torch.outer(bell, bell) / bell.sum() ** 2
    padded = F.pad(images, [reach] * 4, mode="reflect").flatten(0, 1)[:, None]
    return F.conv2d(padded, kernel[None, None]).view_as(images)


def covered(images: Tensor, side: float, draw: Draw) -> Tensor:
    """A grey square of that share of the image's side, anywhere inside."""
    size = round(side * images.shape[-1])
    H = images.shape[-1]
    top, left = torch.randint(0, H - size + 1, (2, len(images), 1), generator=draw)
    rows, columns = (
        ((torch.arange(H) >= edge) & (torch.arange(H) < edge + size))
        for edge in (top, left)
    )
    return torch.where(
        (rows[:, None, :, None] & columns[:, None, None, :]), 0.5, images
    )


def shuffled(images: Tensor, amount: float, draw: Draw, what: str) -> Tensor:
    """`tiles`: amount x amount of them, in a new order for each image; `pixels`: one
    order inside all tiles so wide.
    """
    size, dim = (
        (int(amount), 2) if what == "pixels" else (images.shape[-1] // int(amount), 3)
    )
    tiles = F.unfold(images, size, stride=size).unflatten(
        1, (images.shape[1], size**2)
    )  # B, C, pixels, tiles
    order = torch.stack(
        [torch.randperm(tiles.shape[dim], generator=draw) for _ in images]
    )
    index = order[:, None, :, None] if dim == 2 else order[:, None, None, :]
    return F.fold(
        tiles.gather(dim, index.expand_as(tiles)).flatten(1, 2),
        images.shape[2:],
        size,
        stride=size,
    )


Change = Callable[[Tensor, float, Draw], Tensor]
CHANGES: dict[
    str, tuple[str, Change, tuple[float, ...]]
] = {  # unit, images in 0 ... 1 -> images, how much
    "as it is": ("", lambda x, a, _: x, (1,)),
    "shift": ("pixels", partial(placed, what="shift"), (1, 2, 3, 4, 6, 8)),
    "rotation": ("degrees", partial(placed, what="turn"), (5, 10, 20, 45, 90, 180)),
    "scale": ("times", partial(placed, what="scale"), (0.5, 0.7, 0.85, 1.2, 1.4, 2)),
    "occlusion": ("square, of the side", covered, (0.125, 0.25, 0.375, 0.5, 0.75)),
    "blur": ("sigma, pixels", blurred, (0.5, 0.75, 1, 1.5, 2)),
    "noise": (
        "deviation, of 1",
        lambda x, a, d: x + a * torch.randn(x.shape, generator=d),
        (0.02, 0.05, 0.1, 0.2),
    ),
    "brightness": (
        "added, of 1",
        lambda x, a, _: x + a,
        (-0.4, -0.2, -0.1, 0.1, 0.2, 0.4),
    ),
    "contrast": (
        "times",
        lambda x, a, _: (x - 0.5) * a + 0.5,
        (0.1, 0.25, 0.5, 1.5, 2, 4),
    ),
    "tiles shuffled": ("tiles per side", partial(shuffled, what="tiles"), (2, 4, 8)),
    "pixels shuffled": (
        "inside tiles of so many pixels a side",
        partial(shuffled, what="pixels"),
        (2, 4, 8),
    ),
    "mirrored": ("", lambda x, a, _: x.flip(3), (1,)),
    "upside down": ("", lambda x, a, _: x.flip(2), (1,)),
    "negative": ("", lambda x, a, _: 1 - x, (1,)),
    "red and blue swapped": ("", lambda x, a, _: x.flip(1), (1,)),
}


def changed(images: Tensor, name: str, amount: float) -> Tensor:
    """Images uint8, changed, as uint8 again: the same change for every network."""
    what = CHANGES[name][1]
    answer = what(images.float() / 255, amount, torch.Generator().manual_seed(0))
    return (255 * answer).round().clamp(0, 255).to(torch.uint8)


def suits(name: str, amount: float, side: int, channels: int) -> bool:
    """Whether tiles of that size fill the image, and there are colours to swap."""
    return not ("shuffled" in name and side % amount) and not (
        "red" in name and channels == 1
    )
