"""Values that no number is, and options that another one leaves without effect."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import mlp_mixer as mm
from mlp_mixer import UserError
from mlp_mixer.cli import run
from mlp_mixer.data import Dataset
from mlp_mixer.data.sample import write_sample


@pytest.fixture
def refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[list[str]], str]:
    """Run a command that ends in one sentence, with nothing begun, and return that."""

    def sentence_of(arguments: list[str]) -> str:
        monkeypatch.chdir(tmp_path)
        assert run(arguments) == 2
        error = capsys.readouterr().err
        assert len(error.splitlines()) == 1
        assert list(tmp_path.iterdir()) == []
        return error

    return sentence_of


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["train", "digits", "--out", "run", "--minutes", "inf"], "minutes must be"),
        (
            ["train", "digits", "--out", "run", "--epochs", "inf"],
            "train.epochs must be",
        ),
        (["train", "digits", "--out", "run", "--epochs", "1e300"], "at most 1e+09"),
        (["train", "digits", "--set", f"train.epochs=1{'0' * 400}"], "train.epochs"),
        (["train", "digits", "--set", f"train.seed=1{'0' * 400}"], "train.seed"),
        (["train", "digits", "--set", f"train.seed={2**64}"], "train.seed must be"),
        (["train", "digits", "--set", f"train.seed={'1' * 5000}"], "train.seed"),
        (["train", "digits", "--set", f"train.seed={'[' * 10**5}"], "train.seed"),
        (["serve", "--max-mib", "inf"], "--max-mib"),
        (["serve", "--timeout", "inf"], "--timeout"),
        (["convert", "in", "out", "--to", "timm", "--about", '["ab"]'], "JSON object"),
        (["convert", "in", "out", "--to", "timm", "--about", "[]"], "JSON object"),
        (["convert", "in", "out", "--to", "timm", "--about", "1"], "JSON object"),
        (["convert", "in", "out", "--to", "timm", "--about", "{"], "JSON object"),
        (["convert", "i", "o", "--to", "timm", "--about", "[" * 10**5], "JSON object"),
        (["figures", "nowhere", "--out", "new"], "no checkpoint at 'nowhere'"),
    ],
)
def test_a_value_that_is_none_is_one_sentence(
    arguments: list[str], sentence: str, refused: Callable[[list[str]], str]
) -> None:
    assert sentence in refused(arguments)


@pytest.mark.parametrize("minutes", [math.inf, math.nan, 0, -1.0])
def test_minutes_are_a_time(tmp_path: Path, minutes: float) -> None:
    with pytest.raises(UserError, match="minutes must be above 0 and below inf"):
        mm.train("digits", tmp_path / "run", minutes=minutes)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["predict", "--join", "a.csv", "b.csv", "--top", "3"], "--top"),
        (["predict", "--join", "a.csv", "b.csv", "--part", "1/2"], "--part"),
        (["predict", "--join", "a.csv", "b.csv", "--sort-into", "c"], "--sort-into"),
        (["predict", "--join", "a.csv", "b.csv", "--resume"], "--resume"),
        (["data", "check", ".", "--undo", "--out", "page.html"], "--out"),
        (["data", "check", ".", "--undo", "--model", "m"], "--model"),
    ],
)
def test_an_option_without_effect_is_refused(
    arguments: list[str], sentence: str, refused: Callable[[list[str]], str]
) -> None:
    assert f"{sentence} has no effect beside" in refused(arguments)


def test_undo_says_json_where_it_was_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a/1.jpg", "a/2.jpg", "b/1.jpg"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"no picture")
    assert run(["data", "check", str(tmp_path / "photos"), "--fix"]) in (0, 1)
    capsys.readouterr()
    assert run(["data", "check", str(tmp_path / "photos"), "--undo", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["left_aside"] == []
    assert told["put_back"] >= 3


@pytest.mark.parametrize("seed", [-1, -(2**63), 2**80, 7])
def test_a_sample_takes_any_seed(tmp_path: Path, seed: int) -> None:
    arguments = ["data", "sample", "digits", "--out", str(tmp_path), "--count", "2"]
    assert run([*arguments, "--seed", str(seed)]) == 0
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    "name", ["t-shirt/top", "a\0b", "two\nlines", "x" * 400, "é" * 200, "..", " "]
)
def test_a_sample_of_any_class_is_a_file(tmp_path: Path, name: str) -> None:
    images = np.arange(4 * 5 * 6 * 3, dtype=np.uint8).reshape(4, 5, 6, 3)
    dataset = Dataset.from_arrays(images, [0, 0, 1, 1], [name, "other"])
    done = write_sample(dataset, tmp_path / "out", count=9)
    assert done.split == "test"
    assert sorted(done.paths) == sorted((tmp_path / "out").iterdir())


def test_a_sample_says_where_it_is_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of one image a class none is held out: they are no test images."""
    np.savez(
        tmp_path / "few.npz",
        x_train=np.zeros((2, 4, 4), np.uint8),
        y_train=np.array([0, 1]),
    )
    out = str(tmp_path / "out")
    assert run(["data", "sample", str(tmp_path / "few.npz"), "--out", out]) == 0
    assert "wrote 2 train images" in capsys.readouterr().out
