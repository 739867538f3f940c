"""Which lowest score is meant, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from mlp_mixer import UserError
from mlp_mixer.weights.scores import (
    MinScore,
    chosen_min_score,
    resolve_min_score,
    score_kind,
)

CHOSEN = {"score": 0.625, "accuracy": 0.95, "coverage": 0.7, "n": 180}


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (None, None),
        (0, 0.0),
        (1.0, 1.0),
        ("0.25", 0.25),
        ("1e-3", 1e-3),
        ("auto", 0.625),
    ],
)
def test_what_is_meant(wanted: Any, expected: float | None) -> None:
    assert resolve_min_score(wanted, {"min_score": CHOSEN}) == expected
    assert chosen_min_score({"min_score": CHOSEN}) == MinScore(0.625, 0.95, 0.7, 180)
    assert chosen_min_score({}) is None


@pytest.mark.parametrize("wanted", [-0.1, 1.01, "60", "60 %", "", "Auto", "nan", "inf"])
def test_no_score(wanted: Any) -> None:
    with pytest.raises(UserError, match="expected a number from 0 to 1, or 'auto'"):
        resolve_min_score(wanted, {"min_score": CHOSEN})


@pytest.mark.parametrize(
    ("provenance", "reason"),
    [
        ({}, "not chosen on validation images of this package"),
        ({"measured": {"step": 9, "epoch": 1.0}}, "not chosen on validation images"),
        ({"measured": {"top1": 1.0, "n": 99}}, "it has 99 validation images, and 100"),
        ({"measured": {"top1": 0.5, "n": 1440}}, "on its 1,440 validation images no"),
    ],
)
def test_why_there_is_none(provenance: dict[str, Any], reason: str) -> None:
    with pytest.raises(UserError, match=reason) as error:
        resolve_min_score("auto", provenance)
    assert "give a number from 0 to 1 instead" in str(error.value)


def test_a_broken_record_is_a_sentence() -> None:
    with pytest.raises(UserError, match="score"):
        resolve_min_score("auto", {"min_score": {"score": "high"}})


def test_an_unknown_kind_of_head() -> None:
    assert score_kind({}) == "softmax"
    with pytest.raises(UserError, match="kind of head 'softmux'"):
        score_kind({"head": "softmux"})
