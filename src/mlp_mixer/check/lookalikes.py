"""Pictures that look the same, and pictures that look like another class: from tiny
copies, without comparing all.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Tiny = NDArray[np.uint8]
"""(N, 16, 16, 3): pictures squeezed into 16 x 16 pixels."""

BITS = 7
"""So many of 64 bits may differ. Eight bands of eight bits: two such hashes agree in
one of them at least.
"""

# of the tiny gray copies; among 2,800 different photos no pair within 12 bits had over
# 0.93
_CORRELATION = 0.97
_NEIGHBOURS = 10
_REFERENCES = 20_000
# share of the pictures whose neighbours agree with their label, below which odd ones
# mean nothing
_TRUST = 0.9


def hashes(tiny: Tiny) -> NDArray[np.uint64]:
    """64 bits a picture (N,): the signs of the lowest frequencies of its brightness (a
    DCT), whatever its contrast.
    """
    k = np.arange(16)
    cosines = np.cos(np.pi * (2 * k + 1) * k[:, None] / 32)
    waves = np.einsum(
        "ui,nij,vj->nuv", cosines, _gray(tiny), cosines, optimize=True
    ).reshape(len(tiny), 256)
    lowest = np.argsort((k[:, None] ** 2 + k**2).ravel(), kind="stable")[
        1:65
    ]  # the first is the mean
    packed = np.packbits(waves[:, lowest] > 1e-3, axis=1)
    return np.ascontiguousarray(packed).view(np.uint64).ravel()


def close_hashes(codes: NDArray[np.uint64]) -> NDArray[np.int64]:
    """All pairs (P, 2), smaller position first, whose hashes (N,) differ in at most
    `BITS` bits, each once.
    """
    found = [np.empty((0, 2), np.int64)]
    for band in range(8):
        key = codes >> np.uint64(8 * band) & np.uint64(255)
        order = np.argsort(key, kind="stable")
        code = codes[order]
        ends = np.searchsorted(key[order], key[order], side="right")
        first = np.arange(len(codes))
        step = 1
        while len(first := first[first + step < ends[first]]):
            differ = code[first] ^ code[first + step]
            near = np.bitwise_count(differ) <= BITS
            for earlier in range(
                band
            ):  # where an earlier band agrees, the pair is known
                near &= differ >> np.uint64(8 * earlier) & np.uint64(255) != 0
            found.append(
                np.stack([order[first[near]], order[first[near] + step]], axis=1)
            )
            step += 1
    return np.sort(np.concatenate(found), axis=1)


def alike(tiny: Tiny) -> list[list[int]]:
    """Groups of positions that look the same: recompressed, resized, brighter, gray.
    Flat pictures are in none.
    """
    gray = _gray(tiny).reshape(len(tiny), 256)
    gray -= gray.mean(axis=1, keepdims=True)
    length = np.linalg.norm(gray, axis=1, keepdims=True)
    gray /= np.maximum(length, 1e-6)
    textured = np.flatnonzero(length.ravel() > 32)  # a deviation of 2 of 255
    pairs = textured[close_hashes(hashes(tiny[textured]))]
    leader = np.arange(len(tiny))
    for start in range(0, len(pairs), 4096):
        some = pairs[start : start + 4096]
        sure = np.einsum("pi,pi->p", gray[some[:, 0]], gray[some[:, 1]]) > _CORRELATION
        for a, b in some[sure].tolist():
            leader[_root(leader, b)] = _root(leader, a)
    groups: dict[int, list[int]] = {}
    for position in range(len(tiny)):
        groups.setdefault(_root(leader, position), []).append(position)
    return [group for group in groups.values() if len(group) > 1]


def odd_labels(
    features: NDArray[Any], labels: NDArray[np.int64]
) -> list[tuple[int, int]]:
    """(position, label of all its neighbours) where the ten nearest pictures agree on
    another label.

    features: (N, D). labels: (N,). Says nothing of classes without enough pictures, and
        nothing at all where the
    neighbours are no judges: where nine tenths of the pictures do not have the label of
        most of their neighbours.
    """
    x = features.astype(np.float32) - features.mean(axis=0, dtype=np.float32)
    x /= np.maximum(x.std(axis=0), 1e-6)
    x /= np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-6)
    references = np.random.default_rng(0).permutation(len(x))[:_REFERENCES]
    if len(references) <= _NEIGHBOURS:
        return []
    votes = np.empty((len(x), _NEIGHBOURS), np.int64)
    for start in range(0, len(x), 1024):
        block = np.arange(start, min(start + 1024, len(x)))
        near = x[block] @ x[references].T
        near[references == block[:, None]] = -2.0  # not itself
        votes[block] = labels[
            references[np.argpartition(-near, _NEIGHBOURS, axis=1)[:, :_NEIGHBOURS]]
        ]
    if np.mean((votes == labels[:, None]).mean(axis=1) > 0.5) < _TRUST:
        return []
    enough = np.bincount(labels[references], minlength=labels.max() + 1) > _NEIGHBOURS
    odd = (votes == votes[:, :1]).all(axis=1) & (votes[:, 0] != labels) & enough[labels]
    return [
        (int(position), int(votes[position, 0])) for position in np.flatnonzero(odd)
    ]


def describe(tiny: Tiny) -> NDArray[np.float32]:
    """Colours by place, (N, 192): enough for classes of different colours, and
    `odd_labels` knows when it is not.
    """
    return (
        tiny.astype(np.float32)
        .reshape(-1, 8, 2, 8, 2, 3)
        .mean(axis=(2, 4))
        .reshape(len(tiny), 192)
    )


def _gray(tiny: Tiny) -> NDArray[np.float32]:
    return tiny.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)


def _root(leader: NDArray[np.int64], position: int) -> int:
    while leader[position] != position:
        leader[position] = leader[leader[position]]
        position = int(leader[position])
    return position
