"""What else the paper tried in token mixing (App. A.1), as options of a Mixer.

Untied: several token MLPs with weights of their own; in the paper, one for each of the
    C channels.
Grouped: G neighbouring columns of the (S, C) table are concatenated: C/G vectors of
    length S G are mixed.
Views: before that, G learned linear maps C -> C/G, so that they are G views of each
    token, not G channels.
Pyramid: token MLPs map S to S' < S tokens. No skip connection goes around those; the
    paper leaves it open.

Axes as in mixer.py, and T tokens after the block, N token MLPs, M = C/G vectors of
length V = S G.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ..errors import UserError
from .base import Block, Branches, NetworkConfig
from .layers import Mlp, lecun_normal_


@dataclass(frozen=True)
class TokenMixingConfig(NetworkConfig):
    """The whole architecture: the fields of every family, and these. The defaults make
    the paper's Mixer.
    """

    tokens_mlp_dim: int
    channels_mlp_dim: int
    token_mlps: int = field(
        default=1, kw_only=True
    )  # N, each for as many neighbouring vectors
    group: int = field(default=1, kw_only=True)  # G
    views: bool = field(default=False, kw_only=True)
    pyramid: tuple[int, ...] = field(
        default=(), kw_only=True
    )  # tokens after each of the last blocks

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.hidden_dim % (self.group * self.token_mlps):
            raise UserError(
                f"group * token_mlps must divide hidden_dim, got {self.group} * {self.token_mlps}"
            )
        counts = [self.num_patches, *self.pyramid, 1]
        if len(self.pyramid) > self.num_blocks or counts != sorted(
            counts, reverse=True
        ):
            raise UserError(
                f"pyramid must fall from {counts[0]} tokens, at most once a block, got {self.pyramid}"
            )

    def block(self, i: int, drop_path: float) -> Block:
        counts = (self.num_patches,) * (
            self.num_blocks - len(self.pyramid) + 1
        ) + self.pyramid
        return TokenMixingBlock(self, drop_path, counts[i], counts[i + 1])


class UntiedMlp(nn.Module):
    """An `Mlp` on (B, M, V), N times, each for its own M/N neighbours: two batched
    products.
    """

    def __init__(self, config: TokenMixingConfig, dim: int, out_dim: int) -> None:
        super().__init__()
        N = config.token_mlps
        D_S = config.tokens_mlp_dim
        self.weight1, self.weight2 = (
            nn.Parameter(torch.empty(N, *io)) for io in ((D_S, dim), (out_dim, D_S))
        )
        # Flat, as optimisers know biases by their one axis.
        self.bias1, self.bias2 = (
            nn.Parameter(torch.empty(N * width)) for width in (D_S, out_dim)
        )
        self.act = nn.GELU(approximate="tanh" if config.gelu == "tanh" else "none")
        self.drop = nn.Dropout(config.dropout)

    def forward(self, x_BMV: Tensor) -> Tensor:
        N = len(self.weight1)
        x = x_BMV.unflatten(1, (N, -1)).transpose(0, 1)  # type: ignore[no-untyped-call]  # (N, B, M/N, V)
        hidden = torch.baddbmm(
            self.bias1.view(N, 1, -1), x.flatten(1, 2), self.weight1.transpose(1, 2)
        )
        y = torch.baddbmm(
            self.bias2.view(N, 1, -1),
            self.drop(self.act(hidden)),
            self.weight2.transpose(1, 2),
        )
        return self.drop(y).unflatten(1, x.shape[1:3]).transpose(0, 1).flatten(1, 2)


class TokenMixingBlock(Block):
    """Mix across tokens, in any of these ways, then across channels."""

    def __init__(
        self,
        config: TokenMixingConfig,
        drop_path: float,
        tokens: int,
        tokens_after: int,
    ) -> None:
        super().__init__(config, drop_path)
        C = config.hidden_dim
        G = config.group
        D_S = config.tokens_mlp_dim
        dropout = config.dropout
        self.group = G
        self.norm1 = config.norm()
        self.norm2 = config.norm()
        self.views = nn.Linear(C, C, bias=False) if config.views else nn.Identity()
        self.mlp_tokens: nn.Module = Mlp(
            G * tokens, D_S, G * tokens_after, gelu=config.gelu, dropout=dropout
        )
        if config.token_mlps > 1:
            self.mlp_tokens = UntiedMlp(config, G * tokens, G * tokens_after)
        self.mlp_channels = Mlp(
            C, config.channels_mlp_dim, gelu=config.gelu, dropout=dropout
        )

    def mix_tokens(self, x_BSC: Tensor) -> Tensor:
        """(B, S, C) -> (B, T, C), by way of (B, M, V)."""
        x_BCS = self.views(self.norm1(x_BSC)).transpose(1, 2)
        y_BMV = self.mlp_tokens(x_BCS.unflatten(1, (-1, self.group)).flatten(2))
        return y_BMV.unflatten(2, (self.group, -1)).flatten(1, 2).transpose(1, 2)

    def branches(self) -> Branches:
        return {
            "mlp_tokens": self.mix_tokens,
            "mlp_channels": lambda x_BSC: self.mlp_channels(self.norm2(x_BSC)),
        }

    def reset_parameters(self) -> None:
        """Each of several token MLPs begins as the one would."""
        if isinstance(mlps := self.mlp_tokens, UntiedMlp):
            for weight, bias in (
                (mlps.weight1, mlps.bias1),
                (mlps.weight2, mlps.bias2),
            ):
                lecun_normal_(weight.flatten(0, 1))
                nn.init.zeros_(bias)


VARIANTS = {
    #                              P   L  C    D_S  D_C
    "untied_s32": TokenMixingConfig(32, 8, 512, 256, 2048, token_mlps=512),
    "grouped_s32": TokenMixingConfig(32, 8, 512, 256, 2048, group=2),
    "views_s32": TokenMixingConfig(32, 8, 512, 256, 2048, group=4, views=True),
    "pyramid_s16": TokenMixingConfig(16, 8, 512, 256, 2048, pyramid=(98, 98, 49, 49)),
    "untied_nano4": TokenMixingConfig(
        4, 8, 128, 64, 512, token_mlps=128, image_size=(32, 32)
    ),
    "grouped_nano4": TokenMixingConfig(
        4, 8, 128, 64, 512, group=2, image_size=(32, 32)
    ),
    "views_nano4": TokenMixingConfig(
        4, 8, 128, 64, 512, group=4, views=True, image_size=(32, 32)
    ),
    "pyramid_nano4": TokenMixingConfig(
        4, 8, 128, 64, 512, pyramid=(32, 32, 16, 16), image_size=(32, 32)
    ),
}
