"""ResMLP (Touvron et al., 2021, arXiv 2105.03404); tensor names and sizes of timm.

Token mixing is one linear layer, norms are affine maps, and branches begin nearly
switched off. Axes as in mixer.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .base import Block, Branches, NetworkConfig
from .layers import Mlp


@dataclass(frozen=True)
class ResMlpConfig(NetworkConfig):
    """The whole architecture: the fields of every family, and these."""

    channels_mlp_dim: int
    layer_scale: float = 1e-4  # of each branch at the start

    def block(self, i: int, drop_path: float) -> Block:
        return ResMlpBlock(self, drop_path)

    def norm(self) -> nn.Module:
        return Affine(self.hidden_dim)


class Affine(nn.Module):
    """A scale and a shift per channel."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(1, 1, dim))
        self.beta = nn.Parameter(torch.zeros(1, 1, dim))

    def forward(self, x_BSC: Tensor) -> Tensor:
        return torch.addcmul(self.beta, self.alpha, x_BSC)


class ResMlpBlock(Block):
    """A linear layer across tokens, then an MLP across channels, each scaled per
    channel.
    """

    def __init__(self, config: ResMlpConfig, drop_path: float) -> None:
        super().__init__(config, drop_path)
        self.norm1 = config.norm()
        self.norm2 = config.norm()
        self.linear_tokens = nn.Linear(config.num_patches, config.num_patches)
        self.mlp_channels = Mlp(
            config.hidden_dim,
            config.channels_mlp_dim,
            gelu=config.gelu,
            dropout=config.dropout,
        )
        self.ls1, self.ls2 = (
            nn.Parameter(torch.full((config.hidden_dim,), config.layer_scale))
            for _ in range(2)
        )

    def branches(self) -> Branches:
        return {
            "linear_tokens": lambda x: (
                self.ls1
                * self.linear_tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
            ),
            "mlp_channels": lambda x: self.ls2 * self.mlp_channels(self.norm2(x)),
        }


VARIANTS = {
    #                              P   L   C    D_C
    "resmlp_12": ResMlpConfig(16, 12, 384, 1536, 1e-4, gelu="erf"),
    "resmlp_24": ResMlpConfig(16, 24, 384, 1536, 1e-5, gelu="erf"),
    "resmlp_36": ResMlpConfig(16, 36, 384, 1536, 1e-6, gelu="erf"),
    "resmlp_big_24": ResMlpConfig(8, 24, 768, 3072, 1e-6, gelu="erf"),
}
