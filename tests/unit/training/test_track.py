"""Trackers get the numbers of the journal, and nothing of theirs can end in a
traceback.
"""

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


def test_tensorboard_shows_the_journal_also_after_a_resume(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    class CrashError(Exception):
        pass

    def until(step: int, follow: Any) -> Any:
        def report(row: dict[str, Any]) -> None:
            follow(row)
            if row.get("step", 0) >= step:
                raise CrashError

        return report

    with tracking("tensorboard", CONFIG, tmp_path) as follow, pytest.raises(CrashError):
        train(CONFIG, tmp_path, report=until(15, follow))
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
    assert len(events.Scalars("train/loss")) == len(
        measured(tmp_path, "train", "loss")
    ), "a step is shown twice"


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
    assert [call for call, _ in calls][:1] + [call for call, _ in calls][-1:] == [
        "init",
        "finish",
    ]
    settings = calls[0][1]
    assert (settings["project"], settings["name"]) == ("mlp-mixer", "mine")
    assert settings["config"]["model"]["hidden_dim"] == 8
    logged = [value for call, value in calls if call == "log"]
    assert {
        step: numbers["train/loss"]
        for step, numbers in logged
        if "train/loss" in numbers
    } == measured(tmp_path / "mine", "train", "loss")


def test_a_tracker_that_is_unknown_absent_or_broken_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        pytest.raises(UserError, match="did you mean 'wandb'"),
        tracking("wandbb", CONFIG, tmp_path),
    ):
        pass
    monkeypatch.setitem(sys.modules, "wandb", None)  # type: ignore[arg-type]
    with (
        pytest.raises(UserError, match="pip install wandb"),
        tracking("wandb", CONFIG, tmp_path),
    ):
        pass

    def refuse(**settings: Any) -> None:
        raise RuntimeError("no API key")

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=refuse))  # type: ignore[arg-type]
    with (
        pytest.raises(UserError, match="no API key"),
        tracking("wandb", CONFIG, tmp_path),
    ):
        pass
