"""Facts about the machine are facts."""

from __future__ import annotations

import json
import subprocess
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
    assert machine.commit() is None
