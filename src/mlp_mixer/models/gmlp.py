"""gMLP: Pay Attention to MLPs (Liu et al. 2021, arXiv 2105.08050).

Tensor names and sizes are timm's. A block has one branch, a channel MLP: one half of
its hidden channels, mixed across tokens, gates the other half. D_C is the width of a
half. Initialised as in timm. Axes as in mixer.py, and D for D_C.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from .base import Block, NetworkConfig, Tap, branch_draws, no_tap
from .layers import gelu_layer, timm_init_


@dataclass(frozen=True)
class GMlpConfig(NetworkConfig):
    """Describe a gMLP.

    Attributes:
        channels_mlp_dim: D_C, the hidden width of an MLP after the gate.
    """

    channels_mlp_dim: int

    def block(self, i: int, drop_path: float) -> Block:
        """Return a new block; all are alike but for their rate of stochastic depth.

        Args:
            i: Its number, from 0.
            drop_path: Its rate of stochastic depth.
        """
        return GMlpBlock(self, drop_path)


class GatedMlp(nn.Module):
    """Apply Dense, GELU, dropout, gate, Dense, dropout.

    The gate multiplies one half of the hidden channels by the other half, which is
    normalised and mixed across tokens first.
    """

    def __init__(self, config: GMlpConfig) -> None:
        super().__init__()
        C = config.hidden_dim
        S = config.num_patches
        D_C = config.channels_mlp_dim
        self.fc1 = nn.Linear(C, 2 * D_C)
        self.fc2 = nn.Linear(D_C, C)
        # This one norm has torch's default epsilon in timm too, unlike all others.
        gate_norm = nn.LayerNorm(D_C, eps=1e-5)
        self.gate = nn.ModuleDict({"norm": gate_norm, "proj": nn.Linear(S, S)})
        self.act = gelu_layer(config.gelu)
        self.drop = nn.Dropout(config.dropout)

    def forward(self, x_BSC: Tensor) -> Tensor:
        value_BSD, gate_BSD = self.drop(self.act(self.fc1(x_BSC))).chunk(2, dim=-1)
        gate_BDS = self.gate["norm"](gate_BSD).transpose(1, 2)
        mixed_BSD = self.gate["proj"](gate_BDS).transpose(1, 2)
        return self.drop(self.fc2(value_BSD * mixed_BSD))


class GMlpBlock(Block):
    """Normalise and apply the gated MLP."""

    def __init__(self, config: GMlpConfig, drop_path: float) -> None:
        super().__init__(config, drop_path)
        self.norm = config.block_norm()
        self.mlp_channels = GatedMlp(config)

    def forward(
        self, x_BSC: Tensor, draws_B2: Tensor | None = None, tap: Tap = no_tap
    ) -> Tensor:
        """Compute the block; arguments as in `Block`.

        It has one branch and uses the first of the two draws of stochastic depth.
        """
        draws, _ = branch_draws(draws_B2)
        return x_BSC + self.drop_path(self.mix(x_BSC, tap), draws)

    def mix(self, x_BSC: Tensor, tap: Tap = no_tap) -> Tensor:
        """Mix across channels and, in the gate, across positions."""
        return tap("mlp_channels", self.mlp_channels(self.norm(x_BSC)))

    def reset_parameters(self) -> None:
        """Initialise as timm does: Xavier-uniform kernels, but for the gate.

        That begins near 1, so that a block is a plain MLP at first.
        """
        timm_init_(self.mlp_channels.fc1)
        timm_init_(self.mlp_channels.fc2)
        weight, bias = self.mlp_channels.gate["proj"].parameters()
        nn.init.normal_(weight, std=1e-6)
        nn.init.ones_(bias)


# fmt: off
VARIANTS = {
    #                        P   L    C   D_C
    "gmlp_ti16": GMlpConfig(16, 30, 128,  384, gelu="erf"),
    "gmlp_s16":  GMlpConfig(16, 30, 256,  768, gelu="erf"),
    "gmlp_b16":  GMlpConfig(16, 30, 512, 1536, gelu="erf"),
}
# fmt: on
