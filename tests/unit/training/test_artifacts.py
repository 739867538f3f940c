"""What a run leaves: settings, split, and checkpoints with what they measured."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlp_mixer import Dataset, load
from mlp_mixer.evaluation import evaluate
from mlp_mixer.training import prepare, train
from mlp_mixer.training.journal import read_journal


def test_a_run_leaves_what_was_promised(unbroken: Path) -> None:
    assert {path.name for path in unbroken.iterdir()} == {
        "best.safetensors",
        "last.safetensors",
        "metrics.jsonl",
        "config.json",
        "split.csv",
        "state",
    }
    # One state of a finished run, without tensors.
    (state,) = (unbroken / "state").iterdir()
    assert (
        state.stat().st_size < 10_000 < (unbroken / "last.safetensors").stat().st_size
    )
    record = json.loads((unbroken / "config.json").read_text())
    assert record["config"]["train"]["batch_size"] == 128
    assert record["environment"]["torch"]
    assert record["environment"]["threads"] == 1
    assert record["notes"] == []
    rows = read_journal(unbroken)
    assert {row["kind"] for row in rows} == {"train", "eval"}
    assert [row["step"] for row in rows] == sorted(row["step"] for row in rows)
    assert rows[-1]["epoch"] == pytest.approx(1.5, abs=0.1)


def test_the_split_that_we_made_is_written_down(unbroken: Path) -> None:
    lines = (unbroken / "split.csv").read_text().splitlines()
    splits = Counter(line.rsplit(",", 1)[1] for line in lines)
    assert splits == {"split": 1, "train": 1301, "val": 145, "test": 351}


def test_the_checkpoint_carries_what_is_needed(unbroken: Path) -> None:
    checkpoint = load(unbroken)
    assert checkpoint.labels == tuple("0123456789")
    assert checkpoint.preprocess.image_size == (8, 8)
    assert checkpoint.preprocess.channels == 1
    assert checkpoint.provenance["recipe"] == "tiny"
    assert checkpoint.provenance["measured"]["n"] == 145
    assert not checkpoint.model.training


def test_the_best_checkpoint_is_the_best_row_and_measures_the_same_again(
    unbroken: Path, tiny: Any
) -> None:
    rows = [row for row in read_journal(unbroken) if row["kind"] == "eval"]
    # Of 145 images the loss chooses.
    best = min(rows, key=lambda row: (row["loss"], -row["step"]))
    checkpoint = load(unbroken / "best.safetensors")
    assert checkpoint.provenance["measured"]["step"] == best["step"]
    run = prepare(tiny())
    assert run.val is not None
    again = evaluate(checkpoint.model, run.val, checkpoint.preprocess)
    assert (again.top1, again.n) == (best["top1"], best["n"])
    assert again.loss == pytest.approx(best["loss"], abs=1e-6)


def test_a_checkpoint_tells_no_paths(tmp_path: Path, tiny: Any) -> None:
    images = np.zeros((60, 8, 8, 1), np.uint8)
    spec = "folder:/home/somebody/private/birds"
    source = Dataset.from_arrays(images, np.arange(60) % 3, spec=spec)
    train(tiny(epochs=1, batch_size=16), tmp_path, source=source)
    assert load(tmp_path).provenance["data"]["source"] == "folder:birds"
    record = json.loads((tmp_path / "config.json").read_text())
    assert record["config"]["data"]["source"] == spec
    assert b"somebody" not in (tmp_path / "best.safetensors").read_bytes()
