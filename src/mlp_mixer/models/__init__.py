"""The plain networks and what they cost."""

from __future__ import annotations

import fnmatch
from typing import Any

from ..config import from_dict, to_dict
from ..errors import unknown
from .base import NetworkConfig
from .cost import Cost, PartCost, cost
from .families import ALL_VARIANTS, FAMILIES
from .mixer import VARIANTS, MixerConfig, MlpMixer

__all__ = [
    "ALL_VARIANTS",
    "FAMILIES",
    "VARIANTS",
    "Cost",
    "MixerConfig",
    "MlpMixer",
    "NetworkConfig",
    "PartCost",
    "cost",
    "create_model",
    "model_config",
    "variants",
]


def variants(pattern: str = "*") -> list[str]:
    """Names of the architectures that match a shell pattern: Mixers in the order of
    Table 1, then other families.
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
    """The configuration `create_model` would build; same arguments and errors."""
    if name not in ALL_VARIANTS:
        raise unknown("model", name, ALL_VARIANTS)
    fields = (
        to_dict(ALL_VARIANTS[name])
        | {"num_classes": num_classes, "in_channels": in_channels}
        | config_fields
    )
    if image_size is not None:
        fields["image_size"] = (
            [image_size, image_size] if isinstance(image_size, int) else image_size
        )
    return from_dict(type(ALL_VARIANTS[name]), fields)


def create_model(
    name: str,
    *,
    num_classes: int = 1000,
    image_size: int | tuple[int, int] | None = None,
    in_channels: int = 3,
    **config_fields: Any,
) -> MlpMixer:
    """A network with fresh weights (paper initialisation, from torch's global
    generator), in training mode.

    name: one of `variants()`, such as "mixer_b16" or "gmlp_s16".
    image_size: side, or (height, width), in pixels; the default is the variant's own
        (224 for those of the paper).
    config_fields: any other field of its configuration: gelu, norm_eps, final_norm,
        dropout, drop_path, ...

    The network takes float images (batch, in_channels, height, width) and gives logits
    (batch, num_classes). Raises `UserError` (a ValueError) for an unknown name or
    field, or an illegal value.
    """
    fields = {
        "num_classes": num_classes,
        "image_size": image_size,
        "in_channels": in_channels,
        **config_fields,
    }
    return MlpMixer(model_config(name, **fields))
