"""What the outputs of published ImageNet classifiers mean.

WordNet ids and names are in `data/` beside this file.
"""

from __future__ import annotations

import functools
import gzip
import unicodedata
from collections import Counter
from collections.abc import Sequence
from importlib.resources import files
from typing import Literal

from ..errors import unknown

_FILES = {"imagenet1k": "imagenet1k.tsv", "imagenet21k_goog": "imagenet21k_goog.tsv.gz"}

KEYS: dict[int, Literal["imagenet1k", "imagenet21k_goog"]] = {
    1000: "imagenet1k",
    21843: "imagenet21k_goog",
}
"""Number of classes -> the only set that it can mean."""


def class_names(key: str) -> tuple[str, ...]:
    """Return the names of the classes in the order of the logits.

    Each has all its synonyms: "tench, Tinca tinca". Different classes may share a name
    (two of the 1000 are a "crane"): `wordnet_ids` tells them apart.

    Args:
        key: "imagenet1k" (1000 classes) or "imagenet21k_goog" (21843, as Google's
            weights count them).

    Raises:
        UserError: There is no such set.
    """
    return _columns(key)[1]


def wordnet_ids(key: str) -> tuple[str, ...]:
    """Return the WordNet ids ("n01440764") in the order of the logits.

    Args:
        key: As for `class_names`.

    Raises:
        UserError: There is no such set.
    """
    return _columns(key)[0]


def class_numbers(labels: Sequence[str]) -> dict[str, int]:
    """Return the number of a class by each of its names.

    The names are the label itself, its first synonym, and the WordNet id where the
    labels are ImageNet's. So a folder `n01440764` or `tench` is found where the label
    reads "tench, Tinca tinca". A name that two classes share ("crane") stands for
    neither.

    Args:
        labels: One for each class, in the order of the logits.
    """
    first_synonyms = [name.split(", ")[0] for name in labels]
    # Data spell an accent in one way; older checkpoints as their folders did.
    composed = [unicodedata.normalize("NFC", name) for name in labels]
    # A whole label wins over another class's first synonym.
    numbers = _unique(composed) | _unique(first_synonyms) | _unique(labels)
    key = KEYS.get(len(labels))
    if key and tuple(labels) == class_names(key):
        for number, wordnet_id in enumerate(wordnet_ids(key)):
            numbers[wordnet_id] = number
    return numbers


def _unique(names: Sequence[str]) -> dict[str, int]:
    """Return the places of the names that occur once."""
    counts = Counter(names)
    return {name: number for number, name in enumerate(names) if counts[name] == 1}


# Cached: an evaluation asks for the same names many times.
@functools.cache
def _columns(key: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the ids and the names of a set."""
    if key not in _FILES:
        raise unknown("set of classes", key, _FILES)
    raw = files(__package__).joinpath("data", _FILES[key]).read_bytes()
    if _FILES[key].endswith(".gz"):
        raw = gzip.decompress(raw)
    rows = [line.split("\t") for line in raw.decode().splitlines()]
    ids = tuple(wordnet_id for wordnet_id, _ in rows)
    return ids, tuple(names for _, names in rows)
