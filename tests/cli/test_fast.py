"""`--fast` and `--precision` of the commands: what is admitted, and what is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torch import Tensor

from mlp_mixer import Predictor, evaluate, predict
from mlp_mixer.cli import run as command
from mlp_mixer.inference.identity import identity
from mlp_mixer.runtime import ENGINES, Way, choice, ways
from mlp_mixer.runtime.engines import plain
from mlp_mixer.weights.catalog import BUNDLED

TORCH_BF16 = Way("torch", "bf16")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Five pictures of two classes that the bundled network knows."""
    rng = np.random.default_rng(0)
    for number in range(5):
        name = ("cat", "ship")[number % 2]
        path = tmp_path / "photos" / name / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    return tmp_path / "photos"


@pytest.fixture
def fast_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which bf16 is faster than fp32, and nothing else is there."""
    clock = [0.0]

    def slow(model: Any) -> Any:
        run = plain(model)

        def answer(images: Tensor) -> Tensor:
            clock[0] += 1.0
            return run(images)

        return answer

    def rounded(model: Any) -> Any:
        run = plain(model)

        def answer(images: Tensor) -> Tensor:
            clock[0] += 0.25
            return run(images) * (1 + 2**-8)

        return answer

    monkeypatch.setattr(ways, "bf16_gain", lambda: 2.0)
    monkeypatch.setitem(ENGINES, "torch", slow)
    monkeypatch.setitem(ways._ROUNDED, TORCH_BF16, rounded)
    others = lambda model, name: None if name == "torch" else "not here"  # noqa: E731
    monkeypatch.setattr(ways, "why_not", others)
    monkeypatch.setattr(choice.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(choice, "PATIENCE", 0.0)


def call(*arguments: object) -> int:
    return command([str(argument) for argument in arguments])


@pytest.mark.usefixtures("fast_machine")
def test_predict_says_what_computed(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("predict", photos, "--fast", "--json") == 0
    answers = json.loads(capsys.readouterr().out)
    assert [answer["precision"] for answer in answers] == ["bf16"] * 5
    assert all(answer["difference"] == pytest.approx(2**-8) for answer in answers)

    assert call("predict", photos, "--fast") == 0
    said = capsys.readouterr().err
    assert "computed in bf16 by torch: logits differ by at most 0.0039 of the" in said
    assert "4.0 times as fast as fp32" in said

    out = tmp_path / "answers.jsonl"
    assert call("predict", photos, "--fast", "--out", out, "--json") == 0
    computed = json.loads(capsys.readouterr().out)["computed"]
    assert (computed["precision"], computed["engine"]) == ("bf16", "torch")
    assert computed["images"] == {"bf16": 5}
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert {row["precision"] for row in rows} == {"bf16"}
    # The columns of a table stay those that they were.
    assert call("predict", photos, "--fast", "--out", tmp_path / "a.csv") == 0
    assert "precision" not in (tmp_path / "a.csv").read_text()


@pytest.mark.usefixtures("fast_machine")
@pytest.mark.parametrize("options", [[], ["--precision", "fp32"]])
def test_without_it_nothing_changes(
    options: list[str], photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("predict", photos, *options, "--json") == 0
    answers = json.loads(capsys.readouterr().out)
    assert all("precision" not in answer for answer in answers)
    assert all("difference" not in answer for answer in answers)
    assert call("predict", photos, *options) == 0
    assert "computed in" not in capsys.readouterr().err


@pytest.mark.usefixtures("fast_machine")
def test_evaluate_records_what_computed(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("evaluate", "--data", f"folder:{photos}", "--split", "all")
    assert call(*arguments, "--json") == 0
    exact = json.loads(capsys.readouterr().out)
    assert exact["computed"]["precision"] == "fp32"
    assert call(*arguments, "--fast", "--json") == 0
    found = capsys.readouterr()
    fast = json.loads(found.out)
    assert fast["computed"]["precision"] == "bf16"
    assert fast["computed"]["difference"] == pytest.approx(2**-8)
    assert fast["computed"]["tolerance"] == 0.1
    assert "computed in bf16 by torch" in found.err
    assert fast["top1"] == exact["top1"]
    assert fast["loss"] == pytest.approx(exact["loss"], rel=0.02)
    # Python has it too.
    result = evaluate(BUNDLED, f"folder:{photos}", split="all", tolerance=0.1)
    assert result.computed["precision"] == "bf16"
    answers = predict(sorted(photos.rglob("*.png")), tolerance=0.1)
    assert {answer.to_dict()["precision"] for answer in answers} == {"bf16"}


def test_bf16_that_is_asked_for_is_computed_and_told(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for options in ([], ["--engine", "torch"]):
        code = call("predict", photos, "--precision", "bf16", *options, "--json")
        assert code == 0
        answers = json.loads(capsys.readouterr().out)
        assert {answer["precision"] for answer in answers} == {"bf16"}
        assert all(0 < answer["difference"] < 0.1 for answer in answers)


@pytest.mark.parametrize("verb", ["predict", "evaluate", "serve"])
@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--fast", "--precision", "fp32"], "leave one away"),
        (["--precision", "bf61"], "unknown precision 'bf61'; did you mean 'bf16'"),
        (["--precision", "int8"], "unknown precision 'int8'"),
    ],
)
def test_contradictions_are_one_sentence(
    verb: str,
    options: list[str],
    said: str,
    photos: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if verb == "serve":
        pytest.importorskip("uvicorn")
    what = {
        "predict": [photos],
        "evaluate": ["--data", f"folder:{photos}", "--split", "all"],
        "serve": ["--port", "0"],
    }
    assert call(verb, *what[verb], *options) == 2
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error


def test_a_stopped_run_goes_on_with_what_it_admitted() -> None:
    exact = identity(Predictor())
    assert {"tolerance", "precision"}.isdisjoint(exact), "files of 0.1.0 lack them"
    found = [
        identity(Predictor(tolerance=0.1)),
        identity(Predictor(tolerance=0.2)),
        identity(Predictor(precision="bf16")),
    ]
    for one in found:
        others = [other for other in (exact, *found) if other is not one]
        assert one not in others
    assert identity(Predictor(tolerance=0.1)) == found[0]
    assert identity(Predictor(tolerance=0.1, precision="fp32")) == exact
