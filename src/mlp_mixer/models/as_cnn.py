"""Section 2 of the paper, executed: a Mixer is a special convolutional network.

Axes: B batch, C channels, h x w the grid of patches, D_S tokens_mlp_dim.
"""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from .families import need_mixer
from .isotropic import IsotropicMlp
from .layers import Mlp
from .mixer import MixerBlock


def as_cnn(model: IsotropicMlp) -> nn.Module:
    """Return the same network in convolutions only: same parameters, same logits.

    The parameters are shared, not copied; dropout is left out. It is for understanding,
    not for speed: token mixing becomes depth-wise kernels as large as the image, C
    copies of one.

    Args:
        model: A Mixer.

    Raises:
        UserError: The model is of another family.
    """
    need_mixer(model.config, "as_cnn")
    return MixerAsCnn(model)


class MixerAsCnn(nn.Module):
    """Map images (B, in_channels, H, W) to logits (B, K)."""

    def __init__(self, mixer: IsotropicMlp) -> None:
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
        if isinstance(head, nn.Linear):
            return conv1x1(pooled_BC11, head).flatten(1)
        return pooled_BC11.flatten(1)


def depthwise(x_BChw: Tensor, mlp: Mlp) -> Tensor:
    """Apply a token MLP as a depth-wise convolution and its transpose.

    The kernels are as large as the image, and the same for every channel.

    Args:
        x_BChw: Normalised tokens on their grid.
        mlp: Over the h w tokens.
    """
    C = x_BChw.shape[1]
    grid = x_BChw.shape[2:]
    # Each hidden unit reads the whole grid with one kernel, and writes it with another.
    reads = mlp.fc1.weight.reshape(-1, 1, *grid).repeat(C, 1, 1, 1)
    writes = mlp.fc2.weight.T.reshape(-1, 1, *grid).repeat(C, 1, 1, 1)
    biases = mlp.fc1.bias.repeat(C)
    # (B, C D_S, 1, 1): the kernel fits into the image at one place only.
    hidden = mlp.act(F.conv2d(x_BChw, reads, biases, groups=C))
    return F.conv_transpose2d(hidden, writes, groups=C) + mlp.fc2.bias.view(grid)


def pointwise(x_BChw: Tensor, mlp: Mlp) -> Tensor:
    """Apply a channel MLP as two convolutions of 1 x 1."""
    return conv1x1(mlp.act(conv1x1(x_BChw, mlp.fc1)), mlp.fc2)


def conv1x1(x_BChw: Tensor, dense: nn.Linear) -> Tensor:
    """Apply a dense layer over the channels as a convolution."""
    return F.conv2d(x_BChw, dense.weight[:, :, None, None], dense.bias)


def normed(x_BChw: Tensor, norm: nn.Module) -> Tensor:
    """Apply a norm over the channels."""
    return norm(x_BChw.movedim(1, -1)).movedim(-1, 1)
