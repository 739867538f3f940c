"""What a foreign file of weights says of its classes, or what can be assumed."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

from ..untrusted.text import parse_json
from . import labels as imagenet
from .catalog import PublishedWeights
from .formats.class_names import class_names
from .formats.contents import Contents
from .huggingface import folder
from .lineages.tables import LINEAGES

# Lineages whose authors published ImageNet weights, by their transform: a head of 1,000
# classes is ImageNet's there. From a small port it may be anything.
_PUBLISHED_IMAGENET = ("google", "timm", "mmpretrain")


def file_labels(
    contents: Contents,
    described: Mapping[str, Any],
    record: PublishedWeights | None,
    *,
    lineage: str,
    classes: int,
) -> tuple[tuple[str, ...] | None, str]:
    """Return the class names, and a note if they are assumed or were left out.

    The file's own names come first, then the catalog's, then ImageNet's where the
    number of classes can mean nothing else.

    Args:
        contents: What was read.
        described: The `config.json` beside it.
        record: What the catalog says, if the weights are published ones.
        lineage: A key of `LINEAGES`.
        classes: How many the network has.
    """
    given = _given(contents, described)
    if given is not None and len(given) == classes:
        return tuple(given), ""
    if record:
        return (imagenet.class_names(record.labels) if record.labels else None), ""
    known = imagenet.KEYS.get(classes)
    if known and LINEAGES[lineage].evaluation in _PUBLISHED_IMAGENET:
        note = f"assumed to be those of {known}, because there are {classes:,}"
        return imagenet.class_names(known), note
    if given is not None:
        return None, f"left out: {len(given):,} names for {classes:,} classes"
    return None, ""


def _given(contents: Contents, described: Mapping[str, Any]) -> list[str] | None:
    """Return the class names that stand in the file or beside it, however many."""
    if names := folder.label_names(described):
        return names
    # The reader of torch's files has found them already.
    if contents.container != "safetensors":
        return class_names(contents.metadata)
    parsed = {}
    for key, text in contents.metadata.items():
        # The values are text, so lists are written as JSON.
        with contextlib.suppress(ValueError):
            parsed[key] = parse_json(text)
    return class_names(parsed)
