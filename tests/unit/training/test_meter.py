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


def test_the_share_of_clipped_steps() -> None:
    meter = Meter(CPU, clip_norm=2.0)
    for step, norm in enumerate([0.5, 1.9, 2.0, 2.1, 9.0]):
        meter.add(result(1.0, norm=norm), 10, step)
    assert meter.read()[0]["clipped"] == 0.4
    meter.add(result(1.0, norm=1.0), 10, 5)
    assert meter.read()[0]["clipped"] == 0
    nothing_clips = Meter(CPU)
    nothing_clips.add(result(1.0, norm=9.0), 10, 0)
    assert "clipped" not in nothing_clips.read()[0]


def test_norms_of_blocks_are_means_over_the_steps_that_have_them() -> None:
    meter = Meter(CPU)
    for step, norm in enumerate([1e-6, None, 3e-6]):
        measured = None if norm is None else {"stem": torch.tensor(norm)}
        meter.add(result(1.0)._replace(block_norms=measured), 10, step)
    assert meter.read()[0]["block_grad_norms"] == {"stem": 2e-6}
    meter.add(result(1.0), 10, 3)
    assert "block_grad_norms" not in meter.read()[0]


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
