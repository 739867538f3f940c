"""Summaries of runs from their journals, and the page that compares them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from mlp_mixer import cli
from mlp_mixer.errors import UserError
from mlp_mixer.report import find_runs, write_comparison
from mlp_mixer.report.chart import Style


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


@pytest.mark.parametrize(
    ("shares", "expected"),
    [
        # 10 steps each.
        ([1.0, 0.5, 0.0], 0.5),
        # The first row, of another version, does not say.
        ([None, 0.3], 0.3),
        ([None, None], None),
        ([], None),
    ],
)
def test_the_share_of_clipped_steps(
    tmp_path: Path, shares: list[float | None], expected: float | None
) -> None:
    rows = [train_row(10 * place, 1.0, 9.0) for place in range(1, len(shares) + 1)]
    for row, share in zip(rows, shares, strict=True):
        row |= {} if share is None else {"clipped": share}
    write_run(tmp_path / "run", rows)
    (run,) = find_runs([tmp_path])
    assert run.clipped == (None if expected is None else pytest.approx(expected))
    assert run.to_dict()["clipped"] == run.clipped


def test_rows_of_few_steps_count_less(tmp_path: Path) -> None:
    """One step that was clipped, then nine that were not; a row is written twice."""
    rows = [train_row(step, 1.0, 9.0) for step in (1, 10, 10)]
    for row, share in zip(rows, (1.0, 0.0, 1.0), strict=True):
        row["clipped"] = share
    write_run(tmp_path / "run", rows)
    assert find_runs([tmp_path])[0].clipped == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("left_out", "expected"),
    [([], 0), ([3], 1), ([3, 8, 3], 2), (["3"], 0), ([True, 2.5], 0)],
)
def test_steps_that_were_left_out_are_counted_once(
    tmp_path: Path, left_out: list[Any], expected: int
) -> None:
    """What is no number of a step is no row of ours."""
    rows = [{"kind": "note", "step": 9, "text": "", "left_out": n} for n in left_out]
    write_run(tmp_path / "run", [train_row(10, 1.0, 9.0), *rows])
    runs = find_runs([tmp_path])
    assert runs[0].left_out == expected
    page = write_comparison(runs, tmp_path / "page.html").read_text(encoding="utf-8")
    assert f"<td>{expected}</td></tr>" in page


def test_the_command_has_both_columns(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    note = {"kind": "note", "step": 5, "text": "", "left_out": 4}
    write_run(tmp_path / "a", [train_row(10, 1.0, 9.0) | {"clipped": 0.25}, note])
    write_run(tmp_path / "b", [train_row(10, 1.0, 9.0)])
    assert cli.run(["runs", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    ends = [" ".join(line.split()).split(" minutes ")[-1] for line in lines]
    assert ends[0] == "clipped left out"
    assert [line.split()[-1] for line in lines if str(tmp_path) in line] == ["1", "0"]
    shares = [line.split()[-3:-1] for line in lines if str(tmp_path) in line]
    assert shares == [["25.00", "%"], ["0.0", "-"]]


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
    assert page.count("<path") == 2 * 2 + 2 * 2 + 2, "charts, legends and the table"
    # 600 images leave 2.4 points to each side, in the table.
    assert page.count("90.0 % [87.3, 92.2]") == 2


def test_a_run_keeps_its_line_where_another_has_no_points(tmp_path: Path) -> None:
    """The middle one, as `finetune --frozen` leaves it, has no training loss."""
    evaluation = {"kind": "eval", "step": 10, "top1": 0.9}
    for name, rows in (
        ("a", [train_row(10, 2.0, 100), evaluation]),
        ("b", [evaluation]),
        ("c", [train_row(10, 1.0, 100), evaluation]),
    ):
        write_run(tmp_path / name, rows)
    path = write_comparison(find_runs([tmp_path]), tmp_path / "page.html")
    page = path.read_text(encoding="utf-8").split("</style>")[1]
    top1, loss = page.split("</figure>")[:2]
    table = page.split("<tbody>")[1]
    found = {}
    for place, text in (("top1", top1), ("loss", loss), ("table", table)):
        pattern = r'swatch series (s\d d\d)"><path[^>]*></svg>([^<]*)<'
        found[place] = {name: style for style, name in re.findall(pattern, text)}
    runs = [str(tmp_path / name) for name in "abc"]
    assert list(found["top1"]) == runs
    assert list(found["loss"]) == [runs[0], runs[2]]
    assert found["table"] == found["top1"]
    assert found["loss"].items() <= found["top1"].items()
    assert len(set(found["top1"].values())) == 3


def test_two_dozen_runs_have_lines_of_their_own() -> None:
    styles = [Style(number).classes for number in range(24)]
    assert len(set(styles)) == 24
    # The first ones differ in colour and in dash.
    assert styles[:4] == ["s0 d0", "s1 d1", "s2 d2", "s3 d3"]
