"""`mlp-mixer bench` as a person and a program use it; files that grow; the page that is
made of them.
"""

from __future__ import annotations

import csv
import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import typer

from mlp_mixer import UserError
from mlp_mixer.bench import run, start
from mlp_mixer.bench.table import COLUMNS, HEADINGS, append_csv, lines, read_csv
from mlp_mixer.cli.bench import bench

RENDER = Path(__file__).parents[2] / "benchmarks" / "render.py"


@pytest.fixture(autouse=True)
def _no_large_matmul(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        run, "roofline", lambda device, dtype: {"flops": 1e12, "bytes": 1e10}
    )


def call(*arguments: str) -> int:
    app = typer.Typer()
    app.command()(bench)
    code = app(list(arguments), standalone_mode=False)
    assert isinstance(code, int)
    return code


def test_for_programs_people_and_files(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "results" / "cpu.csv"
    small = (
        "mixer_nano4",
        "--batch",
        "2",
        "--rounds",
        "2",
        "--peers",
        "timm,vit",
        "--threads",
        "1",
        "--out",
        str(out),
    )
    assert call(*small, "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert result["model"] == "mixer_nano4"
    assert result["task"] == "infer"
    assert result["batch"] == 2
    assert result["dtype"] == "fp32"
    assert result["environment"]["threads"] == 1
    assert f"torch=={torch.__version__.partition('+')[0]}" in result["versions"]
    mine, timm, vit = result["rows"]
    assert mine["competitor"] == "ours"
    assert mine["ratio"] == 1.0
    assert mine["n"] == 4
    assert mine["status"] == "measured"
    assert mine["images_per_s_q1"] <= mine["images_per_s"] <= mine["images_per_s_q3"]
    assert mine["p50_ms"] <= mine["p90_ms"] <= mine["p99_ms"]
    assert mine["error"] <= 1e-5
    assert timm["status"] == "timm has no network of this size"
    assert vit["status"] == "none is near in size"
    assert call(*small, "--task", "train") == 0
    said = capsys.readouterr().out
    assert said.startswith("mixer_nano4, train, batch 2, fp32: cpu (")
    assert "timm has no network of this size" in said
    rows = read_csv(out)
    assert [row["task"] for row in rows] == ["infer"] * 3 + ["train"] * 3
    assert float(rows[0]["images_per_s"]) == pytest.approx(
        mine["images_per_s"], rel=1e-4
    )
    assert lines(rows[:1])[0][0].startswith("ours (fp32, ")


def test_mistakes_are_told_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match="unknown model 'mixer_b61'; did you mean 'mixer_b16'"
    ):
        call("mixer_b61")
    with pytest.raises(UserError, match="unknown peer 'tmm'; did you mean 'timm'"):
        call("mixer_nano4", "--peers", "tmm")
    other = tmp_path / "other.csv"
    other.write_bytes(b"a,b\n1,\xff\n")
    with pytest.raises(UserError, match="does not have the columns"):
        call("mixer_nano4", "--out", str(other))
    assert other.read_bytes() == b"a,b\n1,\xff\n"


def result(when: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    facts = {
        "when": when,
        "model": "mixer_s16",
        "task": "infer",
        "batch": 8,
        "dtype": "fp32",
        "versions": "torch==2",
    }
    return {
        **facts,
        "environment": {"device": "cpu (x, y)", "threads": 2, "commit": None},
        "rows": rows,
    }


def test_the_page_has_every_run_newest_first(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("render", RENDER)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    speed = {
        "images_per_s": 12.345,
        "images_per_s_q1": 11.1,
        "images_per_s_q3": 13.3,
        "error": 0.0,
        "mfu": 0.5,
    }
    mine = {
        "competitor": "ours",
        "status": "measured",
        "precision": "fp32",
        "note": "torch",
        "n": 4,
        **speed,
    }
    append_csv(tmp_path / "a.csv", result("2026-01-01T00:00:00", [mine]))
    append_csv(
        tmp_path / "a.csv",
        result(
            "2026-01-03T00:00:00", [{"competitor": "ort", "status": "not installed"}]
        ),
    )
    append_csv(tmp_path / "b.csv", result("2026-01-02T00:00:00", [mine]))
    with (tmp_path / "a.csv").open() as file:
        assert tuple(next(csv.reader(file))) == COLUMNS
    page = module.page(module.runs(tmp_path))
    module.draw(module.runs(tmp_path), tmp_path / "numbers.svg")
    assert (tmp_path / "numbers.svg").read_text().count("<svg") == 1
    assert [line[:10] for line in page.splitlines() if line.startswith("2026")] == [
        "2026-01-03",
        "2026-01-02",
        "2026-01-01",
    ]
    assert (
        "| ours (fp32, torch) | 12.3 (11.1-13.3) |  |  |  |  | 50% |  | 0 | 4 |" in page
    )
    assert "| ort | not installed |" in page
    assert page.count(" | ".join(HEADINGS)) == 3


def test_the_command_is_measured_from_its_start(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[list[str]] = []

    def output(command: list[str]) -> str:
        commands.append(command)
        return "class 77\n" if "-c" in command else "model.safetensors: class 77 12 %"

    monkeypatch.setattr(start, "_output", output)
    assert call("mixer_s32", "--task", "predict", "--rounds", "2", "--json") == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["competitor"] for row in rows] == ["ours", "timm"]
    assert [row["n"] for row in rows] == [2, 2]
    assert commands[0][:3] == ["-m", "mlp_mixer", "predict"]
    assert "mixer_s32_224" in commands[1]
    monkeypatch.setattr(
        start, "_output", lambda command: "class 1" if "-c" in command else "class 2"
    )
    with pytest.raises(AssertionError, match="timm's answer is 'class 1'"):
        call("mixer_s32", "--task", "predict", "--rounds", "1")
