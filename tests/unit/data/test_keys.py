"""The identity of images: of the content, the same everywhere, and for ever."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mlp_mixer.data import ArraySet, Dataset, open_dataset
from mlp_mixer.data.dataset import image_split
from mlp_mixer.data.image_set import ImageSet
from mlp_mixer.data.keys import (
    key_of_bytes,
    key_of_file,
    key_of_name,
    random_shares,
)
from mlp_mixer.data.seen import MOST_REMEMBERED, SeenImages
from mlp_mixer.data.shard_writer import write_shards
from mlp_mixer.errors import UserError


def noise(folder: Path, name: str, seed: int, side: int = 8) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)
    path = folder / f"{name}.png"
    Image.fromarray(pixels).save(path)
    return path


def by_name(images: ImageSet) -> dict[str, int]:
    return {images.name(i): int(key) for i, key in enumerate(images.keys())}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(60):
        noise(tmp_path / "photos" / "ab"[number % 2], f"{number:03d}", number)
    return tmp_path / "photos"


def test_a_file_has_the_key_of_its_bytes_and_of_nothing_else(tmp_path: Path) -> None:
    path = noise(tmp_path, "one", 1)
    key = key_of_file(path)
    assert key == key_of_bytes(path.read_bytes())
    assert key_of_file(shutil.copy(path, tmp_path / "other name.png")) == key
    assert key_of_file(noise(tmp_path, "two", 2)) != key
    # Splits and records of checkpoints rest on these digits.
    assert key_of_bytes(b"mixer") == 0x9F41BFC53B034F93


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (262_144, 0x3C55D038204B3F69),  # the longest that is read whole
        (262_145, 0x824808E3D5000FA7),
        (400_000, 0xBBFA9C8635DE1E0B),
    ],
)
def test_splits_rest_on_the_keys_of_long_files_too(
    size: int, expected: int, tmp_path: Path
) -> None:
    data = (bytes(range(251)) * 2000)[:size]
    (tmp_path / "one").write_bytes(data)
    assert key_of_bytes(data) == key_of_file(tmp_path / "one") == expected


def test_names_and_shares_stay_what_they_are() -> None:
    """Another number here would move every split of every dataset."""
    assert key_of_name("a/b.png") == 0xC5E2230F43266B48
    assert key_of_name("caf\udce9") != key_of_name("caf\u00e9")
    keys = np.array([0, 1, 2**64 - 1], np.uint64)
    with np.errstate(all="raise"):
        shares = random_shares(keys, 7, "val")
    expected = [0.86002785, 0.27626768, 0.63909569]
    np.testing.assert_allclose(shares, expected, rtol=0, atol=1e-8)
    assert shares.dtype == np.float64
    assert random_shares(keys, 8, "val")[0] != shares[0]
    assert random_shares(keys, 7, "test")[0] != shares[0]


@pytest.mark.parametrize("place", [0, 150_000, 400_000, -1])
def test_long_files_differ_by_their_sampled_places(place: int) -> None:
    data = bytearray(np.random.default_rng(0).bytes(600_000))
    before = key_of_bytes(data)
    # A picture that was changed is compressed to other bytes from there on.
    rest = slice(place, None)
    data[rest] = bytes(value ^ 1 for value in data[rest])
    assert key_of_bytes(data) != before
    assert key_of_bytes(bytes(data) + b"x") != key_of_bytes(data)


def test_shards_keep_the_keys_of_files_and_of_arrays(
    folder: Path, tmp_path: Path
) -> None:
    digits = open_dataset("digits")
    for number, dataset in enumerate((open_dataset(f"folder:{folder}"), digits)):
        out = tmp_path / f"shards{number}"
        write_shards(dataset, out, shard_bytes=50_000)
        shards = open_dataset(str(out))
        np.testing.assert_array_equal(shards.train.keys(), dataset.train.keys())
        assert shards.test is not None
        assert dataset.test is not None
        assert by_name(shards.test) == by_name(dataset.test)


def test_arrays_have_the_keys_of_their_pixels() -> None:
    images = np.random.default_rng(0).integers(0, 256, (20, 4, 4, 3), np.uint8)
    whole = ArraySet(images, np.zeros(20, int))
    some = whole.take([3, 5])
    np.testing.assert_array_equal(some.keys(), whole.keys()[[3, 5]])
    again = ArraySet(images[[3, 5]], np.zeros(2, int))
    np.testing.assert_array_equal(again.keys(), some.keys())
    assert len(set(whole.keys())) == 20


def test_an_unreadable_file_has_a_key_all_the_same(folder: Path) -> None:
    images = open_dataset(f"folder:{folder}").train
    name = images.name(0)
    (folder / name).unlink()
    assert len(set(images.keys())) == len(images)


def test_a_picture_more_moves_no_other_picture(folder: Path) -> None:
    before = open_dataset(f"folder:{folder}")
    for number in range(100, 110):
        noise(folder / "a", f"0_{number}", number)  # first by name
    (folder / "b" / "001.png").rename(folder / "b" / "renamed.png")
    after = open_dataset(f"folder:{folder}")
    assert before.test is not None
    assert after.test is not None
    old_test = set(by_name(before.test).values())
    new_test = set(by_name(after.test).values())
    assert old_test <= new_test
    old_train = set(by_name(before.train).values())
    assert not old_train & new_test


def test_a_split_takes_about_the_fraction_and_follows_the_seed() -> None:
    keys = np.random.default_rng(0).integers(0, 2**63, 5000, np.uint64)
    labels = np.arange(5000) % 7
    _, held = image_split(keys, labels, 0.2, 0)
    assert abs(len(held) - 1000) < 120  # four deviations
    _, other = image_split(keys, labels, 0.2, 1)
    _, val = image_split(keys, labels, 0.2, 0, "val")
    for another in (other, val):
        # Independent choices share a fifth.
        assert abs(len(np.intersect1d(held, another)) - 200) < 60


def test_a_small_class_is_on_both_sides_and_copies_stay_together() -> None:
    labels = np.array([0, 0, 1, 1, 1, 2])
    keys = np.array([10, 11, 12, 12, 13, 14], np.uint64)
    for seed in range(20):
        rest, held = image_split(keys, labels, 0.3, seed)
        assert set(labels[rest]) == {0, 1, 2}
        assert set(labels[held]) == {0, 1}
        assert not set(keys[rest]) & set(keys[held])
    only_copies = np.array([5, 5, 5], np.uint64)
    rest, held = image_split(only_copies, np.zeros(3, int), 0.5, 0)
    assert (len(rest), len(held)) == (3, 0)


def test_random_shares_are_uniform_and_pinned() -> None:
    keys = np.arange(20_000, dtype=np.uint64)
    shares = random_shares(keys, 3, "test")
    counts, _ = np.histogram(shares, 10, (0, 1))
    assert abs(counts - 2000).max() < 200
    pinned = random_shares(np.array([1, 2], np.uint64), 0, "test")
    np.testing.assert_allclose(pinned, [0.1303626710393, 0.9657430816658], atol=1e-12)


def test_a_record_of_images_survives_json_and_unites() -> None:
    images = np.random.default_rng(0).integers(0, 256, (300, 4, 4, 3), np.uint8)
    whole = ArraySet(images, np.zeros(300, int))
    first, second = whole.take(range(200)), whole.take(range(100, 250))
    seen = SeenImages.of(first)
    stored = SeenImages.from_provenance({"seen": seen.to_json()})
    assert stored is not None
    assert stored.complete
    assert stored.contains(whole.keys()).tolist() == [True] * 200 + [False] * 100
    both = stored | SeenImages.of(second)
    assert both.contains(whole.keys()).sum() == 250
    assert SeenImages.from_provenance({}) is None
    # About two bytes and a half an image.
    assert len(seen.to_json()["keys"]) < 300 * 6


def test_too_many_images_are_not_remembered_and_that_is_remembered() -> None:
    labels = np.zeros(MOST_REMEMBERED + 1, int)
    many = ArraySet(np.zeros((len(labels), 1, 1), np.uint8), labels)
    record = SeenImages.of(many)
    assert not record.complete
    assert not len(record.short_keys)
    assert not (record | SeenImages.of(many.take([0]))).complete


@pytest.mark.parametrize("keys", ["?", "AAAA", 7, None])
def test_a_damaged_record_is_one_sentence(keys: object) -> None:
    record = {"seen": {"images": 1, "complete": True, "keys": keys}}
    with pytest.raises(UserError, match="images it has learnt from is damaged"):
        SeenImages.from_provenance(record)


def test_from_arrays_and_npz_split_alike(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (50, 4, 4, 3), np.uint8)
    labels = np.arange(50) % 5
    np.savez(tmp_path / "x.npz", x_train=images, y_train=labels)
    one = Dataset.from_arrays(images, labels)
    other = open_dataset(f"npz:{tmp_path / 'x.npz'}")
    assert one.test is not None
    assert other.test is not None
    np.testing.assert_array_equal(one.test.keys(), other.test.keys())
