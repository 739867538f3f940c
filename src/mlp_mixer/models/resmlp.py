"""ResMLP: Feedforward networks for image classification (Touvron et al. 2021).

arXiv 2105.03404; tensor names and sizes are timm's. Token mixing is one linear layer,
norms are affine maps, and branches begin nearly switched off. Initialised as in timm.
Axes as in mixer.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .base import Block, NetworkConfig, Tap, branch_draws, no_tap
from .layers import Mlp, timm_init_


@dataclass(frozen=True)
class ResMlpConfig(NetworkConfig):
    """Describe a ResMLP.

    Attributes:
        channels_mlp_dim: D_C, the hidden width of the channel MLPs.
        layer_scale: What each branch is multiplied by at the start.
    """

    channels_mlp_dim: int
    layer_scale: float = 1e-4

    def block(self, i: int, drop_path: float) -> Block:
        """Return a new block; all are alike but for their rate of stochastic depth.

        Args:
            i: Its number, from 0.
            drop_path: Its rate of stochastic depth.
        """
        return ResMlpBlock(self, drop_path)

    def block_norm(self) -> nn.Module:
        """Return a new affine map, which takes the place of a norm."""
        return Affine(self.hidden_dim)


class Affine(nn.Module):
    """Scale and shift each channel."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(1, 1, dim))
        self.beta = nn.Parameter(torch.zeros(1, 1, dim))

    def forward(self, x_BSC: Tensor) -> Tensor:
        return torch.addcmul(self.beta, self.alpha, x_BSC)


class ResMlpBlock(Block):
    """Mix across tokens by a linear layer, then across channels by an MLP.

    A learned number for each channel (LayerScale) multiplies either branch.
    """

    def __init__(self, config: ResMlpConfig, drop_path: float) -> None:
        super().__init__(config, drop_path)
        C = config.hidden_dim
        S = config.num_patches
        self.norm1 = config.block_norm()
        self.norm2 = config.block_norm()
        self.linear_tokens = nn.Linear(S, S)
        self.mlp_channels = Mlp(
            C, config.channels_mlp_dim, gelu=config.gelu, dropout=config.dropout
        )
        self.ls1 = nn.Parameter(torch.full((C,), config.layer_scale))
        self.ls2 = nn.Parameter(torch.full((C,), config.layer_scale))

    def forward(
        self, x_BSC: Tensor, draws_B2: Tensor | None = None, tap: Tap = no_tap
    ) -> Tensor:
        """Compute the block; arguments as in `Block`."""
        token_draws, channel_draws = branch_draws(draws_B2)
        x_BSC = x_BSC + self.drop_path(self.mix_tokens(x_BSC, tap), token_draws)
        return x_BSC + self.drop_path(self.mix_channels(x_BSC, tap), channel_draws)

    def mix_tokens(self, x_BSC: Tensor, tap: Tap = no_tap) -> Tensor:
        """Mix each channel across positions: the branch before its skip connection."""
        x_BCS = self.norm1(x_BSC).transpose(1, 2)
        return tap(
            "linear_tokens", self.ls1 * self.linear_tokens(x_BCS).transpose(1, 2)
        )

    def mix_channels(self, x_BSC: Tensor, tap: Tap = no_tap) -> Tensor:
        """Mix each position across channels: the branch before its skip connection."""
        return tap("mlp_channels", self.ls2 * self.mlp_channels(self.norm2(x_BSC)))

    def reset_parameters(self) -> None:
        """Initialise as timm does: Xavier-uniform kernels, biases (almost) zero."""
        timm_init_(self.linear_tokens, bias_std=0.0)
        timm_init_(self.mlp_channels.fc1)
        timm_init_(self.mlp_channels.fc2)


# fmt: off
VARIANTS = {
    #                              P   L    C   D_C  layer_scale
    "resmlp_12":     ResMlpConfig(16, 12, 384, 1536, 1e-4, gelu="erf"),
    "resmlp_24":     ResMlpConfig(16, 24, 384, 1536, 1e-5, gelu="erf"),
    "resmlp_36":     ResMlpConfig(16, 36, 384, 1536, 1e-6, gelu="erf"),
    "resmlp_big_24": ResMlpConfig( 8, 24, 768, 3072, 1e-6, gelu="erf"),
}
# fmt: on
