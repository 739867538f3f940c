"""Under which name, and with which arguments, timm builds a network of ours.

Data only: timm is not imported.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...models.base import NetworkConfig
from ...models.mixer import VARIANTS, MixerConfig

# A timm entry point fixes patch size, blocks and width. All of them have these ratios
# of the two hidden widths to the channels, and three input channels.
MLP_RATIO = (0.5, 4.0)
IN_CHANS = 3

TIMMS_OWN = frozenset(
    f"mixer_{size}_224" for size in ("s32", "s16", "b32", "b16", "l32", "l16")
)

ENTRY_POINTS: dict[str, MixerConfig] = {
    f"{name}_{row.image_size[0]}": row for name, row in VARIANTS.items()
}
"""Architecture name in timm -> the row it builds.

Those that are not `TIMMS_OWN` exist after `mlp_mixer.compat.timm_models.register()`.
"""


@dataclass(frozen=True)
class EntryPoint:
    """Names a network in timm: its tensors have our names and shapes.

    `timm.create_model(name, num_classes=K, **model_args)` builds it.

    Attributes:
        name: The name of the architecture.
        model_args: Only what differs from the entry point's own; plain JSON.
        needs_register: Whether timm lacks the name until
            `mlp_mixer.compat.timm_models.register()`.
    """

    name: str
    model_args: dict[str, Any]
    needs_register: bool


def entry_point(config: NetworkConfig) -> EntryPoint | None:
    """Return how timm builds exactly this network.

    GELU and epsilon (erf and 1e-6 in timm, and no argument can change them) are for the
    caller to compare; dropout and stochastic depth are settings of a training run.

    Args:
        config: A network.

    Returns:
        The entry point. None if no entry point has its patch size, blocks and width,
        if it lacks the final norm (timm's always have it), and for other families.
    """
    if not isinstance(config, MixerConfig) or not config.final_norm:
        return None
    size = (config.patch_size, config.num_blocks, config.hidden_dim)
    for name, row in ENTRY_POINTS.items():
        if size == (row.patch_size, row.num_blocks, row.hidden_dim):
            args = _model_args(config, row.image_size)
            return EntryPoint(name, args, needs_register=name not in TIMMS_OWN)
    return None


def _model_args(config: MixerConfig, image_size: tuple[int, int]) -> dict[str, Any]:
    """Return the arguments that differ from the entry point's own."""
    args: dict[str, Any] = {}
    if config.image_size != image_size:
        args["img_size"] = list(config.image_size)
    if config.in_channels != IN_CHANS:
        args["in_chans"] = config.in_channels
    widths = (config.tokens_mlp_dim, config.channels_mlp_dim)
    usual = tuple(int(ratio * config.hidden_dim) for ratio in MLP_RATIO)
    if widths != usual:
        args["mlp_ratio"] = [_ratio(width, config.hidden_dim) for width in widths]
    return args


def _ratio(width: int, dim: int) -> float:
    """Return a ratio with which timm's int(ratio * dim) is exactly the width."""
    ratio = width / dim
    # The quotient may fall a hair short: int(15 / 22 * 22) is 14. Half a unit more is
    # cut off again by int().
    if int(ratio * dim) != width:
        ratio = (width + 0.5) / dim
    assert int(ratio * dim) == width
    return ratio
