"""How the kernels cut their work: measured registers and shared memory, not tuning at
run time.

A table is the same in every process, so results are too, and `torch.compile` and CUDA
graphs meet no timing runs. `python tests/unit/kernels/test_aot.py` compiles them for
compute capability 9.0 without a GPU and prints their needs.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

MOST_TOKENS = 256  # a program holds its channels' whole columns: (BC, SP) float32 sums in registers
# that sum: an H200's multiprocessors, but the same on any GPU, since it decides the
# order of sums
PROGRAMS = 132

Kernel = Literal["forward", "backward", "weights"]


@dataclass(frozen=True)
class Tile:
    """Channels and hidden units of one step, warps of a program, stages of its loads."""

    channels: int
    hidden: int
    warps: int
    stages: int


def padded(n: int) -> int:
    """The next power of two, at least 16: what a matrix product in Triton takes."""
    return max(16, 1 << (n - 1).bit_length())


def parts(tokens: int) -> tuple[int, ...]:
    """Powers of two from 16 on, at most three, whose sum holds so many tokens with
    little to spare.
    """
    sixteens = -(-tokens // 16)
    powers = [
        16 << bit
        for bit in reversed(range(sixteens.bit_length()))
        if sixteens >> bit & 1
    ]
    return tuple(powers) if len(powers) <= 3 else (padded(tokens),)


def padded_hidden(n: int) -> int:
    """A multiple of the hidden units of every tile."""
    return min(padded(n), -(-n // 128) * 128)


def tile_for(
    kernel: Kernel, tokens: int, hidden: int, bits: int, *, roomy: bool
) -> Tile:
    """The row for so many tokens, hidden units, and bits of a number.

    roomy: a program may have 200 KiB of shared memory (H100, H200, B200), and not 99
        only.
    """
    if bits == 32:
        tile = Tile(32, 16, 4, 1)
    elif tokens > 64 and not roomy:
        tile = _SMALL[kernel]
    else:
        tile = _LARGE[
            kernel,
            min(
                limit
                for of, limit in _LARGE
                if of == kernel and limit >= sum(parts(tokens))
            ),
        ]
    return dataclasses.replace(tile, hidden=min(tile.hidden, padded_hidden(hidden)))


# 16-bit numbers, by padded tokens. As many stages of loads as fit without spilling
# registers on compute capability 9.0.
_LARGE: dict[tuple[Kernel, int], Tile] = {
    ("forward", 64): Tile(128, 64, 4, 3),
    ("forward", 128): Tile(128, 64, 8, 3),
    ("forward", 208): Tile(128, 64, 8, 3),
    ("forward", 256): Tile(128, 32, 8, 3),
    ("backward", 64): Tile(128, 32, 4, 3),
    ("backward", 128): Tile(128, 64, 8, 2),
    ("backward", 208): Tile(128, 32, 8, 3),
    ("backward", 256): Tile(128, 32, 8, 2),
    ("weights", 64): Tile(64, 128, 4, 3),
    ("weights", 128): Tile(64, 128, 8, 3),
    ("weights", 208): Tile(64, 128, 8, 4),
    ("weights", 256): Tile(64, 128, 8, 4),
}
_SMALL: dict[Kernel, Tile] = {
    "forward": Tile(64, 32, 4, 2),
    "backward": Tile(64, 32, 4, 1),
    "weights": Tile(32, 64, 8, 2),
}
