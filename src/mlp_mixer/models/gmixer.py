"""gMixer: a Mixer with gated MLPs (SwiGLU), Ross Wightman's experiment in timm; its
tensor names and sizes.

The widths D_S and D_C are those that the gate leaves, half of what the first layers
make. Axes as in mixer.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from .base import Block, Branches, NetworkConfig


@dataclass(frozen=True)
class GMixerConfig(NetworkConfig):
    """The whole architecture: the fields of every family, and the widths."""

    tokens_mlp_dim: int
    channels_mlp_dim: int

    def block(self, i: int, drop_path: float) -> Block:
        return GMixerBlock(self, drop_path)


class GatedMlp(nn.Module):
    """Dense, one half times the SiLU of the other, dropout, Dense, dropout over the
    last axis.
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
    """Mix across tokens, then across channels."""

    def __init__(self, config: GMixerConfig, drop_path: float) -> None:
        super().__init__(config, drop_path)
        self.norm1 = config.norm()
        self.norm2 = config.norm()
        self.mlp_tokens = GatedMlp(
            config.num_patches, config.tokens_mlp_dim, config.dropout
        )
        self.mlp_channels = GatedMlp(
            config.hidden_dim, config.channels_mlp_dim, config.dropout
        )

    def branches(self) -> Branches:
        return {
            "mlp_tokens": lambda x_BSC: self.mlp_tokens(
                self.norm1(x_BSC).transpose(1, 2)
            ).transpose(1, 2),
            "mlp_channels": lambda x_BSC: self.mlp_channels(self.norm2(x_BSC)),
        }

    def reset_parameters(self) -> None:
        """Gates begin near a constant, as in timm."""
        for mlp in (self.mlp_tokens, self.mlp_channels):
            nn.init.normal_(mlp.fc1.weight.chunk(2)[1], std=1e-6)
            nn.init.ones_(mlp.fc1.bias.chunk(2)[1])


VARIANTS = {
    #                          P   L   C    D_S  D_C
    "gmixer_12": GMixerConfig(16, 12, 384, 192, 768),
    "gmixer_24": GMixerConfig(16, 24, 384, 192, 768),
}
