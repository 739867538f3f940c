"""Training at several image sizes: one set of weights, whose token mixing is
interpolated in each forward pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from ...errors import UserError
from ...models.base import NetworkConfig
from ...models.families import need_mixer
from ...models.families import build_network
from ...models.isotropic import IsotropicMlp
from ...models.mixer import MixerBlock
from ...models.resolution import resampling
from ...randomness import philox
from ..config import TrainConfig


def check_sides(config: TrainConfig, network: NetworkConfig) -> None:
    """`UserError` unless a run can train this network at its `augment.sides`, if it has
    any.
    """
    if not config.augment.sides:
        return
    height, width = need_mixer(network, "augment.sides").image_size
    if height != width:
        raise UserError(
            f"augment.sides are of square images, this model takes {height}x{width}; leave them out"
        )
    if config.train.kernels == "fused" or config.train.compile:
        raise UserError(
            "train.kernels=fused and train.compile are for one size: leave them out, or augment.sides"
        )
    if config.train.parallel == "fsdp":
        raise UserError(
            "augment.sides needs whole weights in each process: use train.parallel=ddp"
        )
    for side in config.augment.sides:
        try:
            replace(network, image_size=(side, side))
        except UserError as error:  # names the nearest that the patches divide
            raise UserError(f"augment.sides={side}: {error}") from error


def at_a_side(images: Tensor, sides: Sequence[int], seed: int, step: int) -> Tensor:
    """The images (B, C, H, W) scaled to one of the sides, equally likely: which, says
    (seed, step) in all processes.
    """
    draw = philox("image side", seed, step)
    return scaled(images, sides[int(draw.integers(len(sides)))])


def scaled(images: Tensor, side: int) -> Tensor:
    """(B, C, H, W) -> (B, C, side, side): bilinear, antialiased; the images themselves
    where they have that size.
    """
    same = images.shape[2:] == (side, side)
    return (
        images
        if same
        else F.interpolate(images, (side, side), mode="bilinear", antialias=True)
    )


class Elastic(nn.Module):
    """A Mixer (on its device, with its head) for square images of its own side and of
    others, in pixels.

    At each it is what `resize(..., method="interpolate")` would make of it, and
    gradients flow back through that. Raises `UserError` for a side that its patches do
    not divide or another family, and for an image of another side.
    """

    def __init__(self, base: IsotropicMlp, sides: Sequence[int]) -> None:
        super().__init__()
        own = need_mixer(base.config, "Elastic").image_size
        self.base = base
        self.others = {side: _at(base, side) for side in sides if (side, side) != own}

    def forward(self, image: Tensor, draws_BL2: Tensor | None = None) -> Tensor:
        return cast(
            Tensor, self.others.get(image.shape[-1], self.base)(image, draws_BL2)
        )


def _at(base: IsotropicMlp, side: int) -> IsotropicMlp:
    """The network for another side, with the base's parameters alone."""
    with torch.device("meta"):
        network = build_network(replace(base.config, image_size=(side, side)))
    old = base.config.grid
    new = network.config.grid
    weight = base.stem.proj.weight
    maps = resampling(new, old).to(weight), resampling(old, new).T.to(weight)
    for name, part in base.named_children():
        setattr(network, name, part)
    network.blocks = nn.ModuleList(
        _Resampled(cast(MixerBlock, block), *maps) for block in base.blocks
    )
    network.set_grad_checkpointing(base.grad_checkpointing)
    return network


class _Resampled(nn.Module):
    """A block on another grid of N patches: a module of its own, so that checkpointing
    recomputes its weights too.
    """

    def __init__(self, block: MixerBlock, read_SN: Tensor, write_SN: Tensor) -> None:
        super().__init__()
        self.block = block
        self.read_SN = read_SN
        self.write_SN = write_SN

    def forward(self, x_BNC: Tensor, draws_B2: Tensor | None = None) -> Tensor:
        fc1 = self.block.mlp_tokens.fc1
        fc2 = self.block.mlp_tokens.fc2
        with torch.autocast(
            x_BNC.device.type, enabled=False
        ):  # `models.resolution.interpolate`, but not in fp64
            W1 = fc1.weight @ self.read_SN
            W2 = self.write_SN.T @ fc2.weight
            b2 = fc2.bias @ self.write_SN
        own = {
            "mlp_tokens.fc1.weight": W1,
            "mlp_tokens.fc2.weight": W2,
            "mlp_tokens.fc2.bias": b2,
        }
        return cast(Tensor, functional_call(self.block, own, (x_BNC, draws_B2)))
