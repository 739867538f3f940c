"""Calibration: against a definition in plain loops, and temperatures that are known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlp_mixer.evaluation.calibration import (
    BINS,
    calibration,
    fit_temperature,
    tempered,
)


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def is_in_bin(confidence: float, number: int) -> bool:
    if confidence == 1:
        return number == BINS - 1
    return number / BINS <= confidence < (number + 1) / BINS


@given(st.integers(1, 60), st.integers(2, 5), st.integers(0, 10**6))
def test_the_error_by_its_definition(n: int, classes: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    probabilities = softmax(rng.normal(0, 3, (n, classes)))
    labels = rng.integers(0, classes, n)
    expected = 0.0
    for number in range(BINS):
        inside = []
        for row, label in zip(probabilities, labels, strict=True):
            if is_in_bin(row.max(), number):
                inside.append((row.max(), row.argmax() == label))
        if inside:
            sure, right = np.array(inside, float).mean(axis=0)
            expected += len(inside) / n * abs(right - sure)
    found = calibration(probabilities, labels)
    assert found.error == pytest.approx(expected, abs=1e-9)
    assert sum(count for _, _, count in found.bins) == n


def test_answers_drawn_from_their_own_probabilities_are_calibrated() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (20_000, 4))
    labels = np.array([rng.choice(4, p=row) for row in softmax(logits)])
    assert calibration(softmax(logits), labels).error < 0.02
    # A network whose logits are too large by that factor.
    for factor in (0.5, 1.0, 3.0):
        sure = softmax(logits * factor)
        temperature = fit_temperature(sure, labels)
        assert temperature == pytest.approx(factor, rel=0.05)
        cooled = tempered(sure, temperature)
        assert calibration(cooled, labels).error < 0.02
    halved = tempered(softmax(logits), 2.0)
    np.testing.assert_allclose(halved, softmax(logits / 2), atol=1e-12)


def test_sure_and_always_right_or_wrong() -> None:
    ones = np.eye(3)
    right = np.array([0, 1, 2])
    wrong = np.array([1, 2, 0])
    assert calibration(ones, right).error == 0
    assert calibration(ones, wrong).error == 1
    assert 0.05 <= fit_temperature(ones, right) <= 20
    assert fit_temperature(ones, wrong) == pytest.approx(20, rel=0.01)
