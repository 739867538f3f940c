"""How token-mixing units are ordered, paired and drawn, by properties that are exact."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from mlp_mixer.analysis import (
    draw_units,
    mean_frequency,
    order_units,
    to_png,
    token_unit_pictures,
)
from mlp_mixer.errors import UserError

SIDE = 8
ROWS, COLUMNS = np.mgrid[:SIDE, :SIDE]
CHECKERBOARD = (-1.0) ** (ROWS + COLUMNS)
CONSTANT = np.ones((SIDE, SIDE))
WHITE = (247, 247, 247)
BLUE = (5, 48, 97)
RED = (103, 0, 31)


def wave(cycles: int) -> np.ndarray:
    return np.cos(2 * np.pi * cycles * COLUMNS / SIDE)


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape)


def test_frequencies_of_pure_waves_are_exact() -> None:
    frequencies = mean_frequency(np.stack([CONSTANT, wave(1), wave(2), CHECKERBOARD]))
    np.testing.assert_allclose(frequencies, [0, 1 / 8, 2 / 8, np.sqrt(0.5)], atol=1e-12)


def test_frequency_ignores_scale_and_sign() -> None:
    unit = noise(1, 5, 7)
    tiny = -1e-200 * unit
    np.testing.assert_allclose(mean_frequency(unit), mean_frequency(tiny), rtol=1e-12)


def test_a_constant_offset_lowers_the_frequency() -> None:
    plain, raised = mean_frequency(np.stack([wave(2), wave(2) + 3]))
    assert raised < plain


def test_low_frequency_sorts_before_checkerboard() -> None:
    assert order_units(np.stack([CHECKERBOARD, wave(1)])).tolist() == [1, 0]


def test_a_unit_is_followed_by_its_negative() -> None:
    first = noise(6, SIDE, SIDE)
    units = np.concatenate([first, -2 * first[::-1]])
    order = order_units(units)
    assert sorted(order) == list(range(12))
    for a, b in order.reshape(6, 2):
        assert a + b == 11
    frequencies = mean_frequency(units)[order][::2]
    assert (np.diff(frequencies) >= 0).all()


def test_the_odd_unit_out_comes_last() -> None:
    units = np.stack([CHECKERBOARD, -wave(1), wave(1)])
    assert order_units(units).tolist() == [1, 2, 0]


def test_zero_unit_sorts_last_and_warns_of_nothing() -> None:
    units = np.stack([np.zeros((SIDE, SIDE)), CHECKERBOARD, CONSTANT])
    assert mean_frequency(units)[0] == np.inf
    assert order_units(units)[0] == 2
    assert order_units(np.zeros((3, 2, 2))).tolist() == [0, 1, 2]


def test_one_unit_and_no_unit() -> None:
    assert order_units(CHECKERBOARD[None]).tolist() == [0]
    assert order_units(np.zeros((0, 2, 2))).tolist() == []


def test_one_line_of_patches() -> None:
    units = np.array([[[1.0, -1, 1, -1]], [[1, 1, 1, 1]], [[1, 0, -1, 0]]])
    np.testing.assert_allclose(mean_frequency(units), [0.5, 0, 0.25], atol=1e-12)
    assert token_unit_pictures([units.reshape(3, 4)], (1, 4))[0].shape[2] == 3


def test_colours_and_layout() -> None:
    units = np.array([[[-2.0, 0], [2, 0]], [[0, 0], [0, 0]], [[0.5, 0], [0, 0]]])
    picture = draw_units(units, columns=2, scale=3, gap=1)
    assert picture.shape == (2 * 7 + 1, 2 * 7 + 1, 3)
    assert picture.dtype == np.uint8
    first = picture[1:7, 1:7]
    second = picture[1:7, 8:14]
    third = picture[8:14, 1:7]
    empty = picture[8:14, 8:14]
    assert (first[:3, :3] == BLUE).all()
    assert (first[3:, :3] == RED).all()
    assert (first[:, 3:] == WHITE).all()
    assert (second == WHITE).all(), "a unit of zeros is neutral everywhere"
    assert (third[:3, :3] == RED).all(), "each unit is scaled by its own size"
    gap = picture[0, 0]
    assert (empty == gap).all(), "an empty place looks like the gap"
    assert not (picture == gap).all()


def test_pictures_of_blocks() -> None:
    weights = [noise(24, 4).astype(np.float32), noise(3, 4).astype(np.float32)]
    large, small = token_unit_pictures(weights, (2, 2))
    assert large.shape == (2 * 68 + 4, 16 * 68 + 4, 3)
    assert small.shape == (72, 4 * 68 + 4, 3)
    (few,) = token_unit_pictures(weights[:1], (2, 2), most_units=2)
    np.testing.assert_array_equal(few[:, :-4], large[:72, :136])


@pytest.mark.parametrize("shape", [(3, 5), (3, 4, 1)])
def test_weights_must_fit_the_grid(shape: tuple[int, ...]) -> None:
    expected = r"do not fit a grid of 2 x 2 patches: expected \(hidden units, 4\)"
    with pytest.raises(UserError, match=expected):
        token_unit_pictures([np.ones(shape)], (2, 2))


def test_unfit_weights_are_refused() -> None:
    with pytest.raises(UserError, match="did the training diverge"):
        mean_frequency(np.full((1, 2, 2), np.nan))
    expected = r"expected units of shape \(N, H, W\), got \(2, 2\)"
    with pytest.raises(UserError, match=expected):
        order_units(np.ones((2, 2)))
    with pytest.raises(UserError, match="cannot draw 0 units"):
        draw_units(np.ones((0, 2, 2)), columns=1, scale=1, gap=0)
    with pytest.raises(UserError, match="columns=0"):
        draw_units(np.ones((1, 2, 2)), columns=0, scale=1, gap=0)


@pytest.mark.parametrize("shape", [(3, 5), (3, 5, 1), (3, 5, 3), (3, 5, 4)])
def test_png_round_trip(shape: tuple[int, ...]) -> None:
    image = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    back = np.asarray(Image.open(io.BytesIO(to_png(image))))
    np.testing.assert_array_equal(back.reshape(shape), image)


@pytest.mark.parametrize(
    "image",
    [np.zeros((2, 2)), np.zeros((2, 2, 5), np.uint8), np.zeros((0, 2), np.uint8)],
)
def test_png_refuses_what_is_no_image(image: np.ndarray) -> None:
    with pytest.raises(UserError, match="as PNG: expected uint8"):
        to_png(image)
