"""Which image comes when, and every random number, as pure functions of the seed.

No state is needed to recompute any step: a number depends on (seed, step), on (seed,
epoch), or on (seed, epoch, image) alone.

The images of all epochs form one stream: epoch e is a permutation seeded by (seed, e),
and step t takes positions [t * batch, (t + 1) * batch). Every batch is full, and every
image comes exactly once in each epoch. The position of a training run is therefore one
integer, and neither workers nor a restart can change what a step sees.

With repeated augmentation (Hoffer et al. 2020, arXiv 1901.09335; DeiT takes 3) a batch
holds fewer images, each `repeats` times with other random numbers. The length of an
epoch in steps stays the same, so the stream moves on more slowly: every image comes
exactly `repeats` times in each `repeats` epochs.

With balanced sampling an epoch is as long, and every class fills an equal part of it.
Each class is a stream of its own then, in which its images come equally often.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np

_GOLDEN = 0x9E3779B97F4A7C15
_WORD = 0xFFFFFFFFFFFFFFFF

STREAMS = {
    "epoch order": 0,
    "class order": 0x434C415353,
    "mix": 0x4D49585550,
    "image side": 0x5349444553,
    "drop path": 0x5D0C7A571C0DE975,
    "covered": 0x434F5645524544,
}
"""Every use of random numbers has a constant of its own.

