import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlp_mixer.randomness import (
    STREAMS,
    batch_positions,
    epoch_order,
    philox,
    steps_for,
    torch_seed,
    uniforms,
)

seeds = st.integers(0, 2**63 - 1)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 40), st.integers(1, 100), seeds)
def test_every_image_once_in_each_epoch(length, batch_size, seed):
    """Also where the batch does not divide the images, or is larger than all of them."""
    steps = -(-3 * length // batch_size)
    batches = [batch_positions(step, batch_size, length, seed) for step in range(steps)]
    assert {len(part) for batch in batches for part in batch} == {batch_size}
    epochs, indices = (
        np.concatenate(parts)[: 3 * length] for parts in zip(*batches, strict=True)
    )
    assert epochs.tolist() == [epoch for epoch in range(3) for _ in range(length)]
    for epoch in range(3):
        visited = indices[epoch * length : (epoch + 1) * length]
        assert sorted(visited.tolist()) == list(range(length))
        assert visited.tolist() == epoch_order(seed, epoch, length).tolist()


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 40), st.integers(1, 30), st.integers(1, 5), seeds)
def test_repeats_come_with_numbers_of_their_own(length, images, repeats, seed):
    """As often as all `repeats` epochs last, every image comes `repeats` times, each
    time with another visit number.
    """
    steps = -(-3 * length // images)
    batches = [
        batch_positions(step, images * repeats, length, seed, repeats)
        for step in range(steps)
    ]
    plain = [batch_positions(step, images, length, seed) for step in range(steps)]
    for (visits, indices), (epochs, once) in zip(batches, plain, strict=True):
        assert (visits.dtype, indices.dtype, len(visits)) == (
            np.int64,
            np.int64,
            images * repeats,
        )
        np.testing.assert_array_equal(
            indices.reshape(repeats, images), np.tile(once, (repeats, 1))
        )
        np.testing.assert_array_equal(
            visits.reshape(repeats, images) // repeats, np.tile(epochs, (repeats, 1))
        )
        np.testing.assert_array_equal(
            visits.reshape(repeats, images) % repeats,
            np.arange(repeats)[:, None] + 0 * once,
        )
    seen = [
        pair
        for visits, indices in batches
        for pair in zip(visits.tolist(), indices.tolist(), strict=True)
    ]
    assert len(set(seen)) == len(seen)
    expected = {
        (visit, index) for visit in range(3 * repeats) for index in range(length)
    }
    assert {pair for pair in seen if pair[0] < 3 * repeats} == expected


def test_the_order_without_repeats_is_what_it_always_was():
    """Recorded before repeats existed: runs from then must go on as they were."""
    epochs, indices = batch_positions(3, 7, 10, seed=1)
    assert epochs.tolist() == [2] * 7
    assert indices.tolist() == [4, 5, 0, 7, 6, 8, 2]
    assert epoch_order(1, 0, 10).tolist() == [6, 0, 7, 9, 4, 1, 8, 5, 2, 3]


def test_a_step_does_not_depend_on_those_before_it():
    forwards = [batch_positions(step, 7, 10, seed=1) for step in range(6)]
    backwards = [batch_positions(step, 7, 10, seed=1) for step in reversed(range(6))]
    np.testing.assert_array_equal(forwards, backwards[::-1])
    assert forwards[0][1].dtype == np.int64


def test_orders_differ_between_epochs_seeds_and_from_the_files():
    seen = {
        tuple(epoch_order(seed, epoch, 100))
        for seed in range(20)
        for epoch in range(20)
    }
    assert len(seen) == 400
    assert tuple(range(100)) not in seen


def test_order_is_fair():
    """Each image is the first about equally often: 3000 epochs of 10 images, 9 degrees
    of freedom, p = 0.001.
    """
    first = [epoch_order(0, epoch, 10)[0] for epoch in range(3000)]
    counts = np.bincount(first, minlength=10)
    assert ((counts - 300) ** 2 / 300).sum() < 27.9


@pytest.mark.parametrize(
    "pair", [(-1, -2), (2**63 + 1, 2**63 + 2), (2**64 - 1, 2**64 - 2)]
)
def test_any_integer_is_a_seed(pair):
    assert (
        epoch_order(pair[0], 0, 100).tolist() != epoch_order(pair[1], 0, 100).tolist()
    )


@pytest.mark.parametrize(
    ("epochs", "batch_size", "length", "steps"),
    [
        (1, 128, 1280, 10),
        (1, 128, 1281, 11),
        (2, 3, 4, 3),  # the last batch of an epoch begins the next
        (0.5, 4, 10, 2),
        (0.1 + 0.2, 1, 10, 3),  # 3.0000000000000004
        (1e-12, 4, 10, 1),
        (300, 4096, 1_281_167, 93_836),
    ],
)
def test_steps_for(epochs, batch_size, length, steps):
    assert steps_for(epochs, batch_size, length) == steps


def splitmix64(word: int) -> int:
    """One output of the published generator at state `word`, in Python's integers."""
    mask = 2**64 - 1
    word = (word + 0x9E3779B97F4A7C15) & mask
    word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & mask
    word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & mask
    return word ^ (word >> 31)


def test_splitmix64_is_the_published_one():
    assert (
        splitmix64(1234567) == 6457827717110365317
    )  # first output for this seed in the author's C code


@settings(max_examples=100, deadline=None)
@given(st.integers(-(2**70), 2**70), st.integers(0, 2**62), st.integers(0, 2**62))
def test_uniforms_equal_plain_integers(seed, epoch, index):
    word = splitmix64(splitmix64(splitmix64(seed % 2**64) ^ epoch) ^ index)
    expected = [(splitmix64(word ^ column) >> 11) / 2**53 for column in range(32)]
    assert uniforms(seed, np.array([epoch]), np.array([index]), 32).tolist() == [
        expected
    ]
    assert 0 <= min(expected) <= max(expected) < 1


def grid(seed: int, epochs: int = 10, indices: int = 500) -> np.ndarray:
    """Numbers of the first epochs and images, (epochs, indices, 32)."""
    epoch, index = np.divmod(np.arange(epochs * indices), indices)
    return uniforms(seed, epoch, index, 32).reshape(epochs, indices, 32)


def test_uniforms_belong_to_the_sample_and_not_to_its_place():
    epochs = np.array([0, 1, 1, 7])
    indices = np.array([5, 5, 6, 0])
    together = uniforms(3, epochs, indices, 32)
    assert (together.shape, together.dtype) == ((4, 32), np.float64)
    order = [2, 0, 3, 1]
    np.testing.assert_array_equal(
        uniforms(3, epochs[order], indices[order], 32), together[order]
    )
    np.testing.assert_array_equal(
        uniforms(3, epochs[1:2], indices[1:2], 32), together[1:2]
    )
    np.testing.assert_array_equal(uniforms(3, epochs, indices, 5), together[:, :5])


def test_uniforms_are_distinct_for_every_seed_epoch_index_and_column():
    numbers = np.stack(
        [grid(seed, epochs=4, indices=100) for seed in (0, 1, 2, 2**40, -1)]
    )
    assert len(np.unique(numbers)) == numbers.size


def test_uniforms_are_uniform():
    """Chi-square of 160 000 numbers in 100 cells, p = 0.001 at 99 degrees of freedom;
    also within each column.
    """
    numbers = grid(0)
    counts = np.histogram(numbers, bins=100, range=(0, 1))[0]
    assert ((counts - 1600) ** 2 / 1600).sum() < 148.2
    by_column = numbers.reshape(-1, 32)
    np.testing.assert_allclose(
        by_column.mean(0), 0.5, atol=4 * math.sqrt(1 / 12 / 5000)
    )
    np.testing.assert_allclose(
        by_column.var(0), 1 / 12, atol=4 * math.sqrt(1 / 180 / 5000)
    )


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_neighbours_are_unrelated(axis):
    """Neighbouring epochs, images and columns."""
    numbers = np.moveaxis(grid(0), axis, 0)
    correlation = np.corrcoef(numbers[:-1].ravel(), numbers[1:].ravel())[0, 1]
    assert abs(correlation) < 4 / math.sqrt(numbers[1:].size)
    seeds = np.corrcoef(grid(0).ravel(), grid(1).ravel())[0, 1]
    assert abs(seeds) < 4 / math.sqrt(numbers.size)


def test_every_use_of_random_numbers_has_a_stream_of_its_own() -> None:
    assert len(set(STREAMS.values())) == len(STREAMS)
    first = {name: philox(name, 3, 5).random(4).tolist() for name in STREAMS}
    numbers = [number for draws in first.values() for number in draws]
    assert len(set(numbers)) == len(numbers)
    assert philox("mix", 3, 5).random(4).tolist() == first["mix"]
    assert philox("mix", 3, 6).random(4).tolist() != first["mix"]
    assert philox("mix", 4, 5).random(4).tolist() != first["mix"]


def test_the_streams_are_part_of_what_a_seed_means() -> None:
    """Frozen values: another constant would change every run that is resumed."""
    assert STREAMS == {
        "epoch order": 0,
        "class order": 0x434C415353,
        "mix": 0x4D49585550,
        "image side": 0x5349444553,
        "drop path": 0x5D0C7A571C0DE975,
        "covered": 0x434F5645524544,
    }
    assert philox("epoch order", 1, 2).permutation(5).tolist() == [0, 4, 2, 3, 1]
    assert philox("mix", 1, 2).random() == 0.37724721683712903
    assert torch_seed(3, 7) == 1589877494098541647
