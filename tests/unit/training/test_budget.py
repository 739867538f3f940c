"""A run that is given minutes: how many epochs it takes, and that it changes nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import mlp_mixer as mm
from mlp_mixer.training import budget, prepare, train
from mlp_mixer.training.journal import read_journal


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """A machine on which a step, and the evaluation of an image, take known times."""
    times = {"step": 0.5, "image": 0.001}
    monkeypatch.setattr(budget, "_seconds_of_a_step", lambda run: times["step"])
    monkeypatch.setattr(budget, "_seconds_of_evaluating", lambda run: times["image"])
    monkeypatch.setattr(budget.time, "perf_counter", lambda: 1000.0)
    return times


def test_the_epochs_fill_the_time(clock: dict[str, float], tiny: Any) -> None:
    run = prepare(tiny(batch_size=100))
    images = len(run.train)
    assert run.val is not None
    assert run.source.test is not None
    # Of ten minutes 30 seconds are kept in reserve, and 20 are spent already.
    found = budget.within_minutes(run, 10, started=980.0)
    left = 570 - 20 - 0.001 * len(run.source.test)
    epoch = 0.5 * images / 100
    epochs = left / (epoch + 0.001 * len(run.val))
    if epochs > 40:
        epochs = (left - 40 * 0.001 * len(run.val)) / epoch
    assert found.config.train.epochs == pytest.approx(epochs, rel=1e-3)
    assert found.total_steps == pytest.approx(epochs * images / 100, rel=0.01)
    assert found.config.train.eval_every_epochs == pytest.approx(epochs / 40, abs=0.01)
    assert found.config.train.patience is None
    assert "10 minutes are about" in found.notes[-1]


def test_too_little_time_is_a_step_and_too_much_is_said(
    clock: dict[str, float], tiny: Any
) -> None:
    run = prepare(tiny())
    assert budget.within_minutes(run, 0.1, started=0.0).total_steps == 1
    clock["step"] = 1e-6
    found = budget.within_minutes(run, 10, started=1000.0)
    assert found.config.train.epochs == run.config.train.most_epochs
    assert "more would not help" in found.notes[-1]


def test_the_trial_leaves_the_weights_and_the_generator_alone(tiny: Any) -> None:
    run = prepare(tiny())
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    generator = torch.get_rng_state()
    found = budget.within_minutes(run, 1, started=0.0)
    assert torch.equal(generator, torch.get_rng_state())
    for name, value in found.model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_a_run_in_minutes_is_that_run_in_epochs_and_resumes(
    tmp_path: Path, tiny: Any, digests: Any, crash: type[Exception]
) -> None:
    """The number that was found is in config.json, and a resumed run takes it."""
    settings = tiny(batch_size=256)
    out = tmp_path / "minutes"

    def stop(row: dict[str, Any]) -> None:
        if row["kind"] == "train" and row["step"] >= 4:
            raise crash

    with pytest.raises(crash):
        train(settings, out, minutes=0.08, report=stop)
    record = json.loads((out / "config.json").read_text())
    epochs = record["config"]["train"]["epochs"]
    assert epochs > 0.5
    train(settings, out, minutes=0.08, resume=True)
    whole = tmp_path / "epochs"
    mm.train(out / "config.json", whole)
    ours, theirs = digests(out), digests(whole)
    for name in ("best.safetensors", "last.safetensors"):
        assert ours[name] == theirs[name]
    assert read_journal(out)[-1]["epoch"] == pytest.approx(epochs, abs=0.3)
