"""`mlp-mixer finetune` and `mlp-mixer runs`, on real digits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mlp_mixer import load
from mlp_mixer.cli import run


def call(*arguments: object) -> int:
    """Run the command and return its exit code."""
    return run([str(argument) for argument in arguments])


QUICK = ["--set", "train.epochs=1", "--set", "train.device=cpu"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "old"
    assert call("train", "digits", "--out", out, *QUICK) == 0
    return out


def test_finetune_starts_from_the_weights(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = call(
        "finetune", weights, "--data", "digits", "--out", tmp_path / "new", *QUICK
    )
    assert code == 0
    told = capsys.readouterr()
    assert "the head was fitted to frozen features" in told.err
    assert "test (20 % held out by seed 0): top-1 " in told.out
    assert "best checkpoint" in told.out
    assert load(tmp_path / "new").preprocess == load(weights).preprocess
    assert load(tmp_path / "new").provenance["recipe"] == "finetune_auto"


def test_a_sweep_runs_all_and_names_the_best(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "sweep"
    command = [
        "finetune",
        str(weights),
        "--data",
        "digits",
        "--out",
        str(out),
        "--recipe",
        "paper",
        *QUICK,
    ]
    command += [
        "--set",
        "train.steps=12",
        "--set",
        "train.batch_size=64",
        "--set",
        "augment.crop=none",
    ]
    assert call(*command, "--sweep", "optim.lr=1e-9,0.03") == 0
    assert "best of 2 by loss: " in capsys.readouterr().out
    assert {path.name for path in out.iterdir()} == {"optim.lr=1e-9", "optim.lr=0.03"}
    assert call(*command, "--sweep", "optim.lr") == 2
    assert "expected FIELD=A,B,C" in capsys.readouterr().err


def test_only_the_head(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [
        "finetune",
        str(weights),
        "--data",
        "digits",
        "--out",
        str(tmp_path / "new"),
        "--frozen",
    ]
    assert run(command) == 0
    told = capsys.readouterr()
    assert "only the head was learnt" in told.err
    assert "5-fold cross-validation: top-1 " in told.out
    assert "test (20 % held out by seed 0): top-1 " in told.out
    assert call("evaluate", tmp_path / "new", "--data", "digits") == 0
    assert call("report", tmp_path / "new") == 0
    assert call(*command, "--overwrite", "--resume") == 2
    assert "a linear probe (frozen) takes seconds" in capsys.readouterr().err


def test_from_nothing_it_says_what_that_costs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [
        "finetune",
        "scratch",
        "--data",
        "digits",
        "--out",
        str(tmp_path / "new"),
    ]
    assert call(*command, "--set", "train.steps=2", "--set", "train.device=cpu") == 0
    error = capsys.readouterr().err
    assert "from random weights a Mixer needs many images" in error
    assert load(tmp_path / "new").provenance["recipe"] == "fashion_mnist"
    assert call(*command, "--frozen") == 2
    assert "a linear probe (frozen) needs pretrained weights" in capsys.readouterr().err
    assert call(*command, "--recipe", "paper") == 2
    assert "goes with --recipe auto" in capsys.readouterr().err


def test_mistakes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = call(
        "finetune",
        tmp_path / "nothing.npz",
        "--data",
        "digits",
        "--out",
        tmp_path / "x",
    )
    assert code == 2
    assert "no checkpoint at" in capsys.readouterr().err
    code = call(
        "finetune",
        "mixer_b16",
        "--data",
        "digits",
        "--recipe",
        "papper",
        "--out",
        tmp_path / "x",
    )
    assert code == 2
    assert "unknown recipe 'papper'" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_runs_compares(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (weights.parent / "other").mkdir()
    (weights.parent / "other" / "metrics.jsonl").write_text(
        '{"loss": 1}\n'
    )  # another program's
    page = tmp_path / "compare.html"
    assert call("runs", weights.parent, "--out", page) == 0
    told = capsys.readouterr().out
    assert "old" in told
    assert "other" not in told
    assert page.read_text().count("<svg") >= 2
    assert call("runs", weights, "--json") == 0
    (only,) = json.loads(capsys.readouterr().out)
    assert only["recipe"] == "digits"
    assert 0 < only["best_top1"] <= 1
    assert call("runs", tmp_path / "empty") == 2
    assert "no training run in" in capsys.readouterr().err
