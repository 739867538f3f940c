import numpy as np
import pytest

from mlp_mixer.data import ArraySet, Dataset, open_dataset, stratified_split
from mlp_mixer.data.dataset import public_name, stratified_sample
from mlp_mixer.errors import UserError


def flat(n: int = 50, classes: int = 5) -> tuple[np.ndarray, np.ndarray]:
    return np.arange(n, dtype=np.uint8).reshape(n, 1, 1), np.arange(n) % classes


def test_split_takes_the_fraction_of_every_class():
    labels = np.repeat([0, 1, 2, 3], [100, 10, 2, 1])
    rest, held = stratified_split(labels, 0.2, 0)
    assert np.bincount(labels[held], minlength=4).tolist() == [20, 2, 1, 0]
    assert sorted([*rest, *held]) == list(range(len(labels)))
    assert list(rest) == sorted(rest)
    assert list(held) == sorted(held)
    assert rest.dtype == held.dtype == np.int64


def test_split_never_takes_all_of_a_class():
    labels = np.repeat([0, 1], [2, 3])
    rest, _ = stratified_split(labels, 0.99, 0)
    assert set(labels[rest]) == {0, 1}


def test_split_follows_the_seed():
    labels = np.arange(200) % 4
    _, first = stratified_split(labels, 0.3, 1)
    _, again = stratified_split(labels, 0.3, 1)
    _, other = stratified_split(labels, 0.3, 2)
    np.testing.assert_array_equal(first, again)
    assert set(first) != set(other)


def test_split_stays_the_same_for_ever():
    """Checkpoints are evaluated on the images that were held out years before."""
    _, held = stratified_split(np.arange(20) % 2, 0.2, 0)
    assert held.tolist() == [5, 8, 12, 19]


@pytest.mark.parametrize("count", [2, 30, 31, 100, 299])
def test_a_sample_has_so_many_images_and_of_each_class_its_share(count):
    labels = np.repeat([0, 1, 2], [200, 90, 10])
    chosen = stratified_sample(labels, count, 0)
    assert len(np.unique(chosen)) == len(chosen) == count
    found = np.bincount(labels[chosen], minlength=3)
    np.testing.assert_allclose(found, count * np.array([200, 90, 10]) / 300, atol=1)
    if count >= 3:
        assert found.min() >= 1
    assert not np.array_equal(chosen, stratified_sample(labels, count, 1))
    np.testing.assert_array_equal(chosen, stratified_sample(labels, count, 0))
    np.testing.assert_array_equal(stratified_sample(labels, 300 + count, 0), range(300))


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5, float("nan")])
def test_senseless_fractions(fraction):
    with pytest.raises(UserError, match="fraction to hold out"):
        stratified_split(np.array([0, 1]), fraction, 0)


def test_a_flat_dataset_is_split_and_remembered():
    images, labels = flat()
    dataset = Dataset.from_arrays(images, labels, split_seed=3, test_fraction=0.4)
    assert len(dataset.train) + len(dataset.test) == 50
    assert 10 <= len(dataset.test) <= 30
    assert dataset.val is None
    assert dataset.held_out == (0.4, 3, "image")
    np.testing.assert_array_equal(dataset.all().images[..., 0], images)
    train = {dataset.train.name(i) for i in range(len(dataset.train))}
    test = {dataset.test.name(i) for i in range(len(dataset.test))}
    assert not train & test


def test_a_split_of_0_1_0_is_made_again():
    dataset = Dataset.from_arrays(*flat())
    parts = {"train": dataset.all()}
    old = Dataset.from_splits("x", parts, test_fraction=0.4, split_by="position")
    _, held = stratified_split(dataset.all().labels, 0.4, 0)
    assert old.held_out == (0.4, 0, "position")
    assert old.test.images[:, 0, 0, 0].tolist() == held.tolist()


def test_fingerprint_ignores_the_split_and_sees_the_data():
    images, labels = flat()

    def fingerprint(*arrays, **split) -> str:
        return Dataset.from_arrays(*arrays, **split).fingerprint()

    mine = fingerprint(images, labels)
    assert len(mine) == 16
    assert fingerprint(images, labels, split_seed=9, test_fraction=0.5) == mine
    assert fingerprint(images, labels[::-1]) != mine
    assert fingerprint(images, labels, list("abcde")) != mine
    assert fingerprint(images[:-1], labels[:-1]) != mine


def test_val_without_test_is_the_test():
    train = ArraySet(*flat(10))
    val = train.subset([1])
    lone = Dataset.from_splits("x", {"train": train, "val": val})
    assert (lone.val, len(lone.test), lone.held_out) == (None, 1, None)
    splits = {"train": train, "val": val, "test": train.subset([2, 3])}
    both = Dataset.from_splits("x", splits)
    assert (len(both.val), len(both.test)) == (1, 2)
    with pytest.raises(UserError, match="test split of its own"):
        both.all()


def test_one_image_per_class_leaves_nothing_to_hold_out():
    dataset = Dataset.from_arrays(*flat(3, 3))
    assert (len(dataset.train), dataset.test, dataset.held_out) == (3, None, None)


def test_no_images_at_all():
    with pytest.raises(UserError, match="no images to train on"):
        Dataset.from_arrays(np.zeros((0, 2, 2), np.uint8), np.zeros(0, int))


def test_a_dataset_passes_through():
    dataset = Dataset.from_arrays(*flat())
    assert open_dataset(dataset) is dataset


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ("digits", "digits"),
        ("folder:/home/me/photos", "folder:photos"),
        ("/home/me/photos", "photos"),
        ("shards:https://host/sets/photos", "shards:photos"),
        # A colon in a path begins no dataset's name.
        ("/home/me/photos: 2024", "photos: 2024"),
        ("/home/me:you/photos", "photos"),
        ("../me:you/list.csv", "list.csv"),
        ("folder:/home/me:you/photos", "folder:photos"),
    ],
)
def test_public_names_have_no_folders(spec, name):
    assert public_name(spec) == name
