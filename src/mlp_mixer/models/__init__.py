"""The plain networks and what they cost."""

from __future__ import annotations

import fnmatch
from typing import Any

from ..config import from_dict, to_dict
from ..errors import UserError, unknown
from .base import NetworkConfig, size_pair
from .cost import Cost, PartCost, cost
from .families import ALL_VARIANTS, FAMILIES, build_network
from .isotropic import IsotropicMlp
from .mixer import VARIANTS, MixerConfig, MlpMixer

__all__ = [
    "ALL_VARIANTS",
    "FAMILIES",
    "VARIANTS",
    "Cost",
    "IsotropicMlp",
    "MixerConfig",
    "MlpMixer",
    "NetworkConfig",
    "PartCost",
    "build_network",
    "cost",
    "create_model",
    "model_config",
    "variants",
]


# Arguments of timm's create_model that something else does here.
_ELSEWHERE = {
    "pretrained": "mlp_mixer.load(NAME) gives published weights with their network "
    "(mlp_mixer.list_models(weights=True))",
    "features_only": "use model.forward_intermediates(image, intermediates_only=True), "
    "which gives feature maps (B, C, H, W) of the blocks",
    "out_indices": "use model.forward_intermediates(image, indices)",
    "checkpoint_path": "mlp_mixer.load(PATH) reads weights with their network",
}


def variants(pattern: str = "*") -> list[str]:
    """Return the names of architectures that match a shell pattern.

    Args:
        pattern: Such as "mixer_*16".

    Returns:
        Mixers in the order of Table 1, then other families.
    """
    return [name for name in ALL_VARIANTS if fnmatch.fnmatchcase(name, pattern)]


def model_config(
    name: str,
    *,
    num_classes: int = 1000,
    image_size: int | tuple[int, int] | None = None,
    in_channels: int = 3,
    **config_fields: Any,
) -> NetworkConfig:
    """Return the configuration that `create_model` would build.

    Args:
        name: As in `create_model`, like all arguments.
        num_classes: Of the head; 0 makes none.
        image_size: Side, or (height, width), in pixels.
        in_channels: Channels of an image.
        **config_fields: Any other field of its configuration.

    Raises:
        UserError: A name or field is unknown, or a value is not legal.
    """
    if name not in ALL_VARIANTS:
        raise unknown("model", name, ALL_VARIANTS)
    for field in config_fields:
        if field in _ELSEWHERE:
            raise UserError(f"create_model has no {field}: {_ELSEWHERE[field]}")
    variant = ALL_VARIANTS[name]
    fields = to_dict(variant)
    fields["num_classes"] = num_classes
    fields["in_channels"] = in_channels
    fields |= config_fields
    if image_size is not None:
        fields["image_size"] = size_pair(image_size)
    return from_dict(type(variant), fields)


def create_model(
    name: str,
    *,
    num_classes: int = 1000,
    image_size: int | tuple[int, int] | None = None,
    in_channels: int = 3,
    **config_fields: Any,
) -> IsotropicMlp:
    """Return a network with fresh weights, in training mode.

    It takes float images (batch, in_channels, height, width) and gives logits (batch,
    num_classes). The weights begin as the paper's do, drawn from torch's global
    generator.

    Args:
        name: One of `variants()`, such as "mixer_b16" or "gmlp_s16".
        num_classes: Of the head; 0 makes none, and the network gives pooled features.
        image_size: Side, or (height, width), in pixels; the default is the variant's
            own (224 for those of the paper).
        in_channels: Channels of an image.
        **config_fields: Any other field of its configuration: gelu, norm_eps,
            final_norm, dropout, drop_path, ...

    Returns:
        An `MlpMixer` for a Mixer's name, and an `IsotropicMlp` for other families.

    Raises:
        UserError: A name or field is unknown, or a value is not legal (a ValueError).
    """
    # timm's keyword, which here is a function of its own.
    if config_fields.pop("pretrained", False):
        raise UserError(
            f"create_model makes fresh weights; `load({name!r})` with the name of "
            "published weights (`list_models(weights=True)`) or a file gives pretrained "
            "ones, and its `.model` is the network"
        )
    config = model_config(
        name,
        num_classes=num_classes,
        image_size=image_size,
        in_channels=in_channels,
        **config_fields,
    )
    return build_network(config)
