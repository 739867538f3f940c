"""Photos, the same photos as shards, and what a test asks of the two."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mlp_mixer.data import Dataset, ImageSet, open_dataset
from mlp_mixer.data.shard_writer import write_shards
from mlp_mixer.errors import UserError
from mlp_mixer.images.decode import Part

NAMES = [("ä b.JPEG", "JPEG"), ("c.d.png", "PNG"), ("e.webp", "WEBP")]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """23 + 7 files of three classes, of several formats and with names of every kind."""
    root = tmp_path / "photos"
    for number in range(30):
        split = "train" if number < 23 else "test"
        name, kind = NAMES[number % 3]
        path = root / split / f"k{number % 3}" / f"{number:02d}{name}"
        path.parent.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(number)
        size = (9 + number % 5, 14 - number % 3, 3)
        pixels = rng.integers(0, 256, size, dtype=np.uint8)
        Image.fromarray(pixels).save(path, format=kind)
    return root


@pytest.fixture
def dataset(photos: Path) -> Dataset:
    return open_dataset(f"folder:{photos}")


@pytest.fixture
def out(tmp_path: Path, dataset: Dataset) -> Path:
    """The photos in shards of five or so."""
    folder = tmp_path / "out"
    write_shards(dataset, folder, shard_bytes=13_000, workers=2)
    return folder


@pytest.fixture(scope="session")
def assert_same() -> Callable[[Dataset, Dataset], None]:
    """Compare two datasets, image by image."""

    def assert_same_datasets(first: Dataset, second: Dataset) -> None:
        assert first.fingerprint() == second.fingerprint()
        assert first.held_out == second.held_out
        assert_same_sets(first.train, second.train)
        for mine, theirs in ((first.val, second.val), (first.test, second.test)):
            assert (mine is None) == (theirs is None)
            if mine is not None and theirs is not None:
                assert_same_sets(mine, theirs)

    def assert_same_sets(mine: ImageSet, theirs: ImageSet) -> None:
        assert mine.classes == theirs.classes
        assert mine.channels == theirs.channels
        assert mine.size == theirs.size
        assert mine.labels.tolist() == theirs.labels.tolist()
        assert mine.labels.dtype == np.int64
        part = Part(lambda height, width: (1, 2, height // 2, width // 2), (3, 3))
        for index in range(len(mine)):
            assert mine.name(index) == theirs.name(index)
            np.testing.assert_array_equal(mine.image(index), theirs.image(index))
            my_part = mine.part(index, part)
            their_part = theirs.part(index, part)
            np.testing.assert_array_equal(my_part, their_part)

    return assert_same_datasets


@pytest.fixture
def refused(out: Path) -> Callable[[str], None]:
    """Reading all of the shards ends in a UserError of one short sentence."""

    def read_all() -> None:
        train = open_dataset(f"shards:{out}").train
        for index in range(len(train)):
            train.name(index)
            train.image(index)

    def check(match: str) -> None:
        with pytest.raises(UserError, match=match) as caught:
            read_all()
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 700

    return check
