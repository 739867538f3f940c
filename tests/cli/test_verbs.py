"""The command as a person uses it: train, evaluate, predict, report on real digits, and
what programs read.
"""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import mlp_mixer
import mlp_mixer.cli
from mlp_mixer.cli import run


def call(*arguments: object) -> int:
    """Run the command and return its exit code."""
    return run([str(argument) for argument in arguments])


Json = Callable[..., Any]
QUICK = [
    "--set",
    "train.epochs=3",
    "--set",
    "train.eval_every_epochs=1",
    "--set",
    "train.device=cpu",
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run of the digits recipe from the command line."""
    out = tmp_path_factory.mktemp("runs") / "digits"
    assert call("train", "digits", "--out", out, *QUICK) == 0
    return out


@pytest.fixture
def samples(tmp_path: Path) -> list[str]:
    code = call(
        "data", "sample", "digits", "--out", tmp_path / "samples", "--count", "3"
    )
    assert code == 0
    return sorted(str(path) for path in (tmp_path / "samples").iterdir())


@pytest.fixture
def answer(capsys: pytest.CaptureFixture[str]) -> Json:
    """Run with --json and give what it prints."""

    def ask(*arguments: str, code: int = 0) -> Any:
        capsys.readouterr()
        assert call(*arguments, "--json") == code
        return json.loads(capsys.readouterr().out)

    return ask


def test_models_for_programs(answer: Json) -> None:
    rows = {row["name"]: row for row in answer("models")}
    b16 = rows["mixer_b16"]
    assert b16["params"] == 59_880_472
    assert [
        f"{b16[key]:.2f}" for key in ("gmacs", "gmacs_mmpretrain", "gmacs_fvcore")
    ] == ["12.60", "12.61", "12.62"]
    assert f"{rows['mixer_l16']['gmacs_mmpretrain']:.2f}" == "44.57"


def test_models_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("models", "mixer_b*") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == [
        "mixer_b32",
        "224x224",
        "32",
        "60,293,428",
        "3.238",
        "3.239",
        "3.242",
        "48.4",
    ]


def test_recipes_are_listed(answer: Json, capsys: pytest.CaptureFixture[str]) -> None:
    assert answer("recipes")["digits"]["data"]["source"] == "digits"
    assert call("recipes") == 0
    assert "digits" in capsys.readouterr().out


def test_training_leaves_its_files(trained: Path) -> None:
    for name in (
        "best.safetensors",
        "last.safetensors",
        "metrics.jsonl",
        "config.json",
    ):
        assert (trained / name).is_file()
    kinds = [
        json.loads(line)["kind"]
        for line in (trained / "metrics.jsonl").read_text().splitlines()
    ]
    assert kinds.count("eval") == 3


def test_evaluate_measures_on_held_out_images(trained: Path, answer: Json) -> None:
    result = answer("evaluate", str(trained / "best.safetensors"), "--data", "digits")
    assert (result["n"], result["seen"]) == (351, 0)
    low, high = result["interval"]
    assert low < result["top1"] < high
    assert 0.2 < result["top1"] <= result["top5"] <= 1
    recalls = [row["recall"] for row in result["per_class"]]
    assert result["balanced_top1"] == pytest.approx(sum(recalls) / len(recalls))
    assert sum(row["n"] for row in result["per_class"]) == result["n"]
    whole = answer("evaluate", str(trained), "--data", "digits", "--split", "all")
    assert whole["n"] == 1797


def test_predict_answers_in_the_contracts_form(
    trained: Path, samples: list[str], answer: Json
) -> None:
    rows = answer("predict", str(trained / "best.safetensors"), *samples)
    assert [row["path"] for row in rows] == samples
    for row in rows:
        assert row["pred_class"] == str(row["pred_label"])
        assert len(row["top"]) == 5
        assert row["top"][0]["score"] == row["pred_score"]
    assert answer("predict", "--model", str(trained), *samples) == rows


def test_predict_goes_on_after_a_bad_picture(
    trained: Path, samples: list[str], answer: Json, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = answer(
        "predict", str(trained), samples[0], "nowhere.png", samples[1], code=1
    )
    assert ["error" in row for row in rows] == [False, True, False]
    assert call("predict", trained, samples[0], "nowhere.png") == 1
    streams = capsys.readouterr()
    assert "nowhere.png" in streams.err
    assert "1 of 2 pictures could not be read" in streams.err
    assert samples[0] in streams.out


def test_report_is_one_page(trained: Path) -> None:
    assert call("report", trained) == 0
    page = (trained / "report.html").read_text()
    assert "Expected calibration error" in page
    assert "fitted on the validation images" in page
    shown = re.search(r"The (\d+) with the highest confidence", page)
    assert shown is not None
    assert page.count("the same picture under a map") == int(shown[1]) > 0
    code = call("report", trained, "--data", "digits", "--out", trained / "other.html")
    assert code == 0
    assert "a temperature" not in (trained / "other.html").read_text()
    assert "top-1" in page
    assert page.count("<svg") >= 3
    assert page.count("data:image/png") > 12
    assert "http://" not in page.replace("http://www.w3.org", "")


def test_a_finished_run_resumes_to_itself(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (trained / "last.safetensors").read_bytes()
    assert call("train", trained / "config.json", "--out", trained, "--resume") == 0
    assert (trained / "last.safetensors").read_bytes() == before
    assert "already finished" in capsys.readouterr().err


def test_python_m_is_the_same_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mlp_mixer", "--version"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith(f"mlp-mixer {mlp_mixer.__version__}")
    assert done.stderr == ""


PACKAGE_IMPORTS = """
import sys, mlp_mixer
assert "torch" not in sys.modules
dir(mlp_mixer)
assert "torch" not in sys.modules
mlp_mixer.create_model
assert "torch" in sys.modules
assert "torchvision" not in sys.modules
assert "sklearn" not in sys.modules
"""

PUBLIC_NAMES = """
import mlp_mixer
for name in (*mlp_mixer.__all__, *dir(mlp_mixer)):
    getattr(mlp_mixer, name)
assert mlp_mixer.training.TrainConfig
assert mlp_mixer.evaluation.Evaluation
assert set(mlp_mixer.__all__) <= set(dir(mlp_mixer))
assert not hasattr(mlp_mixer, "frobnicate")
"""


def test_the_package_imports_lightly() -> None:
    """No torch, no device, no global state: names come when first used."""
    subprocess.run([sys.executable, "-c", PACKAGE_IMPORTS], check=True)


def test_every_public_name_is_there() -> None:
    """From a process that has imported nothing yet, names first and rooms after them."""
    subprocess.run([sys.executable, "-c", PUBLIC_NAMES], check=True)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "--help",
        "--version",
        "recipes",
        "recipes --json",
        "train --help",
        "predict --help",
        "data --help",
        "models --weights",
        "train digts",
    ],
)
def test_answers_that_need_no_torch_do_not_load_it(line: str) -> None:
    """Torch takes seconds to load."""
    program = """
import sys
from mlp_mixer.cli import run
run(sys.argv[1:])
heavy = {"torch", "sklearn", "torchvision", "pandas"} & set(sys.modules)
assert not heavy, heavy
"""
    command = [sys.executable, "-c", program, *line.split()]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_verbs_do_not_import_each_other() -> None:
    """What two verbs share lies in a file of its own."""
    folder = Path(mlp_mixer.cli.__file__).parent
    shared = {
        "__init__",
        "arguments",
        "complete",
        "console",
        "next_steps",
        "predict_parts",
        "progress",
        "streams",
        "told",
    }
    verbs = {path.stem for path in folder.glob("*.py")} - shared
    found = []
    for path in folder.glob("*.py"):
        if path.stem == "__init__":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.ImportFrom) or node.level != 1:
                continue
            names = {node.module or ""} | {alias.name for alias in node.names}
            found += [f"{path.stem} -> {name}" for name in names & verbs]
    assert not found
