"""What a person sees of a training run, on a terminal and elsewhere."""

from __future__ import annotations

import io
import itertools
from typing import Any

import pytest
from rich.console import Console

from mlp_mixer.cli import progress as progress_module
from mlp_mixer.cli.progress import Progress, counted, stages

START = {
    "kind": "start",
    "passed_over": "",
    "finished": False,
    "model": "mixer_s16",
    "parameters": 18_528_264,
    "source": "folder:[bold]x",
    "classes": 3,
    "n_train": 1000,
    "n_val": 100,
    "device": "cpu",
    "step": 0,
    "total_steps": 40,
    "epochs": 4,
    "processes": 1,
    "notes": [],
}
TRAIN = {
    "kind": "train",
    "step": 10,
    "epoch": 1.0,
    "loss": 0.5,
    "lr": 1e-3,
    "images_per_second": 1234.5,
    "train_top1": 0.5,
    "data_wait": 0.0,
    "seconds": 1,
}
EVAL = {
    "kind": "eval",
    "step": 10,
    "epoch": 1.0,
    "top1": 0.75,
    "top5": 1.0,
    "loss": 0.6,
    "n": 100,
}


def shown(*rows: dict[str, Any], terminal: bool) -> str:
    stream = io.StringIO()
    with Progress(
        Console(file=stream, force_terminal=terminal, width=160, color_system=None)
    ) as progress:
        for row in rows:
            progress(row)
    return stream.getvalue()


def test_plain_lines_are_few_and_readable() -> None:
    text = shown(
        START, TRAIN, EVAL, {"kind": "note", "text": "by the way"}, terminal=False
    )
    lines = text.splitlines()
    assert len(lines) == 3
    assert "folder:[bold]x (3 classes): 1,000 images to train, 100 to" in lines[0]
    assert "to validate; 4 epochs = 40 steps on cpu" in lines[0]
    assert "loss 0.5000  top-1 50.00 %  lr 1.00e-03  1,234 img/s" in lines[1]
    assert "img/s  val top-1 75 % [66, 82]  val loss 0.6000" in lines[1]
    assert "0:00:00 left" in lines[1]
    assert lines[2] == "by the way"
    assert "\x1b" not in text


def test_a_terminal_gets_a_live_line() -> None:
    text = shown(START, TRAIN, EVAL, terminal=True)
    assert "training" in text
    assert "25%" in text
    assert "val top-1 75 % [66, 82]" in text


def test_a_slow_run_gets_a_line_now_and_then_but_none_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = itertools.count(0, 20)
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    rows = [{**TRAIN, "step": step, "epoch": step / 10} for step in (5, 10)]
    lines = shown(START, *rows, EVAL, rows[0], terminal=False).splitlines()[1:]
    assert [line.split()[1] for line in lines] == ["0.50", "1.00"]
    assert ["val top-1" in line for line in lines] == [False, True]


def test_a_run_without_validation_says_only_what_it_knows() -> None:
    text = shown(
        START, TRAIN, {"kind": "eval", "step": 10, "epoch": 1.0}, terminal=False
    )
    assert "val top-1" not in text


# Counts


def test_a_count_gets_a_line_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = itertools.count(0, 6)
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    with counted("pictures") as show:
        for done in range(1, 10):
            show(done)
    lines = capsys.readouterr().err.splitlines()
    # One line for three or four calls of a clock that steps by 6 seconds.
    assert 2 <= len(lines) <= 4
    assert all(line.endswith("/s") for line in lines)


def test_the_end_of_a_known_number_is_always_told(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with counted("images") as show:
        show(1, 2)
        show(2, 2)
    assert capsys.readouterr().err == "2 of 2 images\n"


def test_a_count_on_a_terminal_is_live(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=80, color_system=None)
    monkeypatch.setattr(progress_module, "stderr", lambda: console)
    with counted("images") as show:
        show(1, 2)
        show(2, 2)
    assert "2/2 images" in stream.getvalue()
    assert "2 of 2 images" not in stream.getvalue()


def test_a_short_work_prints_no_line_where_it_should_not(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with counted("images", tell_end=False) as show:
        show(1, 2)
        show(2, 2)
    with stages() as stage:
        for unit in ("test images", "maps"):
            count = stage(unit)
            count(3, 3)
    assert capsys.readouterr() == ("", "")


def test_a_long_work_says_what_it_does_and_how_long_it_still_takes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    with stages() as stage:
        count = stage("test images")
        for done in range(1, 5):
            now[0] += 10
            count(done, 10)
        count = stage("maps")
        now[0] += 20
        count(1, 4)
    assert capsys.readouterr().err.splitlines() == [
        "2 of 10 test images, 0:01:20 left",
        "4 of 10 test images, 0:01:00 left",
        "1 of 4 maps, 0:01:00 left",
    ]


def test_stages_on_a_terminal_follow_each_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=80, color_system=None)
    monkeypatch.setattr(progress_module, "stderr", lambda: console)
    with stages() as stage:
        stage("test images")(5, 5)
        stage("maps")(1, 2)
    text = stream.getvalue()
    assert "maps" in text
    last = text.split("maps")[-1]
    assert "test images" not in last
