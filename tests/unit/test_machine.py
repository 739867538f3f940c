"""Facts about the machine are facts."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from mlp_mixer import machine


def test_the_environment_says_where_a_run_took_place() -> None:
    record = machine.environment(torch.device("cpu"))
    assert record["torch"] == torch.__version__
    assert record["threads"] == torch.get_num_threads()
    assert record["device"] == f"cpu ({machine.cpu_name()})"
    assert json.loads(json.dumps(record)) == record


def test_the_processor_has_a_name() -> None:
    assert machine.cpu_name()


def test_without_git_there_is_no_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*arguments: Any, **options: Any) -> Any:
        raise FileNotFoundError("git")

    monkeypatch.setattr(subprocess, "run", absent)
    monkeypatch.delenv("MLP_MIXER_COMMIT", raising=False)
    assert machine.commit() is None


@pytest.mark.parametrize(
    ("said", "found"), [("abc123", "abc123"), (" abc123\n", "abc123"), ("", None)]
)
def test_without_a_checkout_the_environment_names_the_commit(
    said: str, found: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLP_MIXER_COMMIT", said)
    # A folder that no repository holds.
    monkeypatch.setattr(machine, "__file__", str(tmp_path / "machine.py"))
    assert machine.commit() == found
    assert machine.environment(torch.device("cpu"))["commit"] == found


def test_a_checkout_knows_better_than_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b.c"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "first"], check=True)
    monkeypatch.setenv("MLP_MIXER_COMMIT", "of_another")
    monkeypatch.setattr(machine, "__file__", str(tmp_path / "machine.py"))
    found = machine.commit()
    assert found is not None
    assert len(found) == 12
