"""A data set as given: its splits, what we held out ourselves, and its identity."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any, NamedTuple

import numpy as np

from ..errors import UserError
from .image_set import ArraySet, ImageSet, Labels

Splits = Mapping[str, ImageSet]
"""What a reader finds: "train", and "val" and "test" if they are there."""


class HeldOut(NamedTuple):
    """How we split off a test set that the source does not have:
    `stratified_split(labels, test_fraction, seed)`.
    """

    test_fraction: float
    seed: int


@dataclass(frozen=True)
class Dataset:
    """A data set.

    Attributes:
        spec: what the user wrote.
        train: the images to learn from.
        val: the images to choose the best checkpoint by, if the source brings them
            beside a test split.
        test: the images to report on.
        held_out: how `test` was split off, None where it is the source's own.
    """

    spec: str
    train: ImageSet
    val: ImageSet | None = None
    test: ImageSet | None = None
    held_out: HeldOut | None = None
    _flat: ImageSet | None = field(default=None, repr=False)

    @classmethod
    def from_splits(
        cls,
        spec: str,
        splits: Splits,
        *,
        split_seed: int = 0,
        test_fraction: float = 0.2,
    ) -> Dataset:
        """The source of these splits; a lone val is the test split, and where neither
        is there we hold out a test.
        """
        train = splits["train"]
        val = splits.get("val")
        test = splits.get("test")
        if len(train) == 0:
            raise UserError(f"{spec}: there are no images to train on")
        if val is not None and test is None:
            val, test = None, val
        if test is not None:
            return cls(spec, train, val, test)
        rest, held = stratified_split(train.labels, test_fraction, split_seed)
        if len(held) == 0:  # one image per class: nothing to spare
            return cls(spec, train)
        return cls(
            spec,
            train.subset(rest),
            None,
            train.subset(held),
            HeldOut(test_fraction, split_seed),
            train,
        )

    @classmethod
    def from_arrays(
        cls,
        images: Any,
        labels: Any,
        classes: Sequence[str] | None = None,
        *,
        spec: str = "arrays",
        split_seed: int = 0,
        test_fraction: float = 0.2,
    ) -> Dataset:
        """A flat source of uint8 images (N, H, W[, C]) and N integer labels in memory."""
        flat = ArraySet(images, labels, classes, origin="images")
        return cls.from_splits(
            spec, {"train": flat}, split_seed=split_seed, test_fraction=test_fraction
        )

    def all(self) -> ImageSet:
        """Every image of a source that we split, in the order it came; `UserError` if
        its test split is its own.
        """
        if self._flat is None:
            raise UserError(
                f"{self.spec} comes with a test split of its own: use its train and test"
            )
        return self._flat

    def fingerprint(self) -> str:
        """16 hexadecimal digits of classes, labels and names, whatever the folder and
        the seed of the split.
        """
        digest = hashlib.sha256()
        for part in (
            (self._flat,)
            if self._flat is not None
            else (self.train, self.val, self.test)
        ):
            if part is not None:
                names = [part.name(index) for index in range(len(part))]
                digest.update(json.dumps([part.classes, len(part), names]).encode())
                digest.update(part.labels.astype("<i8").tobytes())
        return digest.hexdigest()[:16]


def public_name(spec: str) -> str:
    """A source without the folders above it: checkpoints and reports are passed on, and
    paths are nobody's business.
    """
    name, colon, path = spec.partition(":")
    return f"{name}{colon}{PurePath(path).name}" if colon else PurePath(spec).name


def stratified_split(
    labels: Labels, fraction: float, seed: int
) -> tuple[Labels, Labels]:
    """Split indices class by class.

    Args:
        labels: int64 (N,).
        fraction: of every class to hold out, in (0, 1); at least one image where a
            class has two, and never all.
        seed: of the choice.

    Returns:
        The indices of the rest and of the held-out images, each int64 and sorted.

    Raises:
        UserError: fraction is not between 0 and 1.
    """
    if not 0 < fraction < 1:
        raise UserError(
            f"the fraction to hold out is {fraction}: expected a number between 0 and 1, such as 0.2"
        )
    rng = np.random.default_rng(seed)
    chosen = np.zeros(len(labels), dtype=bool)
    for k in np.unique(labels):
        members = np.flatnonzero(labels == k)
        count = min(max(1, int(len(members) * fraction + 0.5)), len(members) - 1)
        chosen[rng.permutation(members)[:count]] = True
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)
