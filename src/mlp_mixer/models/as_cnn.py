"""Section 2 of the paper, executed: a Mixer is a convolutional network of a special
kind.

Axes: B batch, C channels, h x w the grid of patches, D_S tokens_mlp_dim.
"""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from .families import need_mixer
from .layers import Mlp
from .mixer import MixerBlock, MlpMixer


def as_cnn(model: MlpMixer) -> nn.Module:
    """The same network in convolutions only: the same parameters (shared, not copied)
    and logits, dropout left out.

    For understanding, not for speed: token mixing becomes depth-wise kernels as large
        as the image, C copies of one.
    `UserError` for another family.
    """
    need_mixer(model.config, "as_cnn")
    return MixerAsCnn(model)


class MixerAsCnn(nn.Module):
    """Images (B, in_channels, H, W) -> logits (B, K)."""

    def __init__(self, mixer: MlpMixer) -> None:
        super().__init__()
        self.mixer = mixer

    def forward(
        self, image: Float[Tensor, "B in_channels H W"]
    ) -> Float[Tensor, "B _"]:
        x_BChw = self.mixer.stem.proj(image)
        for block in self.mixer.blocks:
            assert isinstance(block, MixerBlock)
            x_BChw = x_BChw + depthwise(normed(x_BChw, block.norm1), block.mlp_tokens)
            x_BChw = x_BChw + pointwise(normed(x_BChw, block.norm2), block.mlp_channels)
        pooled_BC11 = F.adaptive_avg_pool2d(normed(x_BChw, self.mixer.norm), 1)
        head = self.mixer.head
        return (
            conv1x1(pooled_BC11, head) if isinstance(head, nn.Linear) else pooled_BC11
        ).flatten(1)


def depthwise(x_BChw: Tensor, mlp: Mlp) -> Tensor:
    """A depth-wise convolution with kernels as large as the image, the same for every
    channel; and its transpose.
    """
    C = x_BChw.shape[1]
    grid = x_BChw.shape[2:]
    reads, writes = (
        w.reshape(-1, 1, *grid).repeat(C, 1, 1, 1)
        for w in (mlp.fc1.weight, mlp.fc2.weight.T)
    )
    hidden = mlp.act(
        F.conv2d(x_BChw, reads, mlp.fc1.bias.repeat(C), groups=C)
    )  # (B, C D_S, 1, 1)
    return F.conv_transpose2d(hidden, writes, groups=C) + mlp.fc2.bias.view(grid)


def pointwise(x_BChw: Tensor, mlp: Mlp) -> Tensor:
    """The channel MLP: two convolutions of 1 x 1."""
    return conv1x1(mlp.act(conv1x1(x_BChw, mlp.fc1)), mlp.fc2)


def conv1x1(x_BChw: Tensor, dense: nn.Linear) -> Tensor:
    """A dense layer over the channels, as a convolution."""
    return F.conv2d(x_BChw, dense.weight[:, :, None, None], dense.bias)


def normed(x_BChw: Tensor, norm: nn.Module) -> Tensor:
    """A norm over the channels."""
    return norm(x_BChw.movedim(1, -1)).movedim(-1, 1)
