"""Summaries of runs from their journals, and the page that compares them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mlp_mixer.errors import UserError
from mlp_mixer.report import find_runs, write_comparison


def write_run(folder: Path, rows: list[dict[str, Any]]) -> None:
    folder.mkdir(parents=True)
    config = {
        "recipe": "digits",
        "train": {"epochs": 2},
        "model": {"name": "mixer_pico2"},
        "data": {"source": "digits"},
    }
    (folder / "config.json").write_text(json.dumps({"config": config}))
    lines = [json.dumps(row) + "\n" for row in rows]
    (folder / "metrics.jsonl").write_text("".join(lines))


def train_row(step: int, loss: float, rate: float) -> dict[str, Any]:
    return {
        "kind": "train",
        "step": step,
        "epoch": step / 10,
        "loss": loss,
        "images_per_second": rate,
        "seconds": 1.5,
    }


def test_a_run_is_summarised_by_its_journal(tmp_path: Path) -> None:
    evaluations = [
        {"kind": "eval", "step": 10, "top1": 0.8, "loss": 0.7, "n": 20},
        {"kind": "eval", "step": 20, "top1": 0.9, "loss": 0.8, "n": 20},
    ]
    steps = [train_row(10, 2.0, 100), train_row(20, 1.0, 300), train_row(30, 0.5, 200)]
    write_run(tmp_path / "runs" / "one", [*steps, *evaluations])
    (run,) = find_runs([tmp_path])
    assert run.name == str(tmp_path / "runs" / "one")
    assert (run.recipe, run.model, run.source) == ("digits", "mixer_pico2", "digits")
    assert (run.steps, run.epochs) == (30, 3.0)
    # Of 20 images the loss has chosen the checkpoint.
    assert (run.best_top1, run.best_n, run.train_loss) == (0.8, 20, 0.5)
    low, high = run.to_dict()["interval"]
    assert low < 0.6 < 0.9 < high
    assert (run.images_per_second, run.seconds) == (200, 4.5)
    assert "journal" not in run.to_dict()
    json.dumps(run.to_dict())


def test_a_run_that_has_not_begun_has_no_numbers(tmp_path: Path) -> None:
    write_run(tmp_path / "new", [])
    (run,) = find_runs([tmp_path / "new"])
    assert (run.steps, run.best_top1, run.train_loss) == (0, None, None)


def test_metrics_of_other_programs_are_passed_over(tmp_path: Path) -> None:
    for name, config in (("a", "[]"), ("b", "{}"), ("c", "{"), ("d", None)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.jsonl").write_text("")
        if config is not None:
            (tmp_path / name / "config.json").write_text(config)
    with pytest.raises(UserError, match="no training run in .*give the folder of one"):
        find_runs([tmp_path])


def test_the_page_has_a_row_and_a_line_for_each_run(tmp_path: Path) -> None:
    for name in ("a<b", "c"):
        evaluation = {"kind": "eval", "step": 10, "top1": 0.9, "loss": 1.0, "n": 600}
        write_run(tmp_path / name, [train_row(10, 2.0, 100), evaluation])
    runs = find_runs([tmp_path])
    path = write_comparison(runs, tmp_path / "page.html")
    page = path.read_text(encoding="utf-8")
    assert "<title>2 runs</title>" in page
    assert "a&lt;b" in page
    assert "a<b" not in page
    assert page.count("<path") == 2 * 2 + 2 * 2, "two charts and their legends"
    assert page.count("90.00%") == 2
