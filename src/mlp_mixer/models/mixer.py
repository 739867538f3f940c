"""MLP-Mixer: An all-MLP Architecture for Vision (Tolstikhin et al., 2021, arXiv
2105.01601), as in its Appendix E.

Axes: B batch, S patches (tokens), C channels (hidden), P patch side, D_S
    tokens_mlp_dim, D_C channels_mlp_dim,
K classes. A suffix names them where an axis changes its meaning: x_BSC, x_BCS.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..errors import UserError
from .base import Block, Branches, NetworkConfig
from .layers import Mlp, PatchEmbed, drop_path_rates, lecun_normal_


@dataclass(frozen=True)
class MixerConfig(NetworkConfig):
    """The whole architecture, as a checkpoint carries it: these fields after those of
    every family (base.py).
    """

    tokens_mlp_dim: int
    channels_mlp_dim: int
    norm_eps: float = field(default=1e-6, kw_only=True)
    final_norm: bool = field(
        default=True, kw_only=True
    )  # lavish619 and the Keras example have none

    def block(self, i: int, drop_path: float) -> MixerBlock:
        return MixerBlock(self, drop_path)

    def norm(self) -> nn.Module:
        return (
            nn.LayerNorm(self.hidden_dim, eps=self.norm_eps)
            if self.final_norm
            else nn.Identity()
        )


class MixerBlock(Block):
    """Mix across tokens, then across channels; each branch reads a normalised x and is
    added to it.
    """

    def __init__(self, config: MixerConfig, drop_path: float) -> None:
        super().__init__(config, drop_path)
        self.norm1 = nn.LayerNorm(config.hidden_dim, eps=config.norm_eps)
        self.mlp_tokens = Mlp(
            config.num_patches,
            config.tokens_mlp_dim,
            gelu=config.gelu,
            dropout=config.dropout,
        )
        self.norm2 = nn.LayerNorm(config.hidden_dim, eps=config.norm_eps)
        self.mlp_channels = Mlp(
            config.hidden_dim,
            config.channels_mlp_dim,
            gelu=config.gelu,
            dropout=config.dropout,
        )

    def mix_tokens(self, x_BSC: Float[Tensor, "B S C"]) -> Float[Tensor, "B S C"]:
        """The token branch before its skip connection: each channel is mixed across
        positions.
        """
        x_BCS = self.norm1(x_BSC).transpose(1, 2)
        return self.mlp_tokens(x_BCS).transpose(1, 2)

    def mix_channels(self, x_BSC: Float[Tensor, "B S C"]) -> Float[Tensor, "B S C"]:
        """The channel branch before its skip connection: each position is mixed across
        channels.
        """
        return self.mlp_channels(self.norm2(x_BSC))

    def branches(self) -> Branches:
        """x = x + mix_tokens(x), then x = x + mix_channels(x)."""
        return {"mlp_tokens": self.mix_tokens, "mlp_channels": self.mix_channels}


class MlpMixer(nn.Module):
    """Images (B, in_channels, H, W) -> logits (B, K), or pooled features (B, C) if
    there is no head.

    The configuration says of which family the blocks are: `MixerConfig` makes a Mixer.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.grad_checkpointing = False
        rates = drop_path_rates(
            config.drop_path_rule, config.drop_path, config.num_blocks
        )
        self.stem = PatchEmbed(config.in_channels, config.hidden_dim, config.patch_size)
        self.blocks = nn.ModuleList(
            config.block(i, rate) for i, rate in enumerate(rates)
        )
        self.norm = config.norm()
        self.head = _head(config)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise as the paper's code does: lecun-normal kernels, zero biases, zero
        head.
        """
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Conv2d)):
                lecun_normal_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        if isinstance(self.head, nn.Linear):
            nn.init.zeros_(self.head.weight)
        for block in self.blocks:
            block.reset_parameters()  # type: ignore[operator]

    def forward_features(
        self,
        image: Float[Tensor, "B in_channels H W"],
        draws_BL2: Float[Tensor, "B L 2"] | None = None,
    ) -> Float[Tensor, "B S C"]:
        """Tokens after the final norm. `UserError` for an image of another size or
        number of channels.

        draws_BL2: uniform numbers in [0, 1) for stochastic depth; by default torch's
            generator draws them.
        """
        self._check(image)
        x_BSC = self.stem(image)
        for i, block in enumerate(self.blocks):
            draws_B2 = None if draws_BL2 is None else draws_BL2[:, i]
            if self.grad_checkpointing and self.training:
                x_BSC = checkpoint(block, x_BSC, draws_B2, use_reentrant=False)
            else:
                x_BSC = block(x_BSC, draws_B2)
        return self.norm(x_BSC)

    def forward_head(
        self, x_BSC: Float[Tensor, "B S C"], pre_logits: bool = False
    ) -> Float[Tensor, "B _"]:
        """Mean over the tokens, then the classifier (left out with `pre_logits`)."""
        pooled_BC = x_BSC.mean(dim=1)
        return pooled_BC if pre_logits else self.head(pooled_BC)

    def forward(
        self,
        image: Float[Tensor, "B in_channels H W"],
        draws_BL2: Float[Tensor, "B L 2"] | None = None,
    ) -> Float[Tensor, "B _"]:
        return self.forward_head(self.forward_features(image, draws_BL2))

    def features(self, image: Float[Tensor, "B in_channels H W"]) -> dict[str, Tensor]:
        """Every intermediate by name, in order of computation.

        `stem`; per block its branches before their skip connections,
        `blocks.i.mlp_tokens` and `blocks.i.mlp_channels` in a Mixer, and `blocks.i`;
        `norm`, all (B, S, C); `pre_logits` (B, C); `logits` (B, K).
        """
        self._check(image)
        out = {"stem": self.stem(image)}
        x_BSC = out["stem"]
        for i, block in enumerate(self.blocks):
            assert isinstance(block, Block)
            for name, branch in block.branches().items():
                out[f"blocks.{i}.{name}"] = branch(x_BSC)
                x_BSC = block.add(x_BSC, out[f"blocks.{i}.{name}"])
            out[f"blocks.{i}"] = x_BSC
        out["norm"] = self.norm(x_BSC)
        out["pre_logits"] = self.forward_head(out["norm"], pre_logits=True)
        out["logits"] = self.head(out["pre_logits"])
        return out

    @property
    def num_features(self) -> int:
        """C, the width of what `forward_head(..., pre_logits=True)` gives."""
        return self.config.hidden_dim

    @property
    def num_classes(self) -> int:
        """K, 0 without a head."""
        return self.config.num_classes

    def get_classifier(self) -> nn.Module:
        """The head: `nn.Linear`, or `nn.Identity` without classes."""
        return self.head

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the head by a new one of zeros for `num_classes` (0 removes it), as
        for fine-tuning.
        """
        reference = self.stem.proj.weight
        self.config = dataclasses.replace(self.config, num_classes=num_classes)
        self.head = _head(self.config).to(
            device=reference.device, dtype=reference.dtype
        )
        if isinstance(self.head, nn.Linear):
            nn.init.zeros_(self.head.weight)
            nn.init.zeros_(self.head.bias)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block in the backward pass instead of keeping its
        intermediates.
        """
        self.grad_checkpointing = enable

    def _check(self, image: Tensor) -> None:
        expected = (self.config.in_channels, *self.config.image_size)
        if image.ndim != 4 or tuple(image.shape[1:]) != expected:
            raise UserError(
                f"this model takes images of shape (batch, {', '.join(map(str, expected))}), got {tuple(image.shape)}; "
                "resize the images, or create the model with their image_size and in_channels"
            )


def _head(config: NetworkConfig) -> nn.Module:
    return (
        nn.Linear(config.hidden_dim, config.num_classes)
        if config.num_classes
        else nn.Identity()
    )


# The paper's Table 1 (and S/8, which its authors released later), then small ones for
# small images.
VARIANTS: dict[str, MixerConfig] = {
    #                         P   L   C     D_S  D_C
    "mixer_s32": MixerConfig(32, 8, 512, 256, 2048),
    "mixer_s16": MixerConfig(16, 8, 512, 256, 2048),
    "mixer_s8": MixerConfig(8, 8, 512, 256, 2048),
    "mixer_b32": MixerConfig(32, 12, 768, 384, 3072),
    "mixer_b16": MixerConfig(16, 12, 768, 384, 3072),
    "mixer_l32": MixerConfig(32, 24, 1024, 512, 4096),
    "mixer_l16": MixerConfig(16, 24, 1024, 512, 4096),
    "mixer_h14": MixerConfig(14, 32, 1280, 640, 5120),
    # Small images: their own image size is the default, D_S = C/2 and D_C = 4C as in
    # Table 1.
    "mixer_pico2": MixerConfig(2, 4, 64, 32, 256, image_size=(8, 8)),
    "mixer_pico7": MixerConfig(7, 4, 64, 32, 256, image_size=(28, 28)),
    "mixer_micro4": MixerConfig(4, 8, 96, 48, 384, image_size=(32, 32)),
    "mixer_nano4": MixerConfig(4, 8, 128, 64, 512, image_size=(32, 32)),
    "mixer_nano2": MixerConfig(2, 8, 128, 64, 512, image_size=(32, 32)),
    "mixer_tiny4": MixerConfig(4, 8, 256, 128, 1024, image_size=(32, 32)),
    "mixer_tiny2": MixerConfig(2, 8, 256, 128, 1024, image_size=(32, 32)),
}
