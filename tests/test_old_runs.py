"""What 0.1.0 (commit c816297) wrote can still be used: a run of it, and its saved state.

Written by `mlp-mixer train digits --out run_0_1_0 --set model.num_blocks=1 --set
model.hidden_dim=16 --set model.tokens_mlp_dim=8 --set model.channels_mlp_dim=32 --set
train.epochs=2 --set train.device=cpu --set train.threads=1 --set
train.save_every_steps=10 --set train.eval_every_epochs=1`; the state of the last of its
41 steps is left out, so that there is something to resume.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

import mlp_mixer as mm

RUN = Path(__file__).parent / "data" / "run_0_1_0"
# Sums in another order on another processor, over one training step.
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return Path(shutil.copytree(RUN, tmp_path / "run"))


def test_an_old_run_evaluates_as_it_did(run: Path) -> None:
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    told = [row["top1"] for row in rows if row["kind"] == "eval"][-1]
    validation = mm.evaluate(run, "digits")
    assert validation.n == 359
    assert validation.split == "test (20 % held out by seed 0)"
    # The journal is about other images; the two must only agree in kind.
    assert abs(validation.top1 - told) < 0.15


def test_an_old_run_predicts(run: Path) -> None:
    picture = mm.open_dataset("digits").test.image(0)
    (answer,) = mm.predict(run, picture)
    assert isinstance(answer, mm.Prediction)
    assert answer.pred_class in "0123456789"


def test_an_old_state_is_resumed(run: Path) -> None:
    expected = mm.load(run / "last.safetensors").model.state_dict()
    for name in ("best.safetensors", "last.safetensors"):
        (run / name).unlink()
    notes: list[str] = []

    def report(row: dict[str, object]) -> None:
        if row["kind"] == "note":
            notes.append(str(row["text"]))

    best = mm.train(run / "config.json", run, resume=True, report=report)
    assert best["step"] == 41
    assert not any("anew" in note for note in notes), notes
    resumed = mm.load(run / "last.safetensors").model.state_dict()
    for name, tensor in expected.items():
        torch.testing.assert_close(resumed[name], tensor, **CLOSE)


def test_an_old_configuration_trains_anew(run: Path, tmp_path: Path) -> None:
    best = mm.train(
        run / "config.json", tmp_path / "new", settings={"train.epochs": 0.5}
    )
    assert 0 <= best["top1"] <= 1
