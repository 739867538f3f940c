"""The names of classes, as people write them beside weights.

They stand as a list, or by number (`id2label`), or as numbers by name (`class_to_idx`,
which torchvision's ImageFolder makes), at the top of a file or in a dict inside it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

# The first that holds names counts.
_KEYS = (
    "label_names",
    "class_names",
    "classes",
    "CLASSES",
    "labels",
    "id2label",
    "idx_to_class",
    "idx2label",
    "label2id",
    "class_to_idx",
    "label_to_idx",
)
# Where training programs keep what belongs to a run: mmengine, Lightning, timm, others.
_PLACES = (
    "meta",
    "dataset_meta",
    "pretrained_cfg",
    "hyper_parameters",
    "hparams",
    "config",
    "args",
    "metadata",
    "extra",
)
_DEEPEST = 2
# The walk over a pickle writes the number 3, as a key of text, as "<3>".
_NUMBER = re.compile(r"<?(\d{1,7})>?")


def class_names(beside: Any, deep: int = _DEEPEST) -> list[str] | None:
    """Return the names of classes in a dict of what stands beside weights.

    Args:
        beside: The dict.
        deep: How many dicts inside it to look into, one in another.

    Returns:
        The names in the order of the logits, or None.
    """
    if not isinstance(beside, Mapping):
        return None
    for key in _KEYS:
        if names := names_of(beside.get(key)):
            return names
    if deep:
        for key in _PLACES:
            if names := class_names(beside.get(key), deep - 1):
                return names
    return None


def names_of(value: Any) -> list[str] | None:
    """Return the names that one value holds: a list, names by number, or the reverse.

    Args:
        value: Anything; what is no list of names gives None.
    """
    if isinstance(value, Mapping):
        return _by_number(value)
    # Not of any sequence: text is one too. And the text of a nested structure may be
    # exponentially long.
    if not isinstance(value, list) and type(value) is not tuple:
        return None
    if not all(isinstance(name, (str, int, float)) for name in value):
        return None
    return list(map(str, value)) or None


def _by_number(value: Mapping[Any, Any]) -> list[str] | None:
    numbered = {}
    if all(type(number) is int for number in value.values()):
        numbered = {number: str(name) for name, number in value.items()}
    # Names that are numbers themselves may stand by number too.
    if sorted(numbered) != list(range(len(value))):
        numbered = {}
        for key, name in value.items():
            number = (
                _NUMBER.fullmatch(str(key)) if isinstance(key, (str, int)) else None
            )
            if number is None or not isinstance(name, (str, int, float)):
                return None
            numbered[int(number[1])] = str(name)
    if not numbered or sorted(numbered) != list(range(len(value))):
        return None
    return [numbered[number] for number in range(len(value))]
