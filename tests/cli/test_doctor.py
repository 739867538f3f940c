"""`mlp-mixer doctor` says what a maintainer would ask for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from mlp_mixer.cli import run


def call(*arguments: object) -> int:
    """Run the command and return its exit code."""
    return run([str(argument) for argument in arguments])


def test_it_names_versions_devices_caches_and_switches(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cache = tmp_path / "not" / "yet"
    monkeypatch.setenv("MLP_MIXER_CACHE", str(cache))
    monkeypatch.delenv("MLP_MIXER_OFFLINE", raising=False)
    assert call("doctor", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["libraries"]["torch"] == torch.__version__.split("+")[0]
    assert (
        facts["libraries"]["datasets"] == "not installed"
        or facts["libraries"]["datasets"][0].isdigit()
    )
    assert str(torch.get_num_threads()) in facts["devices"]["cpu"]
    assert facts["caches"]["mlp_mixer"].startswith(f"{cache} (0.00 GB")
    assert facts["switches"]["MLP_MIXER_OFFLINE"] == "not set"
    (cache / "file").parent.mkdir(parents=True)
    (cache / "file").write_bytes(bytes(20_000_000))
    assert call("doctor") == 0
    assert "(0.02 GB" in capsys.readouterr().out
