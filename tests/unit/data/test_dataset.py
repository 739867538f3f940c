import numpy as np
import pytest

from mlp_mixer.data import ArraySet, Dataset, open_dataset, stratified_split
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


def test_split_never_takes_a_whole_class():
    labels = np.repeat([0, 1], [2, 3])
    rest, _ = stratified_split(labels, 0.99, 0)
    assert set(labels[rest]) == {0, 1}


def test_split_follows_the_seed():
    labels = np.arange(200) % 4
    first, again, other = (stratified_split(labels, 0.3, seed)[1] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert set(first) != set(other)
    assert stratified_split(np.arange(20) % 2, 0.2, 0)[1].tolist() == [
        5,
        8,
        12,
        19,
    ]  # for ever


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5, float("nan")])
def test_senseless_fractions(fraction):
    with pytest.raises(UserError, match="fraction to hold out"):
        stratified_split(np.array([0, 1]), fraction, 0)


def test_a_flat_source_is_split_and_remembered():
    images, labels = flat()
    source = Dataset.from_arrays(images, labels, split_seed=3, test_fraction=0.4)
    assert (len(source.train), source.val, len(source.test)) == (30, None, 20)
    assert source.held_out == (0.4, 3)
    np.testing.assert_array_equal(source.all().images[..., 0], images)
    assert not {source.train.name(i) for i in range(30)} & {
        source.test.name(i) for i in range(20)
    }


def test_fingerprint_ignores_the_split_and_sees_the_data():
    images, labels = flat()
    print_of = Dataset.from_arrays(images, labels).fingerprint()
    assert len(print_of) == 16
    assert (
        Dataset.from_arrays(
            images, labels, split_seed=9, test_fraction=0.5
        ).fingerprint()
        == print_of
    )
    assert Dataset.from_arrays(images, labels[::-1]).fingerprint() != print_of
    assert Dataset.from_arrays(images, labels, list("abcde")).fingerprint() != print_of
    assert Dataset.from_arrays(images[:-1], labels[:-1]).fingerprint() != print_of


def test_val_without_test_is_the_test():
    images, labels = flat(10)
    part = ArraySet(images, labels)
    lone = Dataset.from_splits("x", {"train": part, "val": part.subset([1])})
    assert (lone.val, len(lone.test), lone.held_out) == (None, 1, None)
    both = Dataset.from_splits(
        "x", {"train": part, "val": part.subset([1]), "test": part.subset([2, 3])}
    )
    assert (len(both.val), len(both.test)) == (1, 2)
    with pytest.raises(UserError, match="test split of its own"):
        both.all()


def test_one_image_per_class_leaves_nothing_to_hold_out():
    source = Dataset.from_arrays(*flat(3, 3))
    assert (len(source.train), source.test, source.held_out) == (3, None, None)


def test_no_images_at_all():
    with pytest.raises(UserError, match="no images to train on"):
        Dataset.from_arrays(np.zeros((0, 2, 2), np.uint8), np.zeros(0, int))


def test_a_source_passes_through():
    source = Dataset.from_arrays(*flat())
    assert open_dataset(source) is source
