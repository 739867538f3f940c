"""Training at several image sizes: one set of weights, resized in each forward pass.

The token-mixing weights belong to the model's own grid of S patches. For an image with
another grid of N patches they are interpolated, with gradients back through that.
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
from ...models import IsotropicMlp, build_network
from ...models.base import NetworkConfig
from ...models.families import need_mixer
from ...models.mixer import MixerBlock
from ...models.resolution import resampling
from ...randomness import philox
from ..config import TrainConfig


def check_sides(config: TrainConfig, network: NetworkConfig) -> None:
    """Check that a run can train a network at its `augment.sides`, if it has any.

    Args:
        config: The run.
        network: The architecture.

    Raises:
        UserError: The network or an option knows one size only, or the patches do not
            divide a side.
    """
    if not config.augment.sides:
        return
    height, width = need_mixer(network, "augment.sides").image_size
    if height != width:
        raise UserError(
            f"augment.sides are of square images, this model takes {height}x{width}; "
            "leave them out"
        )
    if config.train.kernels == "fused" or config.train.compile:
        raise UserError(
            "train.kernels=fused and train.compile are for one size: leave them out, or "
            "augment.sides"
        )
    if config.train.parallel == "fsdp":
        raise UserError(
            "augment.sides needs whole weights in each process: use train.parallel=ddp"
        )
    for side in config.augment.sides:
        try:
            replace(network, image_size=(side, side))
        except UserError as error:
            # It names the nearest sizes that the patches divide.
            raise UserError(f"augment.sides={side}: {error}") from error


def at_a_side(images: Tensor, sides: Sequence[int], seed: int, step: int) -> Tensor:
    """Scale images to one of the sides, which the step draws for all processes.

    Args:
        images: (B, C, H, W).
        sides: In pixels, equally likely.
        seed: Of the run.
        step: Its number.

    Returns:
        Images (B, C, side, side).
    """
    draw = philox("image side", seed, step)
    return scaled(images, sides[int(draw.integers(len(sides)))])


def scaled(images: Tensor, side: int) -> Tensor:
    """Scale images: bilinear, antialiased.

    Args:
        images: (B, C, H, W).
        side: In pixels.

    Returns:
        Images (B, C, side, side); the same tensor if it has that size.
    """
    size = (side, side)
    # Scaling to the same size would round every pixel.
    if images.shape[2:] == size:
        return images
    return F.interpolate(images, size, mode="bilinear", antialias=True)


class Elastic(nn.Module):
    """Wraps a Mixer for square images of its own side and of others.

    At each side it is what `resize(..., method="interpolate")` would make of it, and
    gradients flow back to the Mixer's own weights.
    """

    def __init__(self, base: IsotropicMlp, sides: Sequence[int]) -> None:
        """Prepare the other sides.

        Args:
            base: A Mixer on its device, with its head.
            sides: In pixels; its own may be among them.

        Raises:
            UserError: The network is of another family, or its patches do not divide a
                side.
        """
        super().__init__()
        own = need_mixer(base.config, "Elastic").image_size
        self.base = base
        # A plain dictionary: as submodules they would list the base's parameters again.
        self.others: dict[int, IsotropicMlp] = {}
        for side in sides:
            if (side, side) != own:
                self.others[side] = _at(base, side)

    def forward(self, image: Tensor, draws_BL2: Tensor | None = None) -> Tensor:
        """Return logits, as `IsotropicMlp.forward` does, at the side of the image.

        Args:
            image: (B, in_channels, side, side).
            draws_BL2: Numbers for stochastic depth.

        Raises:
            UserError: The image has a side that was not prepared.
        """
        # An unknown side goes to the base, which refuses it in a sentence.
        network = self.others.get(image.shape[-1], self.base)
        return cast(Tensor, network(image, draws_BL2))


def _at(base: IsotropicMlp, side: int) -> IsotropicMlp:
    """Return the network for another side; it shares all parameters with the base."""
    # Its own parameters are never used: on the meta device they take no memory.
    with torch.device("meta"):
        network = build_network(replace(base.config, image_size=(side, side)))
    old = base.config.grid
    new = network.config.grid
    weight = base.stem.proj.weight
    read_SN = resampling(new, old).to(weight)
    write_SN = resampling(old, new).T.to(weight)
    for name, part in base.named_children():
        setattr(network, name, part)
    blocks = []
    for block in base.blocks:
        blocks.append(_Resampled(cast(MixerBlock, block), read_SN, write_SN))
    network.blocks = nn.ModuleList(blocks)
    network.set_grad_checkpointing(base.grad_checkpointing)
    return network


class _Resampled(nn.Module):
    """A block on another grid of N patches.

    It is a module of its own, so that gradient checkpointing, which recomputes modules,
    recomputes the interpolated weights too instead of keeping them.
    """

    def __init__(self, block: MixerBlock, read_SN: Tensor, write_SN: Tensor) -> None:
        super().__init__()
        self.block = block
        self.read_SN = read_SN
        self.write_SN = write_SN

    def forward(self, x_BNC: Tensor, draws_B2: Tensor | None = None) -> Tensor:
        fc1 = self.block.mlp_tokens.fc1
        fc2 = self.block.mlp_tokens.fc2
        # What `models.resolution.interpolate` computes, in fp32 instead of fp64. Under
        # autocast the weights would be rounded to bf16 twice: here, and in the block.
        with torch.autocast(x_BNC.device.type, enabled=False):
            W1 = fc1.weight @ self.read_SN
            W2 = self.write_SN.T @ fc2.weight
            b2 = fc2.bias @ self.write_SN
        # The bias of the hidden layer belongs to its units, not to patches: it stays.
        own = {
            "mlp_tokens.fc1.weight": W1,
            "mlp_tokens.fc2.weight": W2,
            "mlp_tokens.fc2.bias": b2,
        }
        return cast(Tensor, functional_call(self.block, own, (x_BNC, draws_B2)))
