"""gMLP: Pay Attention to MLPs (Liu et al., 2021, arXiv 2105.08050); tensor names and
sizes of timm.

One branch per block, a channel MLP: one half of its hidden channels, mixed across
    tokens, gates the other. D_C is the
width of a half. Axes as in mixer.py.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from .base import Block, Branches, NetworkConfig


@dataclass(frozen=True)
class GMlpConfig(NetworkConfig):
    """The whole architecture: the fields of every family, and the width."""

    channels_mlp_dim: int

    def block(self, i: int, drop_path: float) -> Block:
        return GMlpBlock(self, drop_path)


class GatedMlp(nn.Module):
    """Dense, GELU, dropout, one half times the other after norm and token mixing,
    Dense, dropout.
    """

    def __init__(self, config: GMlpConfig) -> None:
        super().__init__()
        C = config.hidden_dim
        S = config.num_patches
        D_C = config.channels_mlp_dim
        self.fc1 = nn.Linear(C, 2 * D_C)
        self.fc2 = nn.Linear(D_C, C)
        self.gate = nn.ModuleDict(
            {"norm": nn.LayerNorm(D_C, eps=1e-5), "proj": nn.Linear(S, S)}
        )  # 1e-5 in timm too
        self.act = nn.GELU(approximate="tanh" if config.gelu == "tanh" else "none")
        self.drop = nn.Dropout(config.dropout)

    def forward(self, x_BSC: Tensor) -> Tensor:
        value_BSD, gate_BSD = self.drop(self.act(self.fc1(x_BSC))).chunk(2, dim=-1)
        mixed_BDS = self.gate["proj"](self.gate["norm"](gate_BSD).transpose(1, 2))
        return self.drop(self.fc2(value_BSD * mixed_BDS.transpose(1, 2)))


class GMlpBlock(Block):
    """Norm and gated MLP; of the two draws of stochastic depth it takes the first."""

    def __init__(self, config: GMlpConfig, drop_path: float) -> None:
        super().__init__(config, drop_path)
        self.norm = config.norm()
        self.mlp_channels = GatedMlp(config)

    def branches(self) -> Branches:
        return {"mlp_channels": lambda x_BSC: self.mlp_channels(self.norm(x_BSC))}

    def reset_parameters(self) -> None:
        """The gate begins near 1, so that a block is a plain MLP at first."""
        weight, bias = self.mlp_channels.gate["proj"].parameters()
        nn.init.normal_(weight, std=1e-6)
        nn.init.ones_(bias)


VARIANTS = {
    #                       P   L   C    D_C
    "gmlp_ti16": GMlpConfig(16, 30, 128, 384, gelu="erf"),
    "gmlp_s16": GMlpConfig(16, 30, 256, 768, gelu="erf"),
    "gmlp_b16": GMlpConfig(16, 30, 512, 1536, gelu="erf"),
}
