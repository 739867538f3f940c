"""The verbs without a checkpoint: the small model in the package answers, and says what
it is.
"""

from __future__ import annotations

import io
import json
import re
import socket
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from mlp_mixer import load
from mlp_mixer.cli import run
from mlp_mixer.weights.catalog import BUNDLED


def call(*arguments: object) -> int:
    """Run the command and return its exit code."""
    return run([str(argument) for argument in arguments])


BIRD = Path(__file__).parents[2] / "demo" / "bird.JPEG"
LABELS = ", ".join(load(BUNDLED).labels or ())
Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of pictures, one of a run, and a picture without an ending."""
    monkeypatch.chdir(tmp_path)
    for name in ("photo.png", "photos/a.png", "photos/b.png", "plain"):
        Path(name).parent.mkdir(exist_ok=True)
        Image.open(BIRD).resize((40, 40)).save(name, "PNG")
    Path("run").mkdir()
    (Path("run") / "best.safetensors").write_bytes(BUNDLED.read_bytes())


def test_predict_answers_and_says_once_what_it_knows(capsys: Capture) -> None:
    assert call("predict", "photo.png", "photos") == 0
    streams = capsys.readouterr()
    assert [line.split()[0] for line in streams.out.splitlines()[1:]] == [
        "photo.png",
        "photos/a.png",
        "photos/b.png",
    ]
    assert streams.err.count(LABELS) == streams.err.count("\n") == 1
    for command in re.findall("`mlp-mixer (.*?)`", streams.err):
        assert call(*command.split(), "--help") == 0
    capsys.readouterr()
    assert (
        call("predict", BUNDLED.stem, "photo.png", "photos") == 0
    )  # named: it needs no introduction
    assert capsys.readouterr() == (streams.out, "")


def test_programs_get_json_and_nothing_else(capsys: Capture) -> None:
    assert call("predict", "photo.png", "--json") == 0
    streams = capsys.readouterr()
    (row,) = json.loads(streams.out)
    assert row["pred_class"] in LABELS.split(", ")
    assert streams.err == ""
    assert call("predict", "photos", "--out", "answers.csv", "--json") == 0
    streams = capsys.readouterr()
    assert json.loads(streams.out)["pictures"] == 2
    assert LABELS in streams.err


def test_a_list_on_stdin(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"photo.png\nplain\n"))
    )
    assert call("predict", "-") == 0
    assert "plain" in capsys.readouterr().out


def test_a_picture_that_is_not_there_is_a_failure(capsys: Capture) -> None:
    assert call("predict", "nosuch.jpg") == 1
    error = capsys.readouterr().err
    assert "nosuch.jpg" in error
    assert "1 of 1 pictures could not be read" in error


def test_explain_draws(capsys: Capture) -> None:
    assert call("explain", "photo.png", "--out", "why.png", "--method", "gradient") == 0
    streams = capsys.readouterr()
    assert streams.out.startswith("why.png: ")
    assert LABELS in streams.err
    with Image.open("why.png") as drawn:
        assert drawn.width > 300
    for arguments in (["photo.png", "plain"], ["run"]):
        assert call("explain", *arguments, "--out", "no.png") == 2
        assert "one picture is explained at a time" in capsys.readouterr().err
    assert call("explain", "missing.npz", "photo.png", "--out", "no.png") == 2
    assert "no checkpoint at 'missing.npz'" in capsys.readouterr().err


def test_figures_are_drawn(capsys: Capture) -> None:
    assert call("figures", "--out", "figures") == 0
    drawn = capsys.readouterr().out
    assert call("figures", "run", "--out", "named") == 0
    assert capsys.readouterr().out == drawn.replace("figures/", "named/")
    for line in drawn.split():
        assert Path(line).read_bytes() == Path("named", Path(line).name).read_bytes()


def test_evaluate_names_the_bundled_one(capsys: Capture) -> None:
    for label in ("bird", "frog"):
        (Path("data") / label).mkdir(parents=True)
        for number in range(3):
            Image.open(BIRD).resize((32 + number, 32)).save(
                Path("data") / label / f"{number}.png"
            )
    assert call("evaluate", "--data", "folder:data", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["checkpoint"], found["n"]) == (BUNDLED.stem, 6)
    assert call("evaluate", "--data", "folder:data") == 0
    assert capsys.readouterr().out.startswith(f"{BUNDLED.stem} on folder:data, ")


def test_serve_introduces_it(capsys: Capture) -> None:
    pytest.importorskip("fastapi")
    with socket.create_server(
        ("127.0.0.1", 0)
    ) as taken:  # so that it stops before it serves
        for arguments, said in (([], 1), (["run"], 0)):
            code = call(
                "serve",
                *arguments,
                "--engine",
                "torch",
                "--port",
                taken.getsockname()[1],
            )
            assert code == 2
            error = capsys.readouterr().err
            assert "cannot listen on 127.0.0.1" in error
            assert error.count(LABELS) == said


@pytest.mark.parametrize("about", ["{", "[1]", "7"])
def test_facts_that_are_no_json_object(about: str, capsys: Capture) -> None:
    arguments = ["convert", "run", "out.safetensors", "--to", "native"]
    assert call(*arguments, "--about", about) == 2
    assert "expected a JSON object" in capsys.readouterr().err
    assert call(*arguments, "--about", '{"licence": "MIT"}', "--dtype", "bf16") == 0
    assert load("out.safetensors").provenance["licence"] == "MIT"
