"""gMixer: a Mixer with gated MLPs (SwiGLU), Ross Wightman's experiment in timm.

Tensor names and sizes are timm's. The widths D_S and D_C are those that the gate
leaves, half of what the first layers make. Initialised as in timm. Axes as in mixer.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from .base import Block, NetworkConfig, Tap, branch_draws, no_tap
from .layers import timm_init_


@dataclass(frozen=True)
class GMixerConfig(NetworkConfig):
    """Describe a gMixer.

    Attributes:
        tokens_mlp_dim: D_S, the hidden width of the token MLPs after the gate.
        channels_mlp_dim: D_C, the hidden width of the channel MLPs after the gate.
    """

    tokens_mlp_dim: int
    channels_mlp_dim: int

    def block(self, i: int, drop_path: float) -> Block:
        """Return a new block; all are alike but for their rate of stochastic depth.

        Args:
            i: Its number, from 0.
            drop_path: Its rate of stochastic depth.
        """
        return GMixerBlock(self, drop_path)


class GatedMlp(nn.Module):
    """Apply Dense, gate, dropout, Dense, dropout over the last axis.

    The gate multiplies one half of the hidden channels by the SiLU of the other.
    """

    def __init__(self, dim: int, hidden_dim: int, dropout: float) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, 2 * hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, dim)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.fc1(x).chunk(2, dim=-1)
        return self.drop(self.fc2(self.drop(value * F.silu(gate))))


class GMixerBlock(Block):
    """Mix across tokens, then across channels, as a Mixer does."""

    def __init__(self, config: GMixerConfig, drop_path: float) -> None:
        super().__init__(config, drop_path)
        self.norm1 = config.block_norm()
        self.norm2 = config.block_norm()
        self.mlp_tokens = GatedMlp(
            config.num_patches, config.tokens_mlp_dim, config.dropout
        )
        self.mlp_channels = GatedMlp(
            config.hidden_dim, config.channels_mlp_dim, config.dropout
        )

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
        return tap("mlp_tokens", self.mlp_tokens(x_BCS).transpose(1, 2))

    def mix_channels(self, x_BSC: Tensor, tap: Tap = no_tap) -> Tensor:
        """Mix each position across channels: the branch before its skip connection."""
        return tap("mlp_channels", self.mlp_channels(self.norm2(x_BSC)))

    def reset_parameters(self) -> None:
        """Initialise as timm does: Xavier-uniform kernels, but for the gates.

        Those begin near a constant.
        """
        for mlp in (self.mlp_tokens, self.mlp_channels):
            timm_init_(mlp.fc1)
            timm_init_(mlp.fc2)
            nn.init.normal_(mlp.fc1.weight.chunk(2)[1], std=1e-6)
            nn.init.ones_(mlp.fc1.bias.chunk(2)[1])


# fmt: off
VARIANTS = {
    #                          P   L    C  D_S  D_C
    "gmixer_12": GMixerConfig(16, 12, 384, 192, 768),
    "gmixer_24": GMixerConfig(16, 24, 384, 192, 768),
}
# fmt: on
