"""The sizes of Mixer that timm lacks, under timm's own registry.

They are built from timm's own `MlpMixer`. After `register()`,
`timm.create_model("mixer_nano4_32")` works, and so does a folder whose config.json names
such an architecture: `timm.create_model("local-dir:FOLDER", pretrained=True)`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..errors import UserError
from ..models.mixer import MixerConfig
from ..weights.lineages.timm_names import (
    ENTRY_POINTS,
    IN_CHANS,
    EntryPoint,
    entry_point,
)

__all__ = ["EntryPoint", "entry_point", "register"]

# timm looks here, in an entry point's module, for its preprocessing record.
default_cfgs: dict[str, Any] = {}


def register() -> tuple[str, ...]:
    """Give timm an entry point for every row of `VARIANTS` that it lacks.

    Call it once before `timm.create_model`; again does nothing. A name that timm (or
    another package) has is left alone.

    Returns:
        The names that are ours, old and new.

    Raises:
        UserError: timm cannot be imported.
    """
    try:
        from timm.models import (
            generate_default_cfgs,
            is_model,
            model_entrypoint,
            register_model,
        )
    except ImportError as error:
        raise UserError(
            "register() needs timm, which cannot be imported; run pip install timm"
        ) from error
    ours = []
    for name, config in ENTRY_POINTS.items():
        if not is_model(name):
            record: dict[str, Any] = {f"{name}.untrained": _default_cfg(config)}
            default_cfgs.update(generate_default_cfgs(record))
            # timm adds the name to this module's __all__, so it must exist here.
            globals()[name] = register_model(_builder(name, config))
        if model_entrypoint(name).__module__ == __name__:
            ours.append(name)
    return tuple(ours)


def _builder(name: str, config: MixerConfig) -> Callable[..., Any]:
    def build(pretrained: bool = False, **kwargs: Any) -> Any:
        from timm.models import build_model_with_cfg
        from timm.models.mlp_mixer import MlpMixer

        features = {
            "out_indices": kwargs.pop("out_indices", 3),
            "feature_cls": "getter",
        }
        # A size given again is a TypeError, as with timm's entry points.
        model_args = dict(
            patch_size=config.patch_size,
            num_blocks=config.num_blocks,
            embed_dim=config.hidden_dim,
            **kwargs,
        )
        return build_model_with_cfg(
            MlpMixer, name, pretrained, feature_cfg=features, **model_args
        )

    build.__name__ = build.__qualname__ = name
    return build


def _default_cfg(config: MixerConfig) -> dict[str, Any]:
    return {
        "num_classes": 1000,
        "input_size": (IN_CHANS, *config.image_size),
        "pool_size": None,
        "crop_pct": 0.875,
        "interpolation": "bicubic",
        "fixed_input_size": True,
        "mean": (0.5,) * IN_CHANS,
        "std": (0.5,) * IN_CHANS,
        "first_conv": "stem.proj",
        "classifier": "head",
    }
