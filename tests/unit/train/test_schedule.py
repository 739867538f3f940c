"""The learning rate, step by step, against the formulas."""

from __future__ import annotations

import math

import pytest

from mlp_mixer.train.config import ScheduleChoice
from mlp_mixer.train.schedule import lr_factor


def factors(decay: str, *, total: int = 100, warmup: int = 10, final: float = 0.0) -> list[float]:
    schedule = ScheduleChoice(decay=decay, final=final)  # type: ignore[arg-type]
    return [lr_factor(step, total, warmup, schedule) for step in range(total)]


@pytest.mark.parametrize("decay", ["cosine", "linear", "constant"])
def test_warmup_is_linear_and_reaches_the_peak(decay: str) -> None:
    values = factors(decay)
    assert values[:10] == pytest.approx([(step + 1) / 11 for step in range(10)])
    assert values[10] == 1
    assert max(values) == 1


def test_cosine_and_linear_follow_their_formulas() -> None:
    progress = [(step - 10) / 90 for step in range(10, 100)]
    assert factors("cosine")[10:] == pytest.approx([0.5 * (1 + math.cos(math.pi * p)) for p in progress])
    assert factors("linear")[10:] == pytest.approx([1 - p for p in progress])
    assert set(factors("constant")[10:]) == {1.0}


@pytest.mark.parametrize("decay", ["cosine", "linear"])
def test_the_decay_stays_above_its_final_share(decay: str) -> None:
    values = factors(decay, final=0.1)
    assert values[10:] == sorted(values[10:], reverse=True)
    assert 0.1 < values[-1] < 0.12


def test_edges() -> None:
    assert lr_factor(0, 1, 0, ScheduleChoice()) == 1  # one step, no warm-up
    assert 0 < lr_factor(4, 5, 50, ScheduleChoice()) < 1  # a warm-up longer than the run
