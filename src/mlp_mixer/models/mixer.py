"""MLP-Mixer: An all-MLP Architecture for Vision (Tolstikhin et al. 2021).

arXiv 2105.01601, as in its Appendix E. What a Mixer shares with other families (stem,
norm, mean over tokens, head) is in isotropic.py.

Axes: B batch, S patches (tokens), C channels (hidden), P patch side, D_S
tokens_mlp_dim, D_C channels_mlp_dim, L blocks, K classes. A suffix names them where an
axis changes its meaning: x_BSC, x_BCS.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Tensor, nn

from ..errors import UserError
from .base import Block, NetworkConfig, Tap, branch_draws, no_tap
from .isotropic import IsotropicMlp
from .layers import Mlp


@dataclass(frozen=True)
class MixerConfig(NetworkConfig):
    """Describe a Mixer, as a checkpoint carries it.

    Attributes:
        tokens_mlp_dim: D_S, the hidden width of the token MLPs.
        channels_mlp_dim: D_C, the hidden width of the channel MLPs.
        norm_eps: Epsilon of all LayerNorms.
        final_norm: Whether a norm follows the last block; lavish619's Mixer and the
            Keras example have none.
    """

    tokens_mlp_dim: int
    channels_mlp_dim: int
    norm_eps: float = field(default=1e-6, kw_only=True)
    final_norm: bool = field(default=True, kw_only=True)

    def block(self, i: int, drop_path: float) -> MixerBlock:
        """Return a new block; all are alike but for their rate of stochastic depth.

        Args:
            i: Its number, from 0.
            drop_path: Its rate of stochastic depth.
        """
        return MixerBlock(self, drop_path)

    def block_norm(self) -> nn.Module:
        """Return a new norm for the beginning of a branch."""
        return nn.LayerNorm(self.hidden_dim, eps=self.norm_eps)

    def last_norm(self) -> nn.Module:
        """Return the norm after the last block, which some ports leave out."""
        return self.block_norm() if self.final_norm else nn.Identity()


class MixerBlock(Block):
    """Mix across tokens, then across channels.

    Each branch reads a normalised x and is added to x.
    """

    def __init__(self, config: MixerConfig, drop_path: float) -> None:
        super().__init__(config, drop_path)
        self.norm1 = config.block_norm()
        self.mlp_tokens = Mlp(
            config.num_patches,
            config.tokens_mlp_dim,
            gelu=config.gelu,
            dropout=config.dropout,
        )
        self.norm2 = config.block_norm()
        self.mlp_channels = Mlp(
            config.hidden_dim,
            config.channels_mlp_dim,
            gelu=config.gelu,
            dropout=config.dropout,
        )

    def forward(
        self,
        x_BSC: Float[Tensor, "B S C"],
        draws_B2: Float[Tensor, "B 2"] | None = None,
        tap: Tap = no_tap,
    ) -> Float[Tensor, "B S C"]:
        """Compute the block of Appendix E; arguments as in `Block`."""
        token_draws, channel_draws = branch_draws(draws_B2)
        x_BSC = x_BSC + self.drop_path(self.mix_tokens(x_BSC, tap), token_draws)
        return x_BSC + self.drop_path(self.mix_channels(x_BSC, tap), channel_draws)

    def mix_tokens(
        self, x_BSC: Float[Tensor, "B S C"], tap: Tap = no_tap
    ) -> Float[Tensor, "B S C"]:
        """Mix each channel across positions: the branch before its skip connection."""
        x_BCS = self.norm1(x_BSC).transpose(1, 2)
        return tap("mlp_tokens", self.mlp_tokens(x_BCS).transpose(1, 2))

    def mix_channels(
        self, x_BSC: Float[Tensor, "B S C"], tap: Tap = no_tap
    ) -> Float[Tensor, "B S C"]:
        """Mix each position across channels: the branch before its skip connection."""
        return tap("mlp_channels", self.mlp_channels(self.norm2(x_BSC)))


class MlpMixer(IsotropicMlp):
    """Map images (B, in_channels, H, W) to logits (B, K), or to pooled features (B, C).

    Attributes:
        config: The architecture.
    """

    config: MixerConfig

    def __init__(self, config: MixerConfig) -> None:
        """Build a Mixer with fresh weights, drawn from torch's global generator.

        Args:
            config: The architecture.

        Raises:
            UserError: The configuration is that of another family.
        """
        if not isinstance(config, MixerConfig):
            family = type(config).__name__  # type: ignore[unreachable]
            raise UserError(
                f"MlpMixer takes a MixerConfig, got {family}; "
                "models.families.build_network takes any"
            )
        super().__init__(config)


# fmt: off
# The paper's Table 1 (and S/8, which its authors released later), then small ones for
# small images: their own image size is the default, and D_S = C/2 and D_C = 4C as in
# Table 1; but mixer_mini4 is of few blocks and narrow MLPs, for the weights in the package.
VARIANTS: dict[str, MixerConfig] = {
    #                            P   L     C  D_S   D_C
    "mixer_s32":    MixerConfig(32,  8,  512, 256, 2048),
    "mixer_s16":    MixerConfig(16,  8,  512, 256, 2048),
    "mixer_s8":     MixerConfig( 8,  8,  512, 256, 2048),
    "mixer_b32":    MixerConfig(32, 12,  768, 384, 3072),
    "mixer_b16":    MixerConfig(16, 12,  768, 384, 3072),
    "mixer_l32":    MixerConfig(32, 24, 1024, 512, 4096),
    "mixer_l16":    MixerConfig(16, 24, 1024, 512, 4096),
    "mixer_h14":    MixerConfig(14, 32, 1280, 640, 5120),

    "mixer_pico2":  MixerConfig( 2,  4,   64,  32,  256, image_size=(8, 8)),
    "mixer_pico7":  MixerConfig( 7,  4,   64,  32,  256, image_size=(28, 28)),
    "mixer_micro4": MixerConfig( 4,  8,   96,  48,  384, image_size=(32, 32)),
    "mixer_nano4":  MixerConfig( 4,  8,  128,  64,  512, image_size=(32, 32)),
    "mixer_nano2":  MixerConfig( 2,  8,  128,  64,  512, image_size=(32, 32)),
    "mixer_mini4":  MixerConfig( 4,  4,  256,  64,  512, image_size=(32, 32)),
    "mixer_tiny4":  MixerConfig( 4,  8,  256, 128, 1024, image_size=(32, 32)),
    "mixer_tiny2":  MixerConfig( 2,  8,  256, 128, 1024, image_size=(32, 32)),
}
# fmt: on
