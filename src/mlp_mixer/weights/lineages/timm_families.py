"""timm's gMixers, ResMLPs and gMLPs.

Their tensor names are ours, so only the architecture has to be found.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from statistics import mode
from typing import Any

from torch import Tensor

from ...models.base import NetworkConfig
from ...models.families import FAMILIES
from ..shapes import misfits
from . import translate
from .sizes import image_size_of, patch
from .tables import TIMM

# The family shows in the tensor of a block that has one number for each patch. A Mixer
# has that of the gMixer too; see `family_of`.
_PER_PATCH = {
    "gmlp": "mlp_channels.gate.proj.bias",
    "resmlp": "linear_tokens.bias",
    "gmixer": "mlp_tokens.fc2.bias",
}

_IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
TRANSFORM: dict[str | None, dict[str, Any]] = {"resmlp": _IMAGENET, "gmixer": _IMAGENET}
"""How timm normalises a family's images otherwise than Mixers': its own words."""


def family_of(tensors: Mapping[str, Tensor]) -> str | None:
    """Recognise a family by its tensors under timm's names.

    Args:
        tensors: The tensors of a file.

    Returns:
        "gmixer", "resmlp" or "gmlp"; None for a Mixer's tensors and all others.
    """
    lengths = _lengths(tensors)
    families = [family for family, name in _PER_PATCH.items() if name in lengths]
    if not families:
        return None
    # A gMixer's token MLP is gated: its first layer is twice as wide as its second
    # one takes in. A Mixer's is not.
    width = lengths.get("mlp_tokens.fc2.weight", -1)
    gated = lengths.get("mlp_tokens.fc1.bias") == 2 * width
    if families[0] == "gmixer" and not gated:
        return None
    return families[0]


def to_ours(
    tensors: Mapping[str, Tensor],
    family: str,
    source: str,
    image_size: tuple[int, int] | None = None,
) -> tuple[NetworkConfig, dict[str, Tensor]]:
    """Infer the architecture of one of these families from its tensors.

    What no shape tells (GELU, scales at the start) is taken from the variant of the
    same depth and width, or from the family's first one.

    Args:
        tensors: The tensors under timm's names.
        family: What `family_of` found.
        source: The file, for the errors.
        image_size: (height, width) where the shapes leave it open.

    Returns:
        The architecture, and the tensors in the dtype they were stored in.

    Raises:
        UserError: A tensor is missing, unexpected, of a wrong shape, or not finite.
    """
    translate.check_numbers(tensors, source)
    lengths = _lengths(tensors)
    stem = TIMM.table(0)[0]
    stem_weight = tensors.get(stem.theirs)
    has_stem = stem_weight is not None and stem_weight.ndim == 4
    if not has_stem or "mlp_channels.fc2.weight" not in lengths:
        needed = f"{stem.theirs} of 4 axes and blocks.0.mlp_channels.fc2.weight"
        translate.refuse(source, TIMM, [f"a {family} has {needed}"])
    blocks = _count_blocks(tensors)
    hidden_dim = len(tensors[stem.theirs])
    patches = lengths[_PER_PATCH[family]]
    patch_size, in_channels = patch(
        stem, tensors[stem.theirs], patches, source, image_size
    )
    fields: dict[str, Any] = {
        "num_blocks": blocks,
        "hidden_dim": hidden_dim,
        "image_size": image_size_of(patches, patch_size, source, image_size),
        "in_channels": in_channels,
        "num_classes": tensors["head.bias"].numel() if "head.bias" in tensors else 0,
        "patch_size": patch_size,
        "channels_mlp_dim": lengths["mlp_channels.fc2.weight"],
    }
    if family == "gmixer":
        fields["tokens_mlp_dim"] = lengths["mlp_tokens.fc2.weight"]
    row = _nearest_variant(family, blocks, hidden_dim)
    config = replace(row, **fields)
    translate.refuse(source, TIMM, misfits(config, tensors))
    ours = {name: tensor.contiguous() for name, tensor in tensors.items()}
    return config, translate.apart(ours)


def guesses(config: NetworkConfig, family: str) -> list[str]:
    """Say what no shape told, where no variant has the network's depth and width.

    Args:
        config: What `to_ours` made of a file.
        family: What `family_of` found.

    Returns:
        A phrase for each guess; empty without one.
    """
    row = _nearest_variant(family, config.num_blocks, config.hidden_dim)
    if (row.num_blocks, row.hidden_dim) == (config.num_blocks, config.hidden_dim):
        return []
    first = next(iter(FAMILIES[family][1]))
    return [f"guessed: what no shape tells (GELU, scales) is that of {first}"]


def obstacles(config: NetworkConfig) -> list[str] | None:
    """List why timm would compute something else with one of these families.

    Args:
        config: A network.

    Returns:
        A phrase for each reason; None if the network is of another family.
    """
    families = [name for name in _PER_PATCH if isinstance(config, FAMILIES[name][0])]
    if not families:
        return None
    # A gMixer gates with SiLU and has no GELU.
    if config.gelu == TIMM.gelu or families == ["gmixer"]:
        return []
    return [f"the weights use the {config.gelu} form of GELU, timm {TIMM.gelu}"]


def _nearest_variant(family: str, blocks: int, hidden_dim: int) -> Any:
    """Return the variant of that depth and width, else the family's first one."""
    variants = list(FAMILIES[family][1].values())
    for row in variants:
        if (row.num_blocks, row.hidden_dim) == (blocks, hidden_dim):
            return row
    return variants[0]


def _count_blocks(names: Iterable[str]) -> int:
    """Return one more than the highest number of a block."""
    numbers = []
    for name in names:
        # Of at most five digits: int() of a million digits would take seconds.
        if match := re.match(r"blocks\.(\d{1,5})\.", name):
            numbers.append(int(match[1]))
    return 1 + max(numbers)


def _lengths(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """Return the last axis of every tensor of a block, as most blocks have it."""
    found: dict[str, list[int]] = {}
    for name, tensor in tensors.items():
        match = re.fullmatch(r"blocks\.\d{1,5}\.(.+)", name)
        if match and tensor.ndim:
            found.setdefault(match[1], []).append(tensor.shape[-1])
    return {part: mode(lengths) for part, lengths in found.items()}
