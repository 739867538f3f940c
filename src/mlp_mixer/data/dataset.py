"""A dataset: its splits, what was held out of it here, and its identity."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any, Literal, NamedTuple

import numpy as np

from ..errors import UserError, without_secrets
from ..randomness import generator
from .class_numbers import Labels
from .image_set import ArraySet, ImageSet
from .keys import Keys, random_shares

Splits = Mapping[str, ImageSet]
"""What a reader finds: "train", and "val" and "test" if they are there."""


SplitBy = Literal["image", "position"]
"""What decides on which side of a split an image is: itself, or its place.

By image, pictures that come or go change no other picture's side. By position is how
0.1.0 split, and how datasets with a test split of their own get a validation split.
"""


class HeldOut(NamedTuple):
    """Record how a test split was held out of a dataset that has none.

    Attributes:
        test_fraction: The share of each class.
        seed: Of the choice.
        by: "image" for `image_split`, "position" for `stratified_split`.
    """

    test_fraction: float
    seed: int
    by: SplitBy = "image"


@dataclass(frozen=True)
class Dataset:
    """A dataset with its splits.

    Attributes:
        spec: What the user wrote.
        train: The images to learn from.
        val: The images to choose the best checkpoint by, if the dataset has them beside
            a test split.
        test: The images to report on.
        held_out: How `test` was held out, None where it is the dataset's own.
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
        split_by: SplitBy = "image",
    ) -> Dataset:
        """Make a dataset of splits; without val and test, hold out a test split.

        Args:
            spec: What the user wrote.
            splits: "train", and "val" and "test" if they are there. A "val" without a
                "test" becomes the test split.
            split_seed: Of the choice of images to hold out.
            test_fraction: The share of each class to hold out.
            split_by: What decides which images are held out.

        Raises:
            UserError: There are no training images, or the fraction is not between 0
                and 1.
        """
        train = splits.get("train")
        val = splits.get("val")
        test = splits.get("test")
        if train is None or len(train) == 0:
            raise UserError(f"{spec}: there are no images to train on")
        # ImageNet and many others publish one labelled split besides train and call it
        # val; results are reported on it.
        if test is None and val is not None:
            return cls(spec, train, None, val)
        if test is not None:
            return cls(spec, train, val, test)
        rest, held = split(train, test_fraction, split_seed, by=split_by)
        # With one image per class there is nothing to spare.
        if len(held) == 0:
            return cls(spec, train)
        return cls(
            spec,
            train.take(rest),
            test=train.take(held),
            held_out=HeldOut(test_fraction, split_seed, split_by),
            _flat=train,
        )

    @classmethod
    def without_training_images(cls, spec: str, splits: Splits) -> Dataset:
        """Make a dataset that can be evaluated on, and not trained on.

        Args:
            spec: What the user wrote.
            splits: "test", "val" or both. A "val" without a "test" becomes the test
                split.
        """
        test = splits.get("test")
        val = splits.get("val")
        if test is None:
            test, val = val, None
        assert test is not None
        return cls(spec, test.take(np.zeros(0, np.int64)), val, test)

    @classmethod
    def from_arrays(
        cls,
        images: Any,
        labels: Any = None,
        classes: Sequence[str] | None = None,
        *,
        targets: Any | None = None,
        spec: str = "arrays",
        split_seed: int = 0,
        test_fraction: float = 0.2,
    ) -> Dataset:
        """Make a dataset of arrays in memory, and hold out a test split.

        Args:
            images: uint8 (N, H, W, C) or (N, H, W).
            labels: N integers.
            classes: The class names; "0", "1", ... if absent.
            targets: Instead of the labels, 0 or 1 (N, K): several labels for each image.
            spec: What reports call the dataset.
            split_seed: Of the choice of images to hold out.
            test_fraction: The share of each class to hold out.

        Raises:
            UserError: The shapes, types or labels do not fit.
        """
        if (labels is None) == (targets is None):
            raise UserError(
                "give either labels, one for each image, or targets, several for each"
            )
        flat = ArraySet(images, labels, classes, origin="images", targets=targets)
        return cls.from_splits(
            spec, {"train": flat}, split_seed=split_seed, test_fraction=test_fraction
        )

    def all(self) -> ImageSet:
        """Return every image of a dataset that was split here, in its original order.

        Raises:
            UserError: Its test split is its own.
        """
        if self.test is None:
            return self.train
        if self._flat is None:
            raise UserError(
                f"{self.spec} comes with a test split of its own: use its train and test"
            )
        return self._flat

    @property
    def passed_over(self) -> str:
        """What the reader left out, in words; "" if nothing."""
        if self._flat is not None:
            return self._flat.passed_over
        # A test set alone has no training images.
        images = self.train if len(self.train) or self.test is None else self.test
        return images.passed_over

    def fingerprint(self) -> str:
        """Return 16 hexadecimal digits that identify classes, labels and names.

        They depend neither on the folder nor on the seed of the split, so a checkpoint
        recognises its dataset after it was moved.
        """
        if self._flat is not None:
            parts = [self._flat]
        else:
            given = (self.train, self.val, self.test)
            parts = [part for part in given if part is not None]
        digest = hashlib.sha256()
        for part in parts:
            names = [part.name(index) for index in range(len(part))]
            digest.update(json.dumps([part.classes, len(part), names]).encode())
            if part.targets is None:
                digest.update(part.labels.astype("<i8").tobytes())
            else:
                digest.update(np.packbits(part.targets).tobytes())
        return digest.hexdigest()[:16]


