"""The registry: families and variants by name, and configurations as JSON that says of
which family they are.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping
from typing import Any

from ..config import from_dict, to_dict
from ..errors import UserError, unknown
from . import gmixer, gmlp, mixer, resmlp, token_mixing
from .base import NetworkConfig

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


def need_mixer(config: NetworkConfig, what: str) -> mixer.MixerConfig:
    """The configuration of a Mixer as such; `UserError` for another family: `what` is
    not for it.
    """
    if not isinstance(config, mixer.MixerConfig):
        raise UserError(
            f"{what} knows Mixers only, got {type(config).__name__.removesuffix('Config')}"
        )
    return config


def config_to_dict(config: NetworkConfig) -> dict[str, Any]:
    """For JSON: the fields, and the family's name, which a Mixer's lacks: its files
    stay readable everywhere.
    """
    family = next(name for name, (kind, _) in FAMILIES.items() if type(config) is kind)
    return ({} if family == "mixer" else {"family": family}) | to_dict(config)


def config_from_dict(values: Mapping[str, Any]) -> NetworkConfig:
    """The way back; `UserError` for an unknown family or field, or an illegal value."""
    fields = {"family": "mixer", **values}
    if (family := str(fields.pop("family"))) not in FAMILIES:
        raise unknown("family", family, FAMILIES)
    return from_dict(FAMILIES[family][0], fields, where="config")
