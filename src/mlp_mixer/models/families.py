"""The registry: families and variants by name, and configurations as JSON."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping
from typing import Any

from ..config import from_dict, to_dict
from ..errors import UserError, unknown
from . import gmixer, gmlp, mixer, resmlp, token_mixing
from .base import NetworkConfig
from .isotropic import IsotropicMlp

FAMILIES: dict[str, tuple[type[NetworkConfig], dict[str, Any]]] = {
    "mixer": (mixer.MixerConfig, mixer.VARIANTS),
    "token_mixing": (token_mixing.TokenMixingConfig, token_mixing.VARIANTS),
    "gmixer": (gmixer.GMixerConfig, gmixer.VARIANTS),
    "resmlp": (resmlp.ResMlpConfig, resmlp.VARIANTS),
    "gmlp": (gmlp.GMlpConfig, gmlp.VARIANTS),
}
# All rows, the Mixers first: a ChainMap begins with its last map.
ALL_VARIANTS: Mapping[str, NetworkConfig] = ChainMap(
    *(rows for _, rows in reversed(FAMILIES.values()))
)


def build_network(config: NetworkConfig) -> IsotropicMlp:
    """Return a network of any family with fresh weights, in training mode.

    Args:
        config: The architecture; that of a Mixer makes an `MlpMixer`.
    """
    if isinstance(config, mixer.MixerConfig):
        return mixer.MlpMixer(config)
    return IsotropicMlp(config)


def need_mixer(config: NetworkConfig, what: str) -> mixer.MixerConfig:
    """Return the configuration if it is that of a Mixer.

    Args:
        config: The architecture.
        what: The feature that only Mixers have, for the error.

    Raises:
        UserError: The configuration is that of another family.
    """
    if not isinstance(config, mixer.MixerConfig):
        family = type(config).__name__.removesuffix("Config")
        raise UserError(f"{what} knows Mixers only, got {family}")
    return config


def config_to_dict(config: NetworkConfig) -> dict[str, Any]:
    """Return a configuration for JSON: its fields and the name of its family.

    Args:
        config: The architecture.
    """
    family = next(name for name, (kind, _) in FAMILIES.items() if type(config) is kind)
    # A Mixer's file names no family, so that every version can read it.
    named = {} if family == "mixer" else {"family": family}
    return named | to_dict(config)


def config_from_dict(values: Mapping[str, Any]) -> NetworkConfig:
    """Return the configuration that `config_to_dict` wrote.

    Args:
        values: The fields, and perhaps the family.

    Raises:
        UserError: The family or a field is unknown, or a value is not legal.
    """
    fields = {"family": "mixer", **values}
    family = str(fields.pop("family"))
    if family not in FAMILIES:
        raise unknown("family", family, FAMILIES)
    kind, _ = FAMILIES[family]
    return from_dict(kind, fields, where="config")
