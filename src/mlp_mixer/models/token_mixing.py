"""What else the paper tried in token mixing (App. A.1), as options of a Mixer.

Untied: several token MLPs with weights of their own; in the paper, one for each of the
    C channels.
Grouped: G neighbouring columns of the (S, C) table are concatenated: C/G vectors of
    length S G are mixed.
Views: before that, G learned linear maps C -> C/G, so that they are G views of each
    token, not G channels.
Pyramid: token MLPs map S to T < S tokens. No skip connection goes around those; the
    paper leaves it open.

Axes as in mixer.py, and T tokens after the block, N token MLPs, M = C/G vectors of
length V = S G.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ..errors import UserError
from .base import Block, NetworkConfig, Tap, branch_draws, no_tap
from .layers import Mlp, gelu_layer, lecun_normal_


@dataclass(frozen=True)
class TokenMixingConfig(NetworkConfig):
    """Describe a Mixer with options; the defaults make the paper's Mixer.

    Attributes:
        tokens_mlp_dim: D_S, the hidden width of the token MLPs.
        channels_mlp_dim: D_C, the hidden width of the channel MLPs.
        token_mlps: N; each mixes as many neighbouring vectors.
        group: G, the channels of a vector.
        views: Whether learned linear maps come before the grouping.
        pyramid: The number of tokens after each of the last blocks.
    """

    tokens_mlp_dim: int
    channels_mlp_dim: int
    token_mlps: int = field(default=1, kw_only=True)
    group: int = field(default=1, kw_only=True)
    views: bool = field(default=False, kw_only=True)
    pyramid: tuple[int, ...] = field(default=(), kw_only=True)

    def __post_init__(self) -> None:
        """Check the options as well.

        Raises:
            UserError: A value is not legal.
        """
        super().__post_init__()
        if self.hidden_dim % (self.group * self.token_mlps):
            raise UserError(
                "group * token_mlps must divide hidden_dim, "
                f"got {self.group} * {self.token_mlps}"
            )
        counts = [self.num_patches, *self.pyramid, 1]
        falls = counts == sorted(counts, reverse=True)
        if not falls or len(self.pyramid) > self.num_blocks:
            raise UserError(
                f"pyramid must fall from {counts[0]} tokens, at most once a block, "
                f"got {self.pyramid}"
            )

    @property
    def own_blocks(self) -> int:
        """How many blocks at the end have shapes of their own; all others are alike."""
        return len(self.pyramid)

    def block(self, i: int, drop_path: float) -> Block:
        """Return a new block; its number says how many tokens it reads and leaves.

        Args:
            i: Its number, from 0.
            drop_path: Its rate of stochastic depth.
        """
        # The pyramid names the last blocks; those before them keep all tokens.
        blocks_before = self.num_blocks - len(self.pyramid)
        counts = (self.num_patches,) * (blocks_before + 1) + self.pyramid
        return TokenMixingBlock(self, drop_path, counts[i], counts[i + 1])


class UntiedMlp(nn.Module):
    """Apply N different MLPs to (B, M, V), each to its own M/N neighbours.

    Two batched products compute all of them.
    """

    def __init__(self, config: TokenMixingConfig, dim: int, out_dim: int) -> None:
        super().__init__()
        N = config.token_mlps
        self.count = N
        D_S = config.tokens_mlp_dim
        self.weight1 = nn.Parameter(torch.empty(N, D_S, dim))
        self.weight2 = nn.Parameter(torch.empty(N, out_dim, D_S))
        # Flat, since optimisers know biases (no weight decay) by their single axis.
        self.bias1 = nn.Parameter(torch.empty(N * D_S))
        self.bias2 = nn.Parameter(torch.empty(N * out_dim))
        self.act = gelu_layer(config.gelu)
        self.drop = nn.Dropout(config.dropout)

    def forward(self, x_BMV: Tensor) -> Tensor:
        N = self.count
        # (B, M, V) -> (N, B, M/N, V): one batch of the product for each MLP.
        x = x_BMV.unflatten(1, (N, -1)).transpose(0, 1)  # type: ignore[no-untyped-call]
        bias1 = self.bias1.view(N, 1, -1)
        bias2 = self.bias2.view(N, 1, -1)
        hidden = torch.baddbmm(bias1, x.flatten(1, 2), self.weight1.transpose(1, 2))
        hidden = self.drop(self.act(hidden))
        y = self.drop(torch.baddbmm(bias2, hidden, self.weight2.transpose(1, 2)))
        return y.unflatten(1, x.shape[1:3]).transpose(0, 1).flatten(1, 2)


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
        self.has_fewer = tokens_after < tokens
        self.norm1 = config.block_norm()
        self.norm2 = config.block_norm()
        self.views = nn.Linear(C, C, bias=False) if config.views else nn.Identity()
        # Built even where several take its place: it draws from torch's generator, and
        # a seed shall mean the same channel MLPs and head with either.
        self.mlp_tokens: nn.Module = Mlp(
            G * tokens, D_S, G * tokens_after, gelu=config.gelu, dropout=dropout
        )
        if config.token_mlps > 1:
            self.mlp_tokens = UntiedMlp(config, G * tokens, G * tokens_after)
        self.mlp_channels = Mlp(
            C, config.channels_mlp_dim, gelu=config.gelu, dropout=dropout
        )

    def forward(
        self, x_BSC: Tensor, draws_B2: Tensor | None = None, tap: Tap = no_tap
    ) -> Tensor:
        """Compute the block of a Mixer, but for the skip that a pyramid drops."""
        token_draws, channel_draws = branch_draws(draws_B2)
        x_BTC = self._joined(x_BSC, self.mix_tokens(x_BSC, tap), token_draws)
        return x_BTC + self.drop_path(self.mix_channels(x_BTC, tap), channel_draws)

    def mix_tokens(self, x_BSC: Tensor, tap: Tap = no_tap) -> Tensor:
        """Map (B, S, C) to (B, T, C), by way of (B, M, V)."""
        x_BCS = self.views(self.norm1(x_BSC)).transpose(1, 2)
        x_BMV = x_BCS.unflatten(1, (-1, self.group)).flatten(2)
        y_BMV = self.mlp_tokens(x_BMV)
        y_BCT = y_BMV.unflatten(2, (self.group, -1)).flatten(1, 2)
        return tap("mlp_tokens", y_BCT.transpose(1, 2))

    def mix_channels(self, x_BTC: Tensor, tap: Tap = no_tap) -> Tensor:
        """Mix each position across channels: the branch before its skip connection."""
        return tap("mlp_channels", self.mlp_channels(self.norm2(x_BTC)))

    def _joined(self, x_BSC: Tensor, mixed_BTC: Tensor, draws: Tensor | None) -> Tensor:
        """Add the token branch to x; with fewer tokens it takes the place of x.

        Nothing can be added there, so stochastic depth cannot drop it either.
        """
        if self.has_fewer:
            return mixed_BTC
        return x_BSC + self.drop_path(mixed_BTC, draws)

    def reset_parameters(self) -> None:
        """Initialise each of several token MLPs like a single one."""
        mlps = self.mlp_tokens
        if not isinstance(mlps, UntiedMlp):
            return
        for weight in (mlps.weight1, mlps.weight2):
            # The fan-in of one MLP, so its rows are those of a single Linear.
            lecun_normal_(weight.flatten(0, 1))
        for bias in (mlps.bias1, mlps.bias2):
            nn.init.zeros_(bias)


# fmt: off
VARIANTS = {
    #                                   P  L    C  D_S   D_C
    "untied_s32":    TokenMixingConfig(32, 8, 512, 256, 2048, token_mlps=512),
    "grouped_s32":   TokenMixingConfig(32, 8, 512, 256, 2048, group=2),
    "views_s32":     TokenMixingConfig(32, 8, 512, 256, 2048, group=4, views=True),
    "pyramid_s16":   TokenMixingConfig(16, 8, 512, 256, 2048, pyramid=(98, 98, 49, 49)),

    "untied_nano4":  TokenMixingConfig(4, 8, 128, 64, 512, token_mlps=128, image_size=(32, 32)),
    "grouped_nano4": TokenMixingConfig(4, 8, 128, 64, 512, group=2, image_size=(32, 32)),
    "views_nano4":   TokenMixingConfig(4, 8, 128, 64, 512, group=4, views=True, image_size=(32, 32)),
    "pyramid_nano4": TokenMixingConfig(
        4, 8, 128, 64, 512, pyramid=(32, 32, 16, 16), image_size=(32, 32)
    ),
}
# fmt: on
