"""Intervals of accuracies: against SciPy, by their coverage, and in words."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from mlp_mixer.intervals import (
    accuracy,
    decimals,
    plain_accuracy,
    short_accuracy,
    wilson_interval,
)


@pytest.mark.parametrize("n", [1, 9, 24, 359, 10_000])
def test_the_interval_is_scipys(n: int) -> None:
    for right in {0, 1, n // 3, n // 2, n - 1, n}:
        expected = binomtest(right, n).proportion_ci(method="wilson")
        found = wilson_interval(right, n)
        np.testing.assert_allclose(found, (expected.low, expected.high), atol=1e-9)


def test_the_ends_are_exact_and_nothing_says_nothing() -> None:
    assert wilson_interval(0, 9)[0] == 0.0
    assert wilson_interval(9, 9)[1] == 1.0
    assert wilson_interval(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize(("share", "n"), [(0.5, 24), (0.9, 24), (0.98, 60), (0.7, 400)])
def test_nineteen_of_twenty_intervals_hold_the_truth(share: float, n: int) -> None:
    rng = np.random.default_rng(0)
    held = 0
    for right in rng.binomial(n, share, size=4000):
        low, high = wilson_interval(right, n)
        held += low <= share <= high
    # An interval of p plus or minus two deviations holds 0.98 of 60 in 70 % of cases.
    assert 0.92 <= held / 4000 <= 0.985


@pytest.mark.parametrize(
    ("right", "n", "places", "text"),
    [
        (9, 9, 0, "100 % (9 of 9; 95 % interval 70 to 100 %)"),
        (14, 24, 0, "58 % (14 of 24; 95 % interval 39 to 76 %)"),
        (567, 1000, 1, "56.7 % (567 of 1,000; 95 % interval 53.6 to 59.7 %)"),
        (8675, 10_000, 1, "86.8 % (8,675 of 10,000; 95 % interval 86.1 to 87.4 %)"),
        (38_220, 50_000, 2, "76.44 % (38,220 of 50,000; 95 % interval 76.07 to 76.81 %)"),
    ],
)  # fmt: skip
def test_an_accuracy_has_the_decimals_that_n_carries(
    right: int, n: int, places: int, text: str
) -> None:
    assert decimals(right / n, n) == places
    assert accuracy(right / n, n) == text
    # The short forms say the same numbers.
    assert short_accuracy(right / n, n).split(" %")[0] == text.split(" %")[0]
    assert plain_accuracy(right / n, n) == f"{text.split(' %')[0]} %"


def test_the_short_form_and_no_images() -> None:
    assert short_accuracy(14 / 24, 24) == "58 % [39, 76]"
    assert short_accuracy(0.0, 0) == "-"
    assert accuracy(0.0, 0) == "not measured (no images)"
