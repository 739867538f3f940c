"""What the outputs of published ImageNet classifiers mean: WordNet ids and names, from
`data/` beside this file.
"""

from __future__ import annotations

import functools
import gzip
from collections import Counter
from collections.abc import Iterable, Sequence
from importlib.resources import files
from typing import Literal

from ..errors import unknown

_FILES = {"imagenet1k": "imagenet1k.tsv", "imagenet21k_goog": "imagenet21k_goog.tsv.gz"}
KEYS: dict[int, Literal["imagenet1k", "imagenet21k_goog"]] = {
    1000: "imagenet1k",
    21843: "imagenet21k_goog",
}
"""Which set a number of classes can only mean."""


def class_names(key: str) -> tuple[str, ...]:
    """Names of the classes in the order of the logits, each with all its synonyms:
    "tench, Tinca tinca".

    key: "imagenet1k" (1000 classes) or "imagenet21k_goog" (21843, as Google's weights
        count them); `UserError` for
    another. Different classes may share a name (two of the 1000 are a "crane"):
    `wordnet_ids` tells them apart.
    """
    return _columns(key)[1]


def wordnet_ids(key: str) -> tuple[str, ...]:
    """WordNet ids ("n01440764") in the order of the logits; same keys and errors as
    `class_names`.
    """
    return _columns(key)[0]


def class_numbers(labels: Sequence[str]) -> dict[str, int]:
    """Class number by name: by the label itself, by WordNet id where the labels are
    ImageNet's, and by a first synonym.

    So a folder `n01440764` or `tench` is found where the label reads "tench, Tinca
    tinca"; a name that two classes share ("crane") stands for neither.
    """
    numbers = _unique(name.split(", ")[0] for name in labels) | _unique(labels)
    if (key := KEYS.get(len(labels))) and tuple(labels) == class_names(key):
        numbers |= {wnid: number for number, wnid in enumerate(wordnet_ids(key))}
    return numbers


def _unique(names: Iterable[str]) -> dict[str, int]:
    numbered = list(names)
    counts = Counter(numbered)
    return {name: number for number, name in enumerate(numbered) if counts[name] == 1}


@functools.cache
def _columns(key: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    if key not in _FILES:
        raise unknown("set of classes", key, _FILES)
    raw = files(__package__).joinpath("data", _FILES[key]).read_bytes()
    text = (gzip.decompress(raw) if _FILES[key].endswith(".gz") else raw).decode()
    rows = [line.split("\t") for line in text.splitlines()]
    return tuple(wnid for wnid, _ in rows), tuple(names for _, names in rows)
