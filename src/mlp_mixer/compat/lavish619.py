"""The constructor of github.com/lavish619/MLP-Mixer-PyTorch (its last commit).

It takes their arguments and gives our network, which reads their state dicts. Theirs
differs from the paper in three ways, all kept: its default expansions swap the widths of
the two MLPs, there is no norm before pooling, and dropout is 0.5.

Axes as in models/mixer.py.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UserError
from ..models.mixer import MixerConfig, MlpMixer
from ..weights.lineages.tables import LAVISH619


def MLP_Mixer(  # noqa: N802  (the name people know)
    image_shape: Sequence[int],
    patch_size: int,
    num_classes: int,
    num_mixers: int,
    num_features: int,
    expansion_token: float = 4,
    expansion_channel: float = 0.5,
    dropout: float = 0.5,
) -> MlpMixer:
    """Return a network for square images, with torch's default initialisation.

    It is an `MlpMixer` in all: `mlp_mixer.save`, `cost` and the rest take it. Its
    `load_state_dict` reads the names of the original as well as ours; `mlp-mixer convert
    --to lavish619` writes them.

    Args:
        image_shape: (height, width, channels), or (height, width) for one channel.
        patch_size: Side of a patch, in pixels.
        num_classes: K.
        num_mixers: Blocks.
        num_features: C.
        expansion_token: Times S gives the hidden width of the token MLP, truncated.
        expansion_channel: Times C gives that of the channel MLP, truncated.
        dropout: The probability to drop a number inside the MLPs.

    Raises:
        UserError: A shape or size cannot be built.
    """
    height, width, channels = _height_width_channels(image_shape)
    if num_classes < 1:
        raise UserError(f"num_classes must be at least 1, got {num_classes}")
    # A patch size of 0 is refused by the configuration, in its own words.
    num_patches = (height // max(patch_size, 1)) ** 2
    config = MixerConfig(
        patch_size=patch_size,
        num_blocks=num_mixers,
        hidden_dim=num_features,
        tokens_mlp_dim=int(expansion_token * num_patches),
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
        warnings.warn(_not_the_papers(config), UserWarning, stacklevel=2)
    mixer = _with_default_initialisation(config)
    mixer.register_load_state_dict_pre_hook(_read_their_names)  # type: ignore[no-untyped-call]
    return mixer


def _not_the_papers(config: MixerConfig) -> str:
    paper = config.hidden_dim // 2
    return (
        "the default expansions of MLP_Mixer make the token MLP 4*S = "
        f"{config.tokens_mlp_dim} and the channel MLP C/2 = {config.channels_mlp_dim} "
        "wide, which is not the paper's Mixer; for its widths pass "
        f"expansion_token=({paper} + .5) / {config.num_patches} (the product is "
        "truncated, hence the half) and expansion_channel=4, or use "
        "mlp_mixer.create_model('mixer_s16')"
    )


def _with_default_initialisation(config: MixerConfig) -> MlpMixer:
    """Build the network with the very numbers that the original draws from a seed."""
    # Built without drawing: ours would use up random numbers for the paper's
    # initialisation first. The layers then draw in their order, which is the original's.
    device = torch.get_default_device()
    with torch.device("meta"):
        mixer = MlpMixer(config)
    mixer.to_empty(device=device)
    for module in mixer.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear, nn.LayerNorm)):
            module.reset_parameters()
    return mixer


def _read_their_names(
    mixer: MlpMixer, state_dict: dict[str, Tensor], prefix: str, *_: Any
) -> None:
    """Rename the original's tensors in a state dict to ours; ours stay as they are."""
    for row in LAVISH619.table(mixer.config.num_blocks):
        theirs = prefix + row.theirs
        if theirs in state_dict:
            state_dict[prefix + row.ours[0]] = state_dict.pop(theirs)


def _height_width_channels(image_shape: Sequence[int]) -> tuple[int, int, int]:
    if not isinstance(image_shape, Sequence) or len(image_shape) not in (2, 3):
        raise UserError(
            "image_shape must be (height, width, channels) or (height, width), got "
            f"{image_shape!r}"
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
