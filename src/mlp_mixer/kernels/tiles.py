"""How the kernels cut their work into tiles: a table, not tuning at run time.

A table is the same in every process, so results are too, and neither `torch.compile`
nor CUDA graphs meet runs that only measure time. The rows come from the registers and
the shared memory that compiled kernels need: `python tests/unit/kernels/test_aot.py`
compiles them for compute capability 9.0 without a GPU and prints both.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

# A program keeps whole columns of its channels: float32 sums of shape (BC, SP) in
# registers. A multiprocessor has 256 KiB of registers, which 128 channels x 256 tokens
# half fill.
MOST_TOKENS = 256

# How many programs sum the gradients of the weights: the multiprocessors of an H200.
# The number is the same on any GPU, since it decides the order of the sums.
PROGRAMS = 132

Kernel = Literal["forward", "backward", "weights"]


@dataclass(frozen=True)
class Tile:
    """How one program works.

    Attributes:
        channels: Channels of a tile (BC).
        hidden: Hidden units of one step (BD).
        warps: Warps of the program, of 32 threads each.
        stages: Loads that are under way at once.
    """

    channels: int
    hidden: int
    warps: int
    stages: int


def padded(n: int) -> int:
    """Return the next power of two, at least 16: the sides of Triton's products."""
    return max(16, 1 << (n - 1).bit_length())


def parts(tokens: int) -> tuple[int, ...]:
    """Cut a number of tokens into at most three powers of two, with little to spare.

    Triton's ranges are powers of two. One range for 196 tokens would have 256 places,
    a quarter of them for nothing; 128 + 64 + 16 = 208 waste 6 %.

    Args:
        tokens: The number of tokens, from 1 on.

    Returns:
        Powers of two from 16 on, the largest first, whose sum is at least `tokens`.
    """
    sixteens = -(-tokens // 16)
    powers = []
    for bit in reversed(range(sixteens.bit_length())):
        if sixteens >> bit & 1:
            powers.append(16 << bit)
    # A product for each part has a cost of its own: past three, one range is cheaper.
    if len(powers) > 3:
        return (padded(tokens),)
    return tuple(powers)


def padded_hidden(n: int) -> int:
    """Return the hidden units with padding: a multiple of those of every tile."""
    return min(padded(n), -(-n // 128) * 128)


def tile_for(
    kernel: Kernel, tokens: int, hidden: int, bits: int, *, roomy: bool
) -> Tile:
    """Look up the tile of a kernel.

    Args:
        kernel: Which of the three kernels with matrix products.
        tokens: The number of tokens, at most `MOST_TOKENS`.
        hidden: The number of hidden units of the token MLP.
        bits: The size of a number: 16 or 32.
        roomy: Whether a program may have 200 KiB of shared memory (H100, H200, B200)
            and not only 99 (consumer GPUs).

    Returns:
        The tile; its hidden units are not more than there are.
    """
    if bits == 32:
        # Twice the bytes everywhere: the smallest tile fits any GPU.
        tile = Tile(32, 16, 4, 1)
    elif tokens > 64 and not roomy:
        tile = _SMALL[kernel]
    else:
        padded_tokens = sum(parts(tokens))
        rows = [most for name, most in _LARGE if name == kernel]
        smallest = min(most for most in rows if most >= padded_tokens)
        tile = _LARGE[kernel, smallest]
    hidden_units = min(tile.hidden, padded_hidden(hidden))
    return dataclasses.replace(tile, hidden=hidden_units)


# For 16-bit numbers, by the most padded tokens that a row serves. Each has as many
# stages of loads as fit without spilling registers on compute capability 9.0.
# fmt: off
_LARGE: dict[tuple[Kernel, int], Tile] = {
    #                       BC   BD  warps stages
    ("forward",  64): Tile(128,  64, 4, 3),
    ("forward", 128): Tile(128,  64, 8, 3),
    ("forward", 208): Tile(128,  64, 8, 3),
    ("forward", 256): Tile(128,  32, 8, 3),
    ("backward",  64): Tile(128, 32, 4, 3),
    ("backward", 128): Tile(128, 64, 8, 2),
    ("backward", 208): Tile(128, 32, 8, 3),
    ("backward", 256): Tile(128, 32, 8, 2),
    ("weights",  64): Tile(64,  128, 4, 3),
    ("weights", 128): Tile(64,  128, 8, 3),
    ("weights", 208): Tile(64,  128, 8, 4),
    ("weights", 256): Tile(64,  128, 8, 4),
}
# fmt: on

# For GPUs whose programs have 99 KiB of shared memory.
_SMALL: dict[Kernel, Tile] = {
    "forward": Tile(64, 32, 4, 2),
    "backward": Tile(64, 32, 4, 1),
    "weights": Tile(32, 64, 8, 2),
}
