"""Hashes against comparing all pairs, copies of random pictures, labels of digits."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image

from mlp_mixer.check.lookalikes import (
    BITS,
    close_hashes,
    colours_by_place,
    group_lookalikes,
    odd_labels,
    perceptual_hashes,
)


def test_no_close_pair_of_hashes_is_missed() -> None:
    """The bands find exactly what comparing all pairs finds."""
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 2**64, 300, dtype=np.uint64)
    flips = []
    for count in rng.integers(0, 12, 300):
        bits = rng.choice(64, count, replace=False)
        flips.append(sum(1 << int(bit) for bit in bits))
    # The hardest pairs are seven bits apart, one in each band but one.
    one_in_each = sum(1 << (8 * band + band) for band in range(8))
    for band in range(8):
        flips[band] = one_in_each ^ 1 << 9 * band
    flipped = codes ^ np.array(flips, np.uint64)
    codes = rng.permutation(np.concatenate([codes, flipped]))
    distance = np.bitwise_count(codes[:, None] ^ codes)
    expected = np.argwhere(np.triu(distance <= BITS, 1)).tolist()
    assert sorted(close_hashes(codes).tolist()) == expected
    assert len(expected) > 100


def tiny(picture: Image.Image) -> np.ndarray:
    small = picture.convert("RGB").resize((16, 16), Image.Resampling.BOX)
    return np.asarray(small)


def test_copies_look_alike_and_others_do_not(
    photo: Callable[..., Image.Image],
) -> None:
    pictures = [photo(seed, "sea", (400, 300)) for seed in range(200)]
    copies = []
    for picture in pictures[:100]:
        smaller = picture.resize((130, 100))
        copies.append(smaller.point(lambda v: 20 + v * 0.8).convert("L"))
    stack = np.array([tiny(picture) for picture in (*pictures, *copies)])
    expected = [[number, 200 + number] for number in range(100)]
    assert group_lookalikes(stack) == expected


def test_pictures_without_texture_are_no_copies() -> None:
    flat = np.repeat(np.arange(40, dtype=np.uint8), 768).reshape(40, 16, 16, 3)
    # A step of one from left to right: all white walls look like that.
    faint = flat + (np.arange(16) > 7).astype(np.uint8)[:, None]
    assert group_lookalikes(flat) == []
    assert group_lookalikes(faint) == []


def test_no_pictures_are_no_problem() -> None:
    nothing = np.zeros((0, 16, 16, 3), np.uint8)
    assert group_lookalikes(nothing) == []
    assert perceptual_hashes(nothing).shape == (0,)
    assert colours_by_place(nothing).shape == (0, 192)


def test_flipped_labels_of_digits() -> None:
    """Of 30 wrong labels among 1,797 digits at least half are sure enough to be named."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    rng = np.random.default_rng(0)
    wrong = rng.choice(len(digits.target), 30, replace=False)
    labels = digits.target.astype(np.int64).copy()
    labels[wrong] = (labels[wrong] + rng.integers(1, 10, 30)) % 10
    mended = set()
    accused = set()
    for position, label in odd_labels(digits.data, labels):
        accused.add(position)
        if label == digits.target[position]:
            mended.add(position)
    assert len(mended & set(wrong.tolist())) >= 15
    # A few digits look like another one.
    assert len(accused - set(wrong.tolist())) <= 4


def test_features_that_know_nothing_accuse_no_picture() -> None:
    rng = np.random.default_rng(0)
    rare = (rng.random(1797) < 0.2).astype(np.int64)
    assert odd_labels(rng.normal(size=(1797, 64)), rare) == []