def public_name(spec: str) -> str:
    """Return a spec without the folders above the dataset.

    Checkpoints and reports are passed on, and paths often hold a person's name.

    Args:
        spec: What the user wrote, such as folder:/home/me/photos.
    """
    spec = without_secrets(spec)
    name, colon, path = spec.partition(":")
    # The name of a dataset is one word; a path may hold a colon too.
    if colon and name == PurePath(name).name:
        return f"{name}:{PurePath(path).name}"
    return PurePath(spec).name


def split(
    images: ImageSet,
    fraction: float,
    seed: int,
    *,
    by: SplitBy = "image",
    purpose: str = "test",
) -> tuple[Labels, Labels]:
    """Split the images of a set.

    Args:
        images: The images.
        fraction: To hold out, in (0, 1).
        seed: Of the choice.
        by: What decides which images are held out.
        purpose: "test" or "val": two splits by image of one set must not be the same.

    Returns:
        The indices of the rest and of the held-out images, each int64 and sorted.

    Raises:
        UserError: The fraction is not between 0 and 1.
    """
    if by == "position":
        return stratified_split(images.labels, fraction, seed)
    return image_split(images.keys(), images.labels, fraction, seed, purpose)


def image_split(
    keys: Keys, labels: Labels, fraction: float, seed: int, purpose: str = "test"
) -> tuple[Labels, Labels]:
    """Split indices by a hash of each image: other images do not matter.

    So a folder that grows keeps its old test images, and copies of one picture are on
    the same side.

    Args:
        keys: (N,) the identity of each image.
        labels: int64 (N,).
        fraction: The chance of each image to be held out, in (0, 1). Of a class with two
            different images at least one is held out, and one is not.
        seed: Of the choice.
        purpose: Another purpose with the same seed makes another choice.

    Returns:
        The indices of the rest and of the held-out images, each int64 and sorted.

    Raises:
        UserError: The fraction is not between 0 and 1.
    """
    _check_fraction(fraction)
    shares = random_shares(keys, seed, purpose)
    chosen = shares < fraction
    for label in np.unique(labels):
        members = labels == label
        lowest, highest = shares[members].min(), shares[members].max()
        if lowest == highest:
            # Copies of a single picture are no class to hold something out of.
            chosen[members] = False
        else:
            chosen |= members & (shares == lowest)
            chosen &= ~(members & (shares == highest))
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)


def stratified_split(
    labels: Labels, fraction: float, seed: int
) -> tuple[Labels, Labels]:
    """Split indices class by class, by their positions.

    Args:
        labels: int64 (N,).
        fraction: Of every class to hold out, in (0, 1); at least one image where a
            class has two, and never all.
        seed: Of the choice.

    Returns:
        The indices of the rest and of the held-out images, each int64 and sorted.

    Raises:
        UserError: The fraction is not between 0 and 1.
    """
    _check_fraction(fraction)
    rng = generator(seed)
    chosen = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        # Half an image counts as one: round() would round it to even.
        count = max(1, int(len(members) * fraction + 0.5))
        count = min(count, len(members) - 1)
        chosen[rng.permutation(members)[:count]] = True
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)


def stratified_sample(labels: Labels, count: int, seed: int) -> Labels:
    """Choose a number of indices, of each class its share.

    Shares are rounded by the largest remainder, so that they add up. Every class has an
    index where `count` has enough for that.

    Args:
        labels: int64 (N,).
        count: How many to choose, at least one; all of them where there are no more.
        seed: Of the choice.

    Returns:
        int64 (min(count, N),), sorted.
    """
    if count >= len(labels):
        return np.arange(len(labels))
    rng = generator(seed)
    classes, sizes = np.unique(labels, return_counts=True)
    sure = int(count >= len(classes))
    # What is left after the one that each class is sure of.
    rest = count - sure * len(classes)
    shares = rest * (sizes - sure) / max(1, (sizes - sure).sum())
    counts = np.floor(shares).astype(np.int64)
    by_remainder = np.argsort(counts - shares, kind="stable")
    counts[by_remainder[: rest - counts.sum()]] += 1
    chosen = []
    for label, size in zip(classes, counts + sure, strict=True):
        chosen.append(rng.permutation(np.flatnonzero(labels == label))[:size])
    return np.sort(np.concatenate(chosen))


def _check_fraction(fraction: float) -> None:
    if not 0 < fraction < 1:
        raise UserError(
            f"the fraction to hold out is {fraction}: expected a number between 0 and "
            "1, such as 0.2"
        )
