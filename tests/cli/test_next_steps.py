"""What a verb says comes next: every printed command is one that the program takes."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from mlp_mixer.cli import app, next_steps

RUN = Path("runs/a b's")


def parsed(command: tuple[str, ...]) -> tuple[str, dict[str, Any]]:
    """The verb and the arguments as typer reads them; it refuses a wrong command.

    Some versions of it keep paths as texts here.
    """
    words = shlex.split(shlex.join(command))
    group = typer.main.get_command(app)
    with group.make_context("mlp-mixer", list(words)) as context:
        name, verb, rest = group.resolve_command(context, list(words))  # type: ignore[attr-defined]
    with verb.make_context(name, rest, parent=context) as inner:
        return name, inner.params


def test_after_training_comes_the_test_number_and_the_page() -> None:
    evaluate, report = next_steps.after_training(RUN, "folder:my photos")
    name, given = parsed(evaluate)
    assert name == "evaluate"
    assert (given["checkpoint"], given["data"]) == (str(RUN), "folder:my photos")
    name, given = parsed(report)
    assert (name, Path(given["run"])) == ("report", RUN)
    assert next_steps.after_training(RUN, "x", tested=True) == [report]


def test_after_the_page_comes_an_export_and_a_server() -> None:
    export, serve = next_steps.after_report(RUN)
    name, given = parsed(export)
    assert (name, given["checkpoint"], given["to"]) == ("export", str(RUN), "onnx")
    assert Path(given["out"]) == RUN / "model.onnx"
    name, given = parsed(serve)
    assert (name, given["checkpoint"]) == ("serve", str(RUN))


def test_after_an_evaluation_of_a_run_comes_its_page(tmp_path: Path) -> None:
    run = str(tmp_path)
    # A checkpoint without a journal has nothing that a page could show.
    assert next_steps.after_evaluation(run, "digits", own=True) == []
    assert next_steps.after_evaluation(None, "digits", own=True) == []
    (tmp_path / "metrics.jsonl").touch()
    (own,) = next_steps.after_evaluation(run, "digits", own=True)
    assert own == ("report", run)
    (other,) = next_steps.after_evaluation(run, "folder:x", own=False)
    name, given = parsed(other)
    assert (name, Path(given["run"])) == ("report", tmp_path)
    assert given["data"] == "folder:x"


def test_after_an_export_comes_a_server_or_what_reads_the_files(
    tmp_path: Path,
) -> None:
    name = "mixer_b16.goog_in21k"
    (serve,), remark = next_steps.after_export(name, tmp_path / "m.onnx", "onnx")
    assert parsed(serve)[1]["checkpoint"] == name
    assert not remark
    (tmp_path / "m.onnx.json").touch()
    _, remark = next_steps.after_export(name, tmp_path / "m.onnx", "onnx")
    assert "m.onnx.json says how" in remark
    site = tmp_path / "my site"
    for to, told in (("web", f"open {site}/index.html"), ("triton", f"='{site}'")):
        commands, remark = next_steps.after_export(name, site, to)
        assert not commands
        assert told in remark


def test_after_a_check_comes_training_on_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    photos = tmp_path / "my photos"
    photos.mkdir()
    (finetune,) = next_steps.after_check(str(photos))
    name, given = parsed(finetune)
    assert name == "finetune"
    assert given["data"] == f"folder:{tmp_path / 'my photos'}"
    assert Path(given["out"]) == Path("runs/my photos")
    # The folder of an earlier run would be refused.
    Path(given["out"]).mkdir(parents=True)
    (again,) = next_steps.after_check(str(photos))
    assert Path(parsed(again)[1]["out"]) == Path("runs/my photos-2")


def test_the_line_is_copied_into_a_shell_as_it_is(
    capsys: pytest.CaptureFixture[str],
) -> None:
    commands = next_steps.after_training(RUN, "folder:my photos")
    next_steps.print_next(commands, "a remark")
    printed = capsys.readouterr()
    assert printed.out == ""
    line = printed.err.removeprefix("next: ").rstrip("\n")
    first, second, remark = line.split("; ")
    assert shlex.split(first) == ["mlp-mixer", *commands[0]]
    assert shlex.split(second) == ["mlp-mixer", *commands[1]]
    assert remark == "a remark"
    next_steps.print_next([])
    assert capsys.readouterr().err == ""