The key of all of them is (seed, step) or (seed, epoch), so two uses with one constant
would draw the same numbers: mixed batches would always come at the same side length.
The values are part of what a seed means; a new use takes a new one.
"""


def generator(seed: int) -> np.random.Generator:
    """Return NumPy's generator of a seed, which may be negative.

    Args:
        seed: Any integer. NumPy refuses negative ones, which the streams here take.
    """
    return np.random.default_rng(seed if seed >= 0 else seed & _WORD)


def philox(stream: str, seed: int, number: int) -> np.random.Generator:
    """Return the generator of a stream (a key of `STREAMS`) at one step or epoch.

    Philox is a counter-based generator (Salmon et al. 2011): any step can be computed
    without those before it.
    """
    # A list of two Python integers would go through float64 and lose bits.
    key = np.array([seed & _WORD, number], dtype=np.uint64)
    counter = [0, 0, 0, STREAMS[stream]]
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


def torch_seed(seed: int, step: int) -> int:
    """Return the seed of torch's generators at one step.

    Dropout and stochastic depth draw from them, so a resumed run needs no saved
    generator.
    """
    return (seed * _GOLDEN + step * 0xBF58476D1CE4E5B9 + 1) & 0x7FFFFFFFFFFFFFFF


def drop_path_uniforms(
    seed: int, epochs: np.ndarray, indices: np.ndarray, count: int
) -> np.ndarray:
    """Return (B, count) numbers in [0, 1) for stochastic depth, apart from `uniforms`."""
    return uniforms(seed ^ STREAMS["drop path"], epochs, indices, count)


def covering_uniforms(
    seed: int, epochs: np.ndarray, indices: np.ndarray, count: int
) -> np.ndarray:
    """Return (B, count) numbers in [0, 1) that say which patches are covered."""
    return uniforms(seed ^ STREAMS["covered"], epochs, indices, count)


@functools.lru_cache(maxsize=2)
def epoch_order(seed: int, epoch: int, length: int) -> np.ndarray:
    """Return the permutation of `range(length)` in which an epoch visits its images."""
    return philox("epoch order", seed, epoch).permutation(length)


@dataclass(frozen=True, eq=False)
class ClassMembers:
    """Hold which images each class has, for balanced sampling.

    Attributes:
        images: For each class that has images their indices, int64.
        length: All images together.
    """

    images: tuple[np.ndarray, ...]
    length: int

    @classmethod
    def of(cls, labels: np.ndarray) -> ClassMembers:
        """Collect the images of each class.

        Args:
            labels: Integers (N,).
        """
        found = [np.flatnonzero(labels == label) for label in np.unique(labels)]
        return cls(tuple(found), len(labels))

    def before(self, place: int, epoch: int) -> int:
        """Return how many images a class has shown before an epoch.

        An epoch is shared out evenly. What is left over goes to the classes in turn, so
        after as many epochs as there are classes all have shown equally many.

        Args:
            place: Of the class in `images`.
            epoch: Counted from 0.
        """
        classes = len(self.images)
        share, left_over = divmod(self.length, classes)
        dealt = epoch * left_over
        return epoch * share + (dealt - place + classes - 1) // classes


# Keyed by the identity of the members, which a process keeps for the whole run.
@functools.lru_cache(maxsize=2)
def balanced_epoch(
    seed: int, epoch: int, members: ClassMembers
) -> tuple[np.ndarray, np.ndarray]:
    """Return which images an epoch visits, with every class equally often.

    A class goes through all its images in an order of their own before it begins again.
    Rounds are counted in each class, so that (round, index) is unique: an image that
    comes twice in an epoch is augmented differently.

    Args:
        seed: Of the orders.
        epoch: Counted from 0.
        members: The images of each class.

    Returns:
        The round of each visit, and the image's index, both int64 (N,).
    """
    rounds = []
    indices = []
    classes = len(members.images)
    for place, images in enumerate(members.images):
        start = members.before(place, epoch)
        stop = members.before(place, epoch + 1)
        positions = np.arange(start, stop, dtype=np.int64)
        own_rounds = positions // len(images)
        for number in np.unique(own_rounds):
            key = int(number) * classes + place
            order = philox("class order", seed, key).permutation(images)
            indices.append(order[positions[own_rounds == number] % len(images)])
        rounds.append(own_rounds)
    mixed = epoch_order(seed, epoch, members.length)
    return np.concatenate(rounds)[mixed], np.concatenate(indices)[mixed]


def batch_positions(
    step: int,
    batch_size: int,
    length: int,
    seed: int,
    repeats: int = 1,
    members: ClassMembers | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return which images a step takes from the stream, and in which epoch of theirs.

    The copies of an image are batch_size / repeats places apart, so they are in
    different processes where there are several. Their "epochs" count visits: the r-th
    copy in permutation e has e * repeats + r, so that (epoch, index) is unique.

    Args:
        step: Counted from 0.
        batch_size: Images in a batch over all processes, with their copies.
        length: Images in an epoch.
        seed: Of the permutations.
        repeats: Copies of each image in a batch.
        members: The images of each class, where all classes are to come equally often;
            an image's "epoch" is then its round in its class.

    Returns:
        Epochs (B,) and image indices (B,), int64.
    """
    images = batch_size // repeats
    positions = np.arange(step * images, (step + 1) * images, dtype=np.int64)
    epochs = positions // length
    ranks = positions % length
    indices = np.empty_like(positions)
    rounds = epochs.copy()
    for epoch in np.unique(epochs):
        of_epoch = epochs == epoch
        own = ranks[of_epoch]
        if members is None:
            indices[of_epoch] = epoch_order(seed, int(epoch), length)[own]
        else:
            own_rounds, order = balanced_epoch(seed, int(epoch), members)
            rounds[of_epoch] = own_rounds[own]
            indices[of_epoch] = order[own]
    visits = rounds * repeats + np.arange(repeats)[:, None]
    return visits.reshape(-1), np.tile(indices, repeats)


def steps_for(epochs: float, batch_size: int, length: int) -> int:
    """Return how many steps it takes to see `epochs` epochs; at least one."""
    return max(1, math.ceil(epochs * length / batch_size - 1e-9))


def uniforms(
    seed: int, epochs: np.ndarray, indices: np.ndarray, count: int
) -> np.ndarray:
    """Return the random numbers of each sample.

    They are a hash of (seed, epoch, index, column): splitmix64's finaliser (Steele, Lea
    and Flood 2014), vectorised.

    Args:
        seed: Of the run.
        epochs: (B,) from `batch_positions`.
        indices: (B,) from `batch_positions`.
        count: Numbers for each sample.

    Returns:
        (B, count) float64 in [0, 1).
    """
    columns = np.arange(count, dtype=np.uint64)
    state = _mix(np.full(len(indices), seed & _WORD, np.uint64))
    state = _mix(state ^ epochs.astype(np.uint64))
    state = _mix(state ^ indices.astype(np.uint64))
    return (_mix(state[:, None] ^ columns) >> np.uint64(11)) * 2.0**-53


def _mix(words: np.ndarray) -> np.ndarray:
    words = words + np.uint64(_GOLDEN)  # uint64 arrays wrap around, as the hash wants
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))
