"""Find what is wrong with the classes: too few pictures, odd names, wrong labels."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..data.layout import FolderFile
from .findings import Finding, Picture
from .lookalikes import odd_labels

Features = Callable[[Sequence[Path]], Iterable[NDArray[Any] | None]]
"""From the paths of pictures to features (D,) of each; None for an unreadable one."""

_RARE = 10  # a rare class is so many times smaller than the largest
_FEW = 10  # pictures of a class, below which it can hardly be learnt or judged


def check_classes(
    classes: Mapping[str, FolderFile],
    pictures: Sequence[Picture],
    in_use: set[str],
) -> Iterator[Finding]:
    """Find empty, unknown, rare and small classes, and names spelled almost alike.

    Args:
        classes: The classes by the paths of their folders.
        pictures: All pictures that can be decoded.
        in_use: Folders that hold something besides files that `--fix` moves away.

    Yields:
        What is wrong.
    """
    counts = Counter((picture.split, picture.label) for picture in pictures)
    train: dict[str, int] = {}
    for _, split, label in classes.values():
        if split == "train":
            train[label] = counts["train", label]
    largest = max(train.values(), default=0)
    for folder, split, label in classes.values():
        count = counts[split, label]
        if not count and split != "train":
            message = f"is a class of {split} without a picture that can be read"
            yield Finding("vacant-class", folder, message)
        elif not count:
            # --fix moves an empty folder; one with other files is for a person.
            kind = "no-pictures" if folder in in_use else "empty-class"
            yield Finding(kind, folder, "is a class without a picture that can be read")
        elif train and label not in train:
            message = f"is a class of {split} that train does not have"
            yield Finding("unknown-class", folder, message)
        elif split == "train" and (count == 1 or count * _RARE <= largest):
            message = f"has {count:,} pictures, the largest class {largest:,}"
            yield Finding("rare-class", folder, message)
        elif split == "train" and count < _FEW:
            message = f"has {count:,} pictures: fewer than {_FEW} teach little"
            yield Finding("few-pictures", folder, message)
    yield from _spelled_alike(classes)
    if len(train) < 2 and (classes or not pictures):
        message = f"has {len(train)} class(es) to train on: expected at least two"
        yield Finding("one-class", "", message)


def _spelled_alike(classes: Mapping[str, FolderFile]) -> Iterator[Finding]:
    """Find classes of train whose names have the same letters, such as "Sea" and "sea "."""
    spelled: dict[str, str] = {}
    for folder, split, label in classes.values():
        if split != "train":
            continue
        other = spelled.setdefault(_letters(label), folder)
        if other != folder:
            message = f"is spelled almost like {other}"
            yield Finding("class-names", folder, message, (other,))


def _letters(label: str) -> str:
    """Leave only letters and digits, without case; a name without any stays."""
    folded = unicodedata.normalize("NFKC", label).casefold()
    return "".join(filter(str.isalnum, folded)) or label


def check_labels(
    pictures: Sequence[Picture], features: Iterable[NDArray[Any] | None]
) -> Iterator[Finding]:
    """Find pictures that look like the pictures of another class.

    Args:
        pictures: Without copies, which would vote for each other.
        features: Of each picture (D,), or None.

    Yields:
        What may be wrong.
    """
    known = []
    vectors = []
    for picture, vector in zip(pictures, features, strict=True):
        if vector is not None:
            known.append(picture)
            vectors.append(vector)
    names, labels = np.unique([picture.label for picture in known], return_inverse=True)
    if len(names) < 2:
        return
    for position, label in odd_labels(np.array(vectors), labels):
        picture = known[position]
        message = (
            f"is in {picture.label}, but all ten pictures most like it are in "
            f"{names[label]}"
        )
        yield Finding("odd-label", picture.path, message)
