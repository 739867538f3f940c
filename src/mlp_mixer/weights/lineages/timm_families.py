"""timm's gMixers, ResMLPs and gMLPs: their tensor names are ours, so that only the
architecture is to be found.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from statistics import mode
from typing import Any

from torch import Tensor

from ...models.base import NetworkConfig
from ...models.families import FAMILIES
from ..checkpoint import misfits
from . import translate
from .tables import TIMM

_PER_PATCH = {
    "gmlp": "mlp_channels.gate.proj.bias",
    "resmlp": "linear_tokens.bias",
    "gmixer": "mlp_tokens.fc2.bias",
}
"""What tells the family: the tensor of its blocks with a number for each patch. (A
Mixer has the last one too.)
"""

_IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
TRANSFORM: dict[str | None, dict[str, Any]] = {"resmlp": _IMAGENET, "gmixer": _IMAGENET}
"""What timm does to a family's images otherwise than to Mixers', in the words of its
`pretrained_cfg`.
"""


def family_of(tensors: Mapping[str, Tensor]) -> str | None:
    """Whose tensors these are under timm's names: "gmixer", "resmlp" or "gmlp"; None
    for a Mixer's and all others.
    """
    lengths = _lengths(tensors)
    family = next(
        (family for family, name in _PER_PATCH.items() if name in lengths), None
    )
    gated = lengths.get("mlp_tokens.fc1.bias") == 2 * lengths.get(
        "mlp_tokens.fc2.weight", -1
    )
    return None if family == "gmixer" and not gated else family


def to_ours(
    tensors: Mapping[str, Tensor],
    family: str,
    source: str,
    image_size: tuple[int, int] | None = None,
) -> tuple[NetworkConfig, dict[str, Tensor]]:
    """As `translate.to_ours`. What no shape tells (GELU, scales at the start) is as in
    the variant of that depth.
    """
    translate.check_numbers(tensors, source)
    lengths = _lengths(tensors)
    stem = TIMM.table(0)[0]
    variants = FAMILIES[family][1].values()
    if (
        stem.theirs not in tensors
        or tensors[stem.theirs].ndim != 4
        or "mlp_channels.fc2.weight" not in lengths
    ):
        translate.refuse(
            source,
            TIMM,
            [
                f"a {family} has {stem.theirs} of 4 axes and blocks.0.mlp_channels.fc2.weight"
            ],
        )
    blocks = 1 + max(
        int(match[1])
        for name in tensors
        if (match := re.match(r"blocks\.(\d{1,5})\.", name))
    )
    hidden_dim = len(tensors[stem.theirs])
    patches = lengths[_PER_PATCH[family]]
    patch_size, in_channels = translate.patch(
        stem, tensors[stem.theirs], patches, source, image_size
    )
    size = translate.image_size_of(patches, patch_size, source, image_size)
    classes = tensors["head.bias"].numel() if "head.bias" in tensors else 0
    fields: dict[str, Any] = {
        "image_size": size,
        "in_channels": in_channels,
        "num_classes": classes,
    }
    fields |= {
        "patch_size": patch_size,
        "channels_mlp_dim": lengths["mlp_channels.fc2.weight"],
    }
    fields |= (
        {"tokens_mlp_dim": lengths["mlp_tokens.fc2.weight"]}
        if family == "gmixer"
        else {}
    )
    row = min(
        variants,
        key=lambda row: (row.num_blocks, row.hidden_dim) != (blocks, hidden_dim),
    )
    config = replace(row, num_blocks=blocks, hidden_dim=hidden_dim, **fields)
    translate.refuse(source, TIMM, misfits(config, tensors))
    return config, translate.apart(
        {name: tensor.contiguous() for name, tensor in tensors.items()}
    )


def obstacles(config: NetworkConfig) -> list[str] | None:
    """Why timm would compute something else with one of these families; None for the
    others.
    """
    family = next(
        (name for name in _PER_PATCH if isinstance(config, FAMILIES[name][0])), None
    )
    same = config.gelu == TIMM.gelu or family == "gmixer"  # which has none
    return (
        (
            []
            if same
            else [f"the weights use the {config.gelu} form of GELU, timm {TIMM.gelu}"]
        )
        if family
        else None
    )


def _lengths(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """The last axis of every tensor of a block, as most blocks have it."""
    found: dict[str, list[int]] = {}
    for name, tensor in tensors.items():
        if tensor.ndim and (match := re.fullmatch(r"blocks\.\d{1,5}\.(.+)", name)):
            found.setdefault(match[1], []).append(tensor.shape[-1])
    return {part: mode(lengths) for part, lengths in found.items()}
