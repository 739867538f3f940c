"""The example of a sweep: it prunes, and a killed one ends as an unbroken one."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from mlp_mixer import UserError
from mlp_mixer.training.journal import read_journal

optuna = pytest.importorskip("optuna")

EXAMPLE = Path(__file__).parents[1] / "examples" / "optuna_sweep.py"
# SQLAlchemy's and Optuna's own notices.
pytestmark = pytest.mark.filterwarnings(
    "ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning"
)


@pytest.fixture
def sweep(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Gives the example, in which only the first trial is sure of its end."""
    spec = importlib.util.spec_from_file_location("optuna_sweep", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    monkeypatch.setattr(loaded, "FULL_TRIALS", 1)
    return loaded


def command(out: Path, *more: str) -> list[str]:
    small = [
        "model.num_blocks=1",
        "model.hidden_dim=16",
        "train.epochs=3",
        "train.eval_every_epochs=1",
        "train.device=cpu",
        "train.threads=1",
    ]
    words = ["digits", str(out), "--trials", "4", *more]
    for setting in small:
        words += ["--set", setting]
    for search in ("optim.lr=log:1e-4..0.3", "train.batch_size=64,128"):
        words += ["--search", search]
    return words


def trials(out: Path) -> list[tuple[Any, ...]]:
    """What the study on the disk says of each trial."""
    study = optuna.load_study(
        study_name="sweep", storage=f"sqlite:///{out / 'study.db'}"
    )
    return [
        (trial.state.name, trial.params, trial.value, trial.intermediate_values)
        for trial in study.trials
    ]


def test_a_killed_sweep_ends_as_an_unbroken_one(
    sweep: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = tmp_path / "whole"
    best, validation, test = sweep.main(command(whole))
    expected = trials(whole)
    states = [state for state, *_ in expected]
    assert len(states) == 4
    assert states[0] == "COMPLETE"
    assert "PRUNED" in states
    # A pruned run has ended early, and the best of the others was chosen.
    ended = whole / f"trial-{states.index('PRUNED'):03d}"
    evaluations = [row for row in read_journal(ended) if row["kind"] == "eval"]
    assert len(evaluations) < 3
    values = [value for state, _, value, _ in expected if state == "COMPLETE"]
    assert validation == max(values)
    assert (best / "best.safetensors").is_file()
    assert 0 < test <= 1

    killed = tmp_path / "killed"
    honest = sweep.reporter

    def kill(study: Any, trial: Any, every: float) -> Any:
        report = honest(study, trial, every)

        def killer(row: dict[str, Any]) -> None:
            report(row)
            if trial.number == 1 and row["kind"] == "train":
                raise KeyboardInterrupt

        return killer

    with monkeypatch.context() as patch:
        patch.setattr(sweep, "reporter", kill)
        with pytest.raises(KeyboardInterrupt):
            sweep.main(command(killed))
    assert [state for state, *_ in trials(killed)] == ["COMPLETE", "RUNNING"]
    again = sweep.main(command(killed))
    assert trials(killed) == expected
    assert again == (killed / best.name, validation, test)

    # A sweep is one thing: other settings are another folder.
    with pytest.raises(UserError, match="was begun with"):
        sweep.main(command(killed, "--set", "model.dropout=0.1"))
    # More trials go on with it.
    sweep.main(command(killed, "--trials", "5"))
    assert trials(killed)[:4] == expected


@pytest.mark.parametrize(
    "search", ["optim.lr", "optim.lr=", "optim.lr=3", "optim.lr=1..x", "a=log:0..1"]
)
def test_searches_that_cannot_be_read(
    sweep: ModuleType, search: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="cannot read the search"):
        sweep.main(["digits", str(tmp_path / "out"), "--search", search])
    assert not (tmp_path / "out").exists()


def test_a_field_that_does_not_exist_ends_the_sweep(
    sweep: ModuleType, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="unknown field 'optim.rate'"):
        sweep.main(["digits", str(tmp_path), "--search", "optim.rate=0..1"])
