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


class FakeMlflow:
    """Keeps what MLflow is told, and refuses what MLflow refuses."""

    def __init__(self, refuse: str = "") -> None:
        self.refuse = refuse
        self.experiment: str | None = None
        self.run: str | None = None
        self.ends: list[str] = []
        self.parameters: dict[str, Any] = {}
        self.rows: dict[int, dict[str, float]] = {}

    def set_experiment(self, name: str) -> None:
        self.experiment = name

    def start_run(self, run_name: str) -> None:
        assert self.run is None, "a run is active"
        self.run = run_name

    def log_params(self, parameters: dict[str, Any]) -> None:
        if self.refuse:
            raise RuntimeError(self.refuse)
        assert 0 < len(parameters) <= 100
        assert not any(isinstance(value, dict) for value in parameters.values())
        self.parameters |= parameters

    def log_metrics(self, numbers: dict[str, float], step: int) -> None:
        self.rows.setdefault(step, {}).update(numbers)

    def end_run(self, status: str) -> None:
        self.run = None
        self.ends.append(status)


def test_mlflow_gets_settings_and_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeMlflow()
    monkeypatch.setitem(sys.modules, "mlflow", fake)  # type: ignore[arg-type]
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    monkeypatch.delenv("MLFLOW_EXPERIMENT_ID", raising=False)
    with tracking("mlflow", CONFIG, tmp_path / "mine") as follow:
        assert fake.run == "mine"
        train(CONFIG, tmp_path / "mine", report=follow)
    assert (fake.experiment, fake.ends) == ("mlp-mixer", ["FINISHED"])
    assert fake.parameters["model.hidden_dim"] == 8
    assert len(fake.parameters) > 100, "they came in one call: the bound is not tested"
    losses = {
        step: row["train/loss"]
        for step, row in fake.rows.items()
        if "train/loss" in row
    }
    assert losses == measured(tmp_path / "mine", "train", "loss")

    with pytest.raises(ZeroDivisionError), tracking("mlflow", CONFIG, tmp_path):
        raise ZeroDivisionError
    assert fake.ends[-1] == "FAILED"
    # Whoever names an experiment means it.
    fake.experiment = None
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "theirs")
    with tracking("mlflow", CONFIG, tmp_path):
        assert fake.experiment is None
    # A server that refuses leaves no run open in this process.
    fake.refuse = "403"
    with pytest.raises(UserError, match="403"), tracking("mlflow", CONFIG, tmp_path):
        pytest.fail("it began")
    assert fake.run is None


@pytest.mark.filterwarnings("ignore")  # MLflow's own
def test_mlflow_itself_keeps_the_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    mlflow.set_tracking_uri((tmp_path / "store").as_uri())
    out = tmp_path / "mine"
    with tracking("mlflow", CONFIG, out) as follow:
        train(CONFIG, out, report=follow)
    assert mlflow.active_run() is None
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("mlp-mixer")
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.run_name, run.info.status) == ("mine", "FINISHED")
    assert run.data.params["model.hidden_dim"] == "8"
    for tag, kind, name in (
        ("train/loss", "train", "loss"),
        ("val/top1", "eval", "top1"),
    ):
        history = client.get_metric_history(run.info.run_id, tag)
        kept = {entry.step: entry.value for entry in history}
        assert kept == pytest.approx(measured(out, kind, name)), tag


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
