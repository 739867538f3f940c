"""Which images choose the checkpoint: the same ones in every version, by their content."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from mlp_mixer.data import ArraySet, Dataset
from mlp_mixer.data.dataset import HeldOut, SplitBy
from mlp_mixer.data.keys import random_shares
from mlp_mixer.training.config import DataChoice
from mlp_mixer.training.splits import split_validation

CLASSES = ("a", "b")


def some(count: int, first: int = 0) -> ArraySet:
    """Images that are their own numbers, of two classes in turns."""
    numbers = np.arange(first, first + count, dtype=np.uint8)
    pixels = np.broadcast_to(numbers[:, None, None, None], (count, 2, 2, 1)).copy()
    return ArraySet(pixels, numbers.astype(np.int64) % 2, CLASSES)


def numbers(images: ArraySet) -> list[int]:
    return [int(images.image(index)[0, 0, 0]) for index in range(len(images))]


def source(by: SplitBy) -> Dataset:
    found = Dataset("some", some(40), None, some(4, 100))
    return dataclasses.replace(found, held_out=HeldOut(0.2, 0, by))


def test_a_validation_split_of_its_own_stays_whatever_is_asked_for() -> None:
    own = dataclasses.replace(source("image"), val=some(6, 50))
    train, val = split_validation(own, DataChoice(source="", val_fraction=0.5))
    assert train is own.train
    assert val is own.val


def test_a_share_of_none_holds_out_none() -> None:
    found = source("image")
    train, val = split_validation(found, DataChoice(source="", val_fraction=0.0))
    assert (train, val) == (found.train, None)


@pytest.mark.parametrize("seed", [0, 7])
def test_images_are_chosen_by_their_content(seed: int) -> None:
    """A grown folder keeps its validation images; the purpose is part of the draw."""
    found = source("image")
    data = DataChoice(source="", val_fraction=0.3, split_seed=seed)
    train, val = split_validation(found, data)
    assert isinstance(train, ArraySet)
    assert isinstance(val, ArraySet)
    assert sorted(numbers(train) + numbers(val)) == list(range(40))
    shares = random_shares(found.train.keys(), seed, "val")
    assert numbers(val) == np.flatnonzero(shares < 0.3).tolist()
    tested = random_shares(found.train.keys(), seed, "test") < 0.3
    assert numbers(val) != np.flatnonzero(tested).tolist()


def test_images_are_chosen_as_the_test_images_were() -> None:
    """Without keys by their place in the set, as a run of 0.1.0 chose them."""
    data = DataChoice(source="", val_fraction=0.25)
    chosen = {}
    for by in ("image", "position"):
        _, val = split_validation(source(by), data)
        assert val is not None
        chosen[by] = numbers(val)
    assert chosen["position"] != chosen["image"]
    _, val = split_validation(dataclasses.replace(source("image"), held_out=None), data)
    assert val is not None
    assert numbers(val) == chosen["position"]
