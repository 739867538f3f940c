"""Ticks, numbers, thinned curves, and where a chart puts its points."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mlp_mixer.report.chart import (
    Chart,
    Series,
    line_chart,
    nice_ticks,
    number,
    percent,
    thin,
)
from mlp_mixer.report.page import accuracy_chart

NAN = math.nan


@pytest.mark.parametrize(
    ("low", "high", "cover", "expected"),
    [
        (0, 1, False, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0, 0.3, False, [0, 0.1, 0.2, 0.3]),
        (0.61, 0.986, True, [0.6, 0.7, 0.8, 0.9, 1]),
        (0, 2.31, True, [0, 0.5, 1, 1.5, 2, 2.5]),
        (0, 1320, False, [0, 500, 1000]),
        (-3e-5, 3e-5, True, [-4e-5, -2e-5, 0, 2e-5, 4e-5]),
        (5, 5, True, [2, 4, 6, 8]),
        (0, 0, True, [-0.5, 0, 0.5]),
    ],
)
def test_nice_ticks(
    low: float, high: float, cover: bool, expected: list[float]
) -> None:
    assert nice_ticks(low, high, cover=cover) == expected


def test_ticks_are_few_round_and_inside_or_around_any_range() -> None:
    random = np.random.default_rng(0)
    for _ in range(300):
        low = random.normal() * 10.0 ** random.integers(-8, 8)
        high = low + abs(random.normal()) * 10.0 ** random.integers(-8, 8)
        if high - low < 1e-9 * abs(low):
            continue
        around = nice_ticks(low, high, cover=True)
        inside = nice_ticks(low, high)
        slack = (around[1] - around[0]) * 0.02
        assert 2 <= len(around) <= 6
        assert around[0] <= low + slack
        assert around[-1] >= high - slack
        assert all(low - slack <= tick <= high + slack for tick in inside)
        assert len(inside) <= 6


def test_whole_ticks_have_no_fractions() -> None:
    assert nice_ticks(0, 1, whole=True) == [0, 1]
    assert nice_ticks(0, 3, whole=True) == [0, 1, 2, 3]


def test_numbers_read_well() -> None:
    for value, text in (
        (0, "0"),
        (1e-5, "1e-5"),
        (0.0305, "0.0305"),
        (1000, "1000"),
        (12000, "12k"),
        (2.5e6, "2.5M"),
        (1e20, "1e20"),
    ):
        assert number(value) == text
    for fraction, text in ((0, "0%"), (0.5, "50%"), (0.98614, "98.61%"), (1, "100%")):
        assert percent(fraction) == text


def test_thin_keeps_order_ends_spikes_and_gaps() -> None:
    points = [(float(x), 1.0) for x in range(100_000)]
    points[5000] = (5000.0, 99.0)
    points[20_000:60_000] = [(float(x), NAN) for x in range(20_000, 60_000)]
    kept = thin(points)
    assert len(kept) <= 400
    assert kept[0] == points[0]
    assert kept[-1] == points[-1]
    assert [x for x, _ in kept] == sorted(x for x, _ in kept)
    assert (5000.0, 99.0) in kept
    assert any(math.isnan(y) for _, y in kept)
    assert thin(points[:400]) == points[:400]


def test_chart_places_points_on_its_axes() -> None:
    curve = Series("training", [(0, 2), (50, 1), (100, 0)], "last")
    chart = line_chart("Loss", [curve])
    (line,) = chart.lines
    assert line.path == "M48 24h0L197 110L346 196"
    assert chart.y_ticks[0] == (196, "0")
    assert chart.y_ticks[-1] == (24, "2")
    assert chart.x_ticks[-1] == (346, "100")
    assert line.note is not None
    assert (line.note.x, line.note.y) == (346, 196)
    assert (line.note.text, line.note.anchor) == ("0", "end")
    assert chart.summary == "training: 2 to 0."


def test_chart_breaks_at_nan_and_says_so() -> None:
    points = [(1, 2), (2, 1), (3, NAN), (4, math.inf), (5, 1)]
    chart = line_chart("Loss", [Series("training", points)])
    assert chart.lines[0].path.count("M") == 2
    assert "inf" not in chart.lines[0].path
    assert chart.summary == "training: 2 to 1 (2 not finite)."


def accuracy(points: list[tuple[float, float]]) -> Chart:
    series = Series("val", points, "highest", dots=True)
    return line_chart("Top-1", [series], percent, from_zero=False, limits=(0, 1))


def test_a_chart_of_one_point_has_a_dot() -> None:
    one = accuracy([(7, 1.0)])
    assert one.lines[0].dots
    assert one.y_ticks[-1][1] == "100%"
    assert one.summary == "val: 100%, highest 100% at step 7."


def test_a_chart_without_a_finite_value_has_no_lines() -> None:
    for nothing in ([], [Series("val", [])], [Series("val", [(1, NAN)])]):
        assert line_chart("Top-1", nothing).lines == ()
    diverged = Series("training", [(1, NAN)])
    mixed = line_chart("Loss", [diverged, Series("val", [(1, 3)])])
    assert mixed.summary == "training: no finite value among 1; val: 3."


def test_accuracies_beyond_the_limits_are_still_drawn() -> None:
    assert len(accuracy([(1, 97.0), (2, 98.0)]).y_ticks) >= 2


@pytest.mark.parametrize("low", [0.9493, 0.0021, 0.5])
@pytest.mark.parametrize("range_", [0.002, 0.02, 0.3])
def test_no_two_ticks_of_accuracy_read_alike(low: float, range_: float) -> None:
    """However few decimals the images carry: 145 of them carry none."""
    points = [(0.0, low), (10.0, low + range_)]
    chart = accuracy_chart("Top-1", [Series("val", points)], images=145)
    labels = [label for _, label in chart.y_ticks]
    assert len(set(labels)) == len(labels) >= 3
