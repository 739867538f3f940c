"""The constructor of github.com/lavish619/MLP-Mixer-PyTorch (its last commit): its
arguments, names and numbers.

It differs from the paper in three ways, all kept: its default expansions swap the
    widths of the two MLPs, there is no
norm before pooling, and dropout is 0.5.

Axes: B batch, S patches (tokens), C num_features, K classes. A suffix names them:
    x_BSC.
"""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..errors import UserError
from ..models.layers import Mlp
from ..models.mixer import MixerConfig, MlpMixer
from ..weights.lineages.tables import LAVISH619


class TokenMixer(nn.Module):
    """Norm, MLP across the tokens, skip connection."""

    def __init__(self, config: MixerConfig) -> None:
        super().__init__()
        self.layer_norm = nn.LayerNorm(config.hidden_dim, eps=config.norm_eps)
        self.mlp_block = Mlp(
            config.num_patches,
            config.tokens_mlp_dim,
            gelu=config.gelu,
            dropout=config.dropout,
        )

    def forward(self, x_BSC: Float[Tensor, "B S C"]) -> Float[Tensor, "B S C"]:
        return x_BSC + self.mlp_block(self.layer_norm(x_BSC).transpose(1, 2)).transpose(
            1, 2
        )


class ChannelMixer(nn.Module):
    """Norm, MLP across the channels, skip connection."""

    def __init__(self, config: MixerConfig) -> None:
        super().__init__()
        self.layer_norm = nn.LayerNorm(config.hidden_dim, eps=config.norm_eps)
        self.mlp_block = Mlp(
            config.hidden_dim,
            config.channels_mlp_dim,
            gelu=config.gelu,
            dropout=config.dropout,
        )

    def forward(self, x_BSC: Float[Tensor, "B S C"]) -> Float[Tensor, "B S C"]:
        return x_BSC + self.mlp_block(self.layer_norm(x_BSC))


class MLP_Mixer(nn.Module):  # noqa: N801  (the name people know)
    """Square images (B, channels, H, W) -> logits (B, K), with torch's default
    initialisation.

    image_shape: (height, width, channels), or (height, width) for one channel.
    expansion_token: times S gives the hidden width of the token MLP; expansion_channel:
        times C that of the channel
    MLP; both products are truncated. Raises `UserError` for a shape or size that cannot
    be built.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        patch_size: int,
        num_classes: int,
        num_mixers: int,
        num_features: int,
        expansion_token: float = 4,
        expansion_channel: float = 0.5,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        height, width, channels = _height_width_channels(image_shape)
        if num_classes < 1:
            raise UserError(f"num_classes must be at least 1, got {num_classes}")
        self.config = config = MixerConfig(
            patch_size=patch_size,
            num_blocks=num_mixers,
            hidden_dim=num_features,
            tokens_mlp_dim=int(expansion_token * (height // max(patch_size, 1)) ** 2),
            channels_mlp_dim=int(expansion_channel * num_features),
            image_size=(height, width),
            in_channels=channels,
            num_classes=num_classes,
            gelu="erf",
            norm_eps=1e-5,
            final_norm=False,
            dropout=dropout,
        )
        if (expansion_token, expansion_channel) == (4, 0.5):
            tokens = config.num_patches
            paper = num_features // 2
            warnings.warn(
                f"the default expansions of MLP_Mixer make the token MLP 4*S = {config.tokens_mlp_dim} and the channel "
                f"MLP C/2 = {config.channels_mlp_dim} wide, which is not the paper's Mixer; for its widths pass "
                f"expansion_token=({paper} + .5) / {tokens} (the product is truncated, hence the half) and "
                "expansion_channel=4, or use mlp_mixer.create_model('mixer_s16')",
                UserWarning,
                stacklevel=2,
            )
        self.patch_breaker = nn.Conv2d(
            channels, num_features, kernel_size=patch_size, stride=patch_size
        )
        self.mixer_layers = nn.Sequential(*(_layer(config) for _ in range(num_mixers)))
        self.final_fc = nn.Linear(num_features, num_classes)

    def forward(self, image: Float[Tensor, "B channels H W"]) -> Float[Tensor, "B K"]:
        expected = (self.config.in_channels, *self.config.image_size)
        if image.ndim != 4 or tuple(image.shape[1:]) != expected:
            raise UserError(
                f"this MLP_Mixer takes images of shape (batch, {', '.join(map(str, expected))}), got "
                f"{tuple(image.shape)}; resize the images, or give their image_shape"
            )
        x_BSC = self.patch_breaker(image).flatten(2).transpose(1, 2)
        return self.final_fc(self.mixer_layers(x_BSC).mean(dim=1))

    def to_mixer(self) -> MlpMixer:
        """The same network as our `MlpMixer`, with copies of the weights: what `save`,
        `cost` and the rest take.
        """
        theirs = self.state_dict()
        ours = {
            row.ours[0]: theirs[row.theirs].clone()
            for row in LAVISH619.table(self.config.num_blocks)
        }
        with torch.device("meta"):
            mixer = MlpMixer(self.config)
        mixer.load_state_dict(ours, strict=True, assign=True)
        return mixer.requires_grad_(True).train(self.training)


def _layer(config: MixerConfig) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(token_mixer=TokenMixer(config), channel_mixer=ChannelMixer(config))
    )


def _height_width_channels(image_shape: Sequence[int]) -> tuple[int, int, int]:
    if not isinstance(image_shape, Sequence) or len(image_shape) not in (2, 3):
        raise UserError(
            f"image_shape must be (height, width, channels) or (height, width), got {image_shape!r}"
        )
    height, width, channels = (*image_shape, 1)[:3]
    if height == width:
        return height, width, channels
    if len(image_shape) == 3 and width == channels:
        raise UserError(
            f"image_shape {tuple(image_shape)} looks like (channels, height, width); "
            f"pass ({width}, {channels}, {height})"
        )
    raise UserError(
        f"MLP_Mixer takes square images only, got height {height} and width {width}; "
        "mlp_mixer.create_model takes image_size=(height, width)"
    )
