"""Find pictures that look the same or that look like another class, in tiny copies.

N pictures, D features of each.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Tiny = NDArray[np.uint8]
"""(N, 16, 16, 3): pictures squeezed into 16 x 16 pixels."""

BITS = 7
"""So many of 64 bits may differ between the hashes of copies.

With eight bands of eight bits, two such hashes agree in at least one whole band.
"""

# Of the tiny gray copies. Among 2,800 different photos no pair within 12 bits had more
# than 0.93.
_CORRELATION = 0.97
_NEIGHBOURS = 10
_REFERENCES = 20_000
# The share of pictures whose neighbours must agree with their label. Below it the
# features say little about the classes, and an odd label means nothing.
_TRUST = 0.9
_TEXTURE = 32  # norm over 256 pixels: a standard deviation of 2 of 255


def perceptual_hashes(tiny: Tiny) -> NDArray[np.uint64]:
    """Hash the look of pictures: signs of the lowest frequencies of the brightness.

    A DCT gives the frequencies, as in pHash; contrast does not matter.

    Args:
        tiny: The pictures.

    Returns:
        64 bits for each picture (N,).
    """
    k = np.arange(16)
    cosines = np.cos(np.pi * (2 * k + 1) * k[:, None] / 32)
    waves = np.einsum("ui,nij,vj->nuv", cosines, _gray(tiny), cosines, optimize=True)
    waves = waves.reshape(len(tiny), 256)
    by_frequency = np.argsort((k[:, None] ** 2 + k**2).ravel(), kind="stable")
    # The first is the mean, which any change of brightness moves.
    lowest = by_frequency[1:65]
    # A threshold above zero: rounding noise has no sign.
    packed = np.packbits(waves[:, lowest] > 1e-3, axis=1)
    return np.ascontiguousarray(packed).view(np.uint64).ravel()


def close_hashes(codes: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Find all pairs of hashes that differ in at most `BITS` bits, without comparing all.

    Args:
        codes: The hashes (N,).

    Returns:
        Positions of the pairs (P, 2), the smaller first, each pair once.
    """
    found = [np.empty((0, 2), np.int64)]
    for band in range(8):
        key = _band(codes, band)
        order = np.argsort(key, kind="stable")
        code = codes[order]
        ends = np.searchsorted(key[order], key[order], side="right")
        # Hashes with an equal band stand together now. Each is compared with the next
        # one, then with the one after it, until no group is that long.
        first = np.arange(len(codes))
        step = 1
        while len(first := first[first + step < ends[first]]):
            differ = code[first] ^ code[first + step]
            near = np.bitwise_count(differ) <= BITS
            for earlier in range(band):
                # Where an earlier band agrees, the pair was found there.
                near &= _band(differ, earlier) != 0
            left = order[first[near]]
            right = order[first[near] + step]
            found.append(np.stack([left, right], axis=1))
            step += 1
    return np.sort(np.concatenate(found), axis=1)


def _band(codes: NDArray[np.uint64], band: int) -> NDArray[np.uint64]:
    """Return eight of the bits of each hash."""
    return codes >> np.uint64(8 * band) & np.uint64(255)


def group_lookalikes(tiny: Tiny) -> list[list[int]]:
    """Group pictures that look the same: recompressed, resized, brighter or gray.

    Args:
        tiny: The pictures.

    Returns:
        Positions, a list for each group of at least two. Flat pictures are in none.
    """
    gray = _gray(tiny).reshape(len(tiny), 256)
    gray -= gray.mean(axis=1, keepdims=True)
    length = np.linalg.norm(gray, axis=1, keepdims=True)
    gray /= np.maximum(length, 1e-6)
    # White walls all look alike without being copies.
    textured = np.flatnonzero(length.ravel() > _TEXTURE)
    pairs = textured[close_hashes(perceptual_hashes(tiny[textured]))]
    # Union-find: every picture points towards the leader of its group.
    leader = np.arange(len(tiny))
    for start in range(0, len(pairs), 4096):
        some = pairs[start : start + 4096]
        left = gray[some[:, 0]]
        right = gray[some[:, 1]]
        sure = np.einsum("pi,pi->p", left, right) > _CORRELATION
        for a, b in some[sure].tolist():
            leader[_root(leader, b)] = _root(leader, a)
    groups: dict[int, list[int]] = {}
    for position in range(len(tiny)):
        groups.setdefault(_root(leader, position), []).append(position)
    return [group for group in groups.values() if len(group) > 1]


def _root(leader: NDArray[np.int64], position: int) -> int:
    """Follow the leaders to the end, and shorten the way for the next time."""
    while leader[position] != position:
        leader[position] = leader[leader[position]]
        position = int(leader[position])
    return position


def odd_labels(
    features: NDArray[Any], labels: NDArray[np.int64]
) -> list[tuple[int, int]]:
    """Find pictures whose ten nearest pictures all have one other label.

    Classes of ten pictures or fewer are skipped.

    Args:
        features: Of each picture (N, D).
        labels: Of each picture (N,).

    Returns:
        (position, label of the neighbours). It is empty unless 90 % of the pictures
        share the label of most of their neighbours: with other features the
        neighbours mean nothing.
    """
    x = _unit_vectors(features)
    # A fixed sample bounds the cost; the generator is seeded, so a check can be
    # repeated.
    references = np.random.default_rng(0).permutation(len(x))[:_REFERENCES]
    if len(references) <= _NEIGHBOURS:
        return []
    votes = np.empty((len(x), _NEIGHBOURS), np.int64)
    for start in range(0, len(x), 1024):
        block = np.arange(start, min(start + 1024, len(x)))
        near = x[block] @ x[references].T
        # A picture does not vote for itself.
        near[references == block[:, None]] = -2.0
        nearest = np.argpartition(-near, _NEIGHBOURS, axis=1)[:, :_NEIGHBOURS]
        votes[block] = labels[references[nearest]]
    share_of_own_label = (votes == labels[:, None]).mean(axis=1)
    if np.mean(share_of_own_label > 0.5) < _TRUST:
        return []
    enough = np.bincount(labels[references], minlength=labels.max() + 1) > _NEIGHBOURS
    unanimous = (votes == votes[:, :1]).all(axis=1)
    odd = unanimous & (votes[:, 0] != labels) & enough[labels]
    return [(int(k), int(votes[k, 0])) for k in np.flatnonzero(odd)]


def _unit_vectors(features: NDArray[Any]) -> NDArray[np.float32]:
    """Standardise features, so that products of two pictures are cosines."""
    x = features.astype(np.float32) - features.mean(axis=0, dtype=np.float32)
    x /= np.maximum(x.std(axis=0), 1e-6)
    x /= np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-6)
    return x


def colours_by_place(tiny: Tiny) -> NDArray[np.float32]:
    """Describe pictures by the mean colours of 8 x 8 places.

    It tells classes of different colours apart; `odd_labels` knows when it does not.

    Args:
        tiny: The pictures.

    Returns:
        Features (N, 192).
    """
    squares = tiny.astype(np.float32).reshape(-1, 8, 2, 8, 2, 3)
    return squares.mean(axis=(2, 4)).reshape(len(tiny), 192)


def _gray(tiny: Tiny) -> NDArray[np.float32]:
    """Return the luma of ITU-R BT.601."""
    return tiny.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
