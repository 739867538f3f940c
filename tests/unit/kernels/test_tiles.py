"""How tokens and hidden units are cut and padded, and which tile a kernel gets."""

from __future__ import annotations

import pytest

from mlp_mixer.kernels.tiles import (
    MOST_TOKENS,
    Tile,
    padded,
    padded_hidden,
    parts,
    tile_for,
)


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        (1, (16,)),
        (49, (64,)),
        (64, (64,)),
        (100, (64, 32, 16)),
        (196, (128, 64, 16)),
        (256, (256,)),
    ],
)
def test_tokens_are_cut_with_little_to_spare(
    tokens: int, expected: tuple[int, ...]
) -> None:
    assert parts(tokens) == expected


def test_every_number_of_tokens_fits_into_at_most_three_parts() -> None:
    for tokens in range(1, MOST_TOKENS + 1):
        cut = parts(tokens)
        assert tokens <= sum(cut) <= padded(tokens)
        assert len(cut) <= 3
        for part in cut:
            assert part >= 16
            assert part & (part - 1) == 0, "not a power of two"


def test_hidden_units_are_padded_to_those_of_every_tile() -> None:
    numbers = (1, 24, 64, 129, 384)
    assert [padded_hidden(n) for n in numbers] == [16, 32, 64, 256, 384]


def test_a_tile_is_the_smallest_row_that_holds_the_tokens() -> None:
    # 196 tokens are padded to 208, and 225 to 256.
    assert tile_for("forward", 196, 384, 16, roomy=True) == Tile(128, 64, 8, 3)
    assert tile_for("forward", 225, 384, 16, roomy=True) == Tile(128, 32, 8, 3)
    assert tile_for("backward", 49, 384, 16, roomy=True) == Tile(128, 32, 4, 3)


def test_a_small_gpu_and_wide_numbers_get_small_tiles() -> None:
    assert tile_for("forward", 196, 384, 16, roomy=False) == Tile(64, 32, 4, 2)
    assert tile_for("forward", 49, 384, 16, roomy=False) == Tile(128, 64, 4, 3)
    for roomy in (False, True):
        assert tile_for("forward", 196, 384, 32, roomy=roomy) == Tile(32, 16, 4, 1)


def test_a_tile_has_no_more_hidden_units_than_there_are() -> None:
    assert tile_for("weights", 49, 24, 16, roomy=True) == Tile(64, 32, 4, 3)
