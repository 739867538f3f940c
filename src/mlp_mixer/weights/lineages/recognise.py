"""Which lineage a file belongs to, by the names of its tensors alone."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NoReturn

from ...errors import UserError, unknown
from .lineage import Lineage
from .tables import LINEAGES

# A part of a tensor's name -> the family that has it. The first match is reported, so
# telling signs stand before common ones.
_OTHER_FAMILIES = (
    ("cls_token", "a Vision Transformer"),
    ("pos_embed", "a Vision Transformer"),
    ("posembed_input", "a Vision Transformer"),
    ("MultiHeadDotProductAttention", "a Vision Transformer"),
    ("attn.qkv", "a Vision Transformer"),
    ("conv_dw", "a ConvNeXt or a relative"),
    ("running_mean", "a convolutional network with batch norm, such as a ResNet"),
    ("standardized_conv2d", "a ResNet (BiT)"),
    ("layers/conv2d", "a convolutional network of Keras, such as a ResNet"),
    ("conv1.weight", "a convolutional network, such as a ResNet"),
    ("layer_scale", "a ConvNeXt or a relative"),
)


def recognise(
    names: Iterable[str], source: str, lineage: str | None = None
) -> tuple[Lineage, str]:
    """Find the lineage that explains most of a file's tensor names.

    Args:
        names: The names of the tensors.
        source: The file, for the errors.
        lineage: Use this one, whatever the names look like.

    Returns:
        The lineage, and the prefix that its names carry in this file.

    Raises:
        UserError: No lineage fits; the error names the family that the file is likely
            to hold.
    """
    names = list(names)
    if lineage is not None and lineage not in LINEAGES:
        raise unknown("lineage", lineage, LINEAGES)
    candidates = [LINEAGES[lineage]] if lineage else list(LINEAGES.values())
    best: tuple[Lineage, str] | None = None
    most_known = -1
    for candidate in candidates:
        for prefix in candidate.prefixes:
            inner = _inside(names, prefix)
            blocks = candidate.count_blocks(inner)
            if blocks == 0:
                continue
            # No more rows than there are names: a file may number a block 99,999.
            table = candidate.table(min(blocks, len(inner)))
            known = sum(entry.theirs in inner for entry in table)
            if known > most_known:
                best = (candidate, prefix)
                most_known = known
    if best is None:
        refuse_names(names, source, lineage)
    return best


def _inside(names: Iterable[str], prefix: str) -> set[str]:
    """Return the names that carry a prefix, without it."""
    return {name.removeprefix(prefix) for name in names if name.startswith(prefix)}


def refuse_names(names: list[str], source: str, lineage: str | None) -> NoReturn:
    """Say of a file in which no lineage has a block what it seems to be.

    Args:
        names: The names of its tensors.
        source: The file.
        lineage: The only lineage that was looked for.

    Raises:
        UserError: Always.
    """
    examples = ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
    if lineage is not None:
        raise UserError(
            f"{source} is no {lineage} checkpoint of an MLP-Mixer; its tensors are "
            f"{examples}"
        )
    if _may_be_kcam(names):
        raise UserError(
            f"{source} holds layers of Keras without names of their own ({examples}); if "
            "it is a Mixer of keras_cv_attention_models, give the .h5 file that it came "
            "from: there the layers have names"
        )
    for sign, family in _OTHER_FAMILIES:
        if any(sign in name for name in names):
            raise UserError(
                f"{source} holds {family}, not an MLP-Mixer (tensors {examples}); give "
                "a Mixer's checkpoint"
            )
    raise UserError(
        f"{source} is no MLP-Mixer checkpoint of any known lineage "
        f"({', '.join(LINEAGES)}): its tensors are {examples}; if it is one under "
        "other names, rename them to timm's"
    )


def _may_be_kcam(names: list[str]) -> bool:
    """Whether layers of Keras are as many as in a Mixer that was saved anew.

    One convolution, the stem, and four dense layers for two norms in each block: a
    Mixer is asked for before anything else is named.
    """
    layers = {name.rsplit("/vars/", 1)[0] for name in names if "/vars/" in name}
    kinds = [re.sub(r"(_\d+)?$", "", layer) for layer in layers]
    norms = kinds.count("layers/layer_normalization")
    dense = kinds.count("layers/dense")
    has_stem = kinds.count("layers/conv2d") == 1
    return has_stem and norms > 1 and dense - 2 * (norms - norms % 2) in (0, 1)
