"""Under which name, and with which arguments, timm builds a configuration of ours. Data
only: timm is not imported.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...models.base import NetworkConfig
from ...models.mixer import VARIANTS, MixerConfig

# A timm entry point fixes patch size, blocks and width; all of them have these ratios
# and three channels.
MLP_RATIO = (0.5, 4.0)
IN_CHANS = 3

TIMMS_OWN = frozenset(
    f"mixer_{size}_224" for size in ("s32", "s16", "b32", "b16", "l32", "l16")
)

ENTRY_POINTS: dict[str, MixerConfig] = {
    f"{name}_{row.image_size[0]}": row for name, row in VARIANTS.items()
}
"""Architecture name in timm -> the row it builds; those that are not `TIMMS_OWN` exist
after `register()`.
"""


@dataclass(frozen=True)
class EntryPoint:
    """`timm.create_model(name, num_classes=K, **model_args)` has our tensors, names and
    shapes.
    """

    name: str
    model_args: dict[
        str, Any
    ]  # only what differs from the entry point's own; plain JSON
    needs_register: (
        bool  # timm has no such name until `mlp_mixer.compat.timm_models.register()`
    )


def entry_point(config: NetworkConfig) -> EntryPoint | None:
    """How timm builds exactly this network, or None if no entry point has its patch
    size, blocks and width.

    None too for other families, and without the final norm, which timm always has. GELU
    and epsilon (erf and 1e-6 in timm, and no argument can change them) are for the
    caller to compare; dropout and stochastic depth are left to who trains.
    """
    size = (config.patch_size, config.num_blocks, config.hidden_dim)
    for name, row in ENTRY_POINTS.items():
        if (
            isinstance(config, MixerConfig)
            and config.final_norm
            and size == (row.patch_size, row.num_blocks, row.hidden_dim)
        ):
            return EntryPoint(
                name,
                _model_args(config, row.image_size),
                needs_register=name not in TIMMS_OWN,
            )
    return None


def _model_args(config: MixerConfig, image_size: tuple[int, int]) -> dict[str, Any]:
    args: dict[str, Any] = {}
    if config.image_size != image_size:
        args["img_size"] = list(config.image_size)
    if config.in_channels != IN_CHANS:
        args["in_chans"] = config.in_channels
    widths = (config.tokens_mlp_dim, config.channels_mlp_dim)
    if widths != tuple(int(ratio * config.hidden_dim) for ratio in MLP_RATIO):
        args["mlp_ratio"] = [_ratio(width, config.hidden_dim) for width in widths]
    return args


def _ratio(width: int, dim: int) -> float:
    """A ratio with which timm's int(ratio * dim) is exactly the width: width / dim may
    fall a hair short of it.
    """
    exact = width / dim
    ratio = exact if int(exact * dim) == width else (width + 0.5) / dim
    assert int(ratio * dim) == width
    return ratio
