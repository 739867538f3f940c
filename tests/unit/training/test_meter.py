"""Means since the last reading, and the first step that was not finite."""

from __future__ import annotations

import pytest
import torch

from mlp_mixer.training.meter import Meter
from mlp_mixer.training.step import StepResult

CPU = torch.device("cpu")


def result(loss: float, right: float = 0.5, norm: float = 2.0) -> StepResult:
    return StepResult(torch.tensor(loss), torch.tensor(right), torch.tensor(norm))


def test_a_reading_is_the_mean_of_the_steps_since_the_last() -> None:
    meter = Meter(CPU)
    meter.add(result(1.0, right=0.25), 10, 0)
    meter.add(result(3.0, right=0.75), 10, 1)
    row, bad = meter.read()
    assert (row["loss"], row["train_top1"], row["grad_norm"]) == (2, 0.5, 2)
    assert bad is None
    meter.add(result(7.0), 10, 2)
    assert meter.read()[0]["loss"] == 7


def test_without_a_step_the_row_is_empty() -> None:
    assert Meter(CPU).read() == ({}, None)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_the_first_bad_step_is_named(value: float) -> None:
    meter = Meter(CPU)
    meter.add(result(1.0), 10, 4)
    meter.add(result(1.0, norm=value), 10, 5)
    meter.add(result(value), 10, 6)
    assert meter.read()[1] == 5
    meter.add(result(1.0), 10, 7)
    assert meter.read()[1] is None
