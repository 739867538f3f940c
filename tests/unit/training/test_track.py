"""Trackers get the numbers of the journal, and their errors are one sentence."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mlp_mixer import UserError
from mlp_mixer.config import override
from mlp_mixer.recipes import get_recipe
from mlp_mixer.training import train
from mlp_mixer.training.journal import read_journal
from mlp_mixer.training.track import tracking

CONFIG = override(
    get_recipe("digits"),
    [
        "train.epochs=2",
        "model.hidden_dim=8",
        "train.log_every_steps=5",
        "train.save_every_steps=10",
        "train.device=cpu",
    ],
)


def measured(out: Path, kind: str, name: str) -> dict[int, float]:
    return {row["step"]: row[name] for row in read_journal(out) if row["kind"] == kind}


def test_tensorboard_shows_the_journal_also_after_a_resume(
    tmp_path: Path, crash: type[Exception]
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def until_15(row: dict[str, Any]) -> None:
        follow(row)
        if row.get("step", 0) >= 15:
            raise crash

    with tracking("tensorboard", CONFIG, tmp_path) as follow, pytest.raises(crash):
        train(CONFIG, tmp_path, report=until_15)
    with tracking("tensorboard", CONFIG, tmp_path) as follow:
        train(CONFIG, tmp_path, resume=True, report=follow)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    for tag, kind, name in (
        ("train/loss", "train", "loss"),
        ("train/top1", "train", "train_top1"),
        ("val/top1", "eval", "top1"),
    ):
        shown = {event.step: event.value for event in events.Scalars(tag)}
        assert shown == pytest.approx(measured(tmp_path, kind, name)), tag
    losses = measured(tmp_path, "train", "loss")
    assert len(events.Scalars("train/loss")) == len(losses), "a step is shown twice"


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_wandb_and_trackio_are_called_alike(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, Any]] = []
    module = SimpleNamespace(
        init=lambda **settings: calls.append(("init", settings)),
        log=lambda numbers, step: calls.append(("log", (step, numbers))),
        finish=lambda: calls.append(("finish", None)),
    )
    monkeypatch.setitem(sys.modules, name, module)  # type: ignore[arg-type]
    with tracking(name, CONFIG, tmp_path / "mine") as follow:
        train(CONFIG, tmp_path / "mine", report=follow)
    assert calls[0][0] == "init"
    assert calls[-1] == ("finish", None)
    settings = calls[0][1]
    assert (settings["project"], settings["name"]) == ("mlp-mixer", "mine")
    assert settings["config"]["model"]["hidden_dim"] == 8
    losses = {}
    for call, value in calls:
        if call == "log" and "train/loss" in value[1]:
            step, numbers = value
            losses[step] = numbers["train/loss"]
    assert losses == measured(tmp_path / "mine", "train", "loss")


def test_a_tracker_that_is_unknown_absent_or_broken_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def begin(name: str) -> None:
        with tracking(name, CONFIG, tmp_path):
            pytest.fail("it began")

    with pytest.raises(UserError, match="did you mean 'wandb'"):
        begin("wandbb")
    monkeypatch.setitem(sys.modules, "wandb", None)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="pip install wandb"):
        begin("wandb")

    def refuse(**settings: Any) -> None:
        raise RuntimeError("no API key")

    module: Any = SimpleNamespace(init=refuse)
    monkeypatch.setitem(sys.modules, "wandb", module)
    with pytest.raises(UserError, match="no API key"):
        begin("wandb")
