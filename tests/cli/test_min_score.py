"""`--min-score`: unknown in tables and files, and what is said about it."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import mlp_mixer as mm
from mlp_mixer.cli import run
from mlp_mixer.inference import predict_to_file

CHOSEN = {"score": 0.5, "accuracy": 0.95, "coverage": 0.7, "n": 180}


def call(*arguments: object) -> int:
    return run([str(argument) for argument in arguments])


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    model = mm.create_model(
        "mixer_nano4", num_classes=4, num_blocks=1, hidden_dim=8, image_size=16
    )
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.7)
    labels = ["cat", "dog", "bird", "fish"]
    return mm.save(
        tmp_path / "model.safetensors",
        model,
        labels=labels,
        provenance={"min_score": CHOSEN},
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve pictures and one that is none."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(12):
        pixels = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02}.png")
    (folder / "broken.png").write_bytes(b"")
    return folder


def plain(weights: Path, folder: Path) -> list[mm.Prediction]:
    answers = mm.predict(weights, folder)
    return [answer for answer in answers if isinstance(answer, mm.Prediction)]


def middle(weights: Path, folder: Path) -> float:
    """A score between those of the pictures, far from each of them."""
    scores = sorted(answer.pred_score for answer in plain(weights, folder))
    gaps = np.diff(scores)
    widest = int(gaps.argmax())
    assert gaps[widest] > 1e-3
    return float(scores[widest] + gaps[widest] / 2)


def test_low_scores_are_unknown_and_keep_their_numbers(
    weights: Path, folder: Path
) -> None:
    lowest = middle(weights, folder)
    before = plain(weights, folder)
    unsure = mm.predict(weights, folder, min_score=lowest)
    after = [answer for answer in unsure if isinstance(answer, mm.Prediction)]
    assert len(unsure) == 13
    for old, new in zip(before, after, strict=True):
        assert (new.pred_score, new.top) == (old.pred_score, old.top)
        if old.pred_score >= lowest:
            assert new == old
        else:
            assert (new.pred_label, new.pred_class) == (None, "unknown")
    assert 0 < sum(answer.pred_label is None for answer in after) < 12


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_files_name_the_best_guess(
    weights: Path, folder: Path, tmp_path: Path, suffix: str, capsys: Any
) -> None:
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    lowest = middle(weights, folder)
    out = tmp_path / f"a{suffix}"
    command = ["predict", str(weights), str(folder), "--top", "2"]
    assert call(*command, "--out", out, "--min-score", lowest) == 1
    expected = plain(weights, folder)
    few = [answer for answer in expected if answer.pred_score < lowest]
    error = capsys.readouterr().err
    assert f"{len(few)} of 12 pictures are unknown: their best score is below" in error
    rows = read(out)
    assert [row["pred_class"] or "" for row in rows if not row.get("error")] == [
        "unknown" if answer in few else answer.pred_class for answer in expected
    ]
    for row, answer in zip(rows, expected, strict=False):
        assert row["top1_class"] == answer.top[0].name
        assert float(row["pred_score"]) == pytest.approx(answer.pred_score, abs=1e-6)
        assert float(row["top1_score"]) == float(row["pred_score"])
        missing = row["pred_label"] in (None, "")
        assert missing == (answer in few)


def read(path: Path) -> list[dict[str, Any]]:
    """The rows, those of JSON with the columns of the best candidate."""
    if path.suffix == ".csv":
        with path.open(newline="") as file:
            return list(csv.DictReader(file))
    if path.suffix == ".parquet":
        from pyarrow.parquet import read_table

        rows: list[dict[str, Any]] = read_table(path).to_pylist()
        return rows
    rows = []
    for line in path.read_text().splitlines():
        row = {"pred_class": None} | json.loads(line)
        if "top" in row:
            row |= {f"top1_{key[:5]}": row["top"][0][key] for key in ("score",)}
            row["top1_class"] = row["top"][0]["name"]
        rows.append(row)
    return rows


def test_the_table_and_auto(weights: Path, folder: Path, capsys: Any) -> None:
    picture = folder / "00.png"
    (answer,) = mm.predict(weights, picture)
    assert isinstance(answer, mm.Prediction)
    assert call("predict", weights, picture, "--min-score", "1") == 0
    streams = capsys.readouterr()
    first = streams.out.splitlines()[1]
    score = f"{100 * answer.pred_score:.2f} %"
    assert f" unknown  {score}  {answer.pred_class} {score}" in first
    assert "1 of 1 pictures are unknown" in streams.err
    assert "validation" not in streams.err
    assert call("predict", weights, picture, "--min-score", "auto", "--json") == 0
    streams = capsys.readouterr()
    (row,) = json.loads(streams.out)
    assert (row["pred_label"] is None) == (answer.pred_score < 0.5)
    assert call("predict", weights, folder, "--min-score", "auto") == 1
    error = capsys.readouterr().err
    assert "below 0.5\n" in error
    assert "of 180 validation images it answers 126, and is right in 95" in error


def test_what_is_refused(
    weights: Path, folder: Path, tmp_path: Path, capsys: Any
) -> None:
    bundled = ["predict", str(folder), "--min-score", "auto"]
    npz = ["--features", "norm", "--out", tmp_path / "a.npz"]
    cases = {
        "this checkpoint has no lowest score of its own": bundled,
        "expected a number from 0 to 1, or 'auto'": [
            *("predict", weights, folder, "--min-score", "50")
        ],
        "--min-score and --sort-into go with answers": [
            *("predict", weights, folder, *npz, "--min-score", "0.5")
        ],
    }
    for sentence, arguments in cases.items():
        assert call(*arguments) == 2
        assert sentence in capsys.readouterr().err
    assert not (tmp_path / "a.npz").exists()


def test_a_stopped_run_keeps_its_lowest_score(
    weights: Path, folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "a.jsonl"
    unsure = mm.Predictor(weights, min_score=1)

    def stop(answer: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict_to_file(unsure, [folder], out, report=stop)
    with pytest.raises(mm.UserError, match="begun with other weights or settings"):
        predict_to_file(mm.Predictor(weights), [folder], out, resume=True)
    written = predict_to_file(unsure, [folder], out, resume=True)
    assert (written.pictures, written.failed, written.unknown) == (13, 1, 12)


def test_evaluate_says_what_is_left(weights: Path, tmp_path: Path, capsys: Any) -> None:
    rng = np.random.default_rng(0)
    names = ["cat", "dog", "bird", "fish"]
    for number in range(80):
        pixels = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        path = tmp_path / "photos" / names[number % 4] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    answers = [
        answer
        for answer in mm.predict(weights, tmp_path / "photos")
        if isinstance(answer, mm.Prediction)
    ]
    # Between two scores in the middle: which they are differs between versions of torch.
    scores = sorted(answer.pred_score for answer in answers)
    gap = max(range(20, 60), key=lambda place: scores[place + 1] - scores[place])
    bound = f"{(scores[gap] + scores[gap + 1]) / 2:.4f}"
    given = 80 - gap - 1
    right = sum(
        answer.pred_class == Path(answer.path).parent.name
        for answer in answers
        if answer.pred_score >= float(bound)
    )

    data = ["--data", f"folder:{tmp_path / 'photos'}"]
    assert call("evaluate", weights, *data, "--min-score", bound, "--json") == 0
    row = json.loads(capsys.readouterr().out)
    assert row["n"] == 80
    assert row["coverage"] == pytest.approx(given / 80)
    assert row["answered_top1"] == pytest.approx(right / given)

    assert call("evaluate", weights, *data, "--min-score", bound) == 0
    text = capsys.readouterr().out
    assert f"scores from {float(bound):.4g} on answer {given} of 80 images" in text
    assert call("evaluate", weights, *data, "--min-score", "1", "--json") == 0
    assert json.loads(capsys.readouterr().out)["answered_top1"] is None
    assert call("evaluate", weights, *data, "--json") == 0
    assert "coverage" not in json.loads(capsys.readouterr().out)
