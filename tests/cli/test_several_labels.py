"""Several labels per image, from a list of pictures to answers, as a person does it."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import mlp_mixer as mm
from mlp_mixer.cli import run

SETTINGS = (
    "train.epochs=25",
    "train.batch_size=32",
    "train.device=cpu",
    "train.threads=1",
    "train.eval_every_epochs=5",
    "train.ema=0",
    "model.num_blocks=1",
    "model.hidden_dim=16",
    "model.channels_mlp_dim=32",
    "data.val_fraction=0.3",
    "augment.rotate=0",
    "augment.shift=0",
    "augment.scale=0",
)
# A label -> where the picture is bright then.
PLACES = {"left": np.s_[:, :3], "right": np.s_[:, 5:], "middle": np.s_[3:5, 3:5]}


def call(*arguments: object) -> int:
    return run([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def listed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A list of pictures with noise; the middle is rare, and some have no label."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    rows = []
    for number in range(240):
        pixels = rng.normal(90, 25, (8, 8))
        own = []
        for (label, place), share in zip(PLACES.items(), (0.5, 0.4, 0.15), strict=True):
            if rng.random() < share:
                pixels[place] += 90
                own.append(label)
        name = f"{number:03d}.png"
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / name)
        rows.append([name, ";".join(own)])
    with (folder / "list.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["path", "labels"], *rows])
    return f"list:{folder / 'list.csv'}"


@pytest.fixture(scope="module")
def trained(listed: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    options = [word for setting in SETTINGS for word in ("--set", setting)]
    assert call("train", "digits", "--data", listed, "--out", out, *options) == 0
    return out


@pytest.fixture
def answer(capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Call with --json and return what it prints."""

    def ask(*arguments: object) -> Any:
        capsys.readouterr()
        assert call(*arguments, "--json") == 0
        return json.loads(capsys.readouterr().out)

    return ask


def test_the_checkpoint_says_how_it_answers(trained: Path) -> None:
    checkpoint = mm.load(trained)
    origin = checkpoint.provenance
    assert origin["head"] == "sigmoid"
    assert origin["labels_per_image"] == "several"
    assert set(origin["measured"]) >= {"map", "loss", "n"}
    assert "thresholds" not in origin["measured"]
    assert checkpoint.labels == ("left", "middle", "right")
    assert checkpoint.thresholds is not None
    assert all(0 < threshold < 1 for threshold in checkpoint.thresholds)
    config = json.loads((trained / "config.json").read_text())["config"]
    assert config["train"]["loss"] == "sigmoid"


def test_of_few_images_the_loss_chooses(trained: Path) -> None:
    rows = map(json.loads, (trained / "metrics.jsonl").read_text().splitlines())
    losses = [row["loss"] for row in rows if row["kind"] == "eval"]
    measured = mm.load(trained).provenance["measured"]
    assert measured["loss"] == min(losses)


def test_evaluate_is_better_than_not_looking(
    trained: Path, listed: str, answer: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    found = answer("evaluate", trained, "--data", listed)
    prevalence = [row["n"] / found["n"] for row in found["per_class"]]
    # Random scores have the share of each class as their average precision.
    assert found["map"] > np.mean(prevalence) + 0.3
    assert found["micro_f1"] > 0.75
    assert found["seen"] == 0
    result = mm.evaluate(trained, listed)
    assert isinstance(result, mm.evaluation.MultiLabelEvaluation)
    assert result.map == pytest.approx(found["map"])
    assert call("evaluate", trained, "--data", listed) == 0
    assert "mAP" in capsys.readouterr().out


def test_predict_gives_every_label_above_its_threshold(
    trained: Path, listed: str, answer: Any, tmp_path: Path, capsys: Any
) -> None:
    folder = Path(listed.removeprefix("list:")).parent
    pictures = [folder / f"{number:03d}.png" for number in range(40)]
    rows = answer("predict", "--model", trained, *pictures)
    thresholds = mm.load(trained).thresholds
    assert thresholds is not None
    for row in rows:
        scores = {one["label"]: one["score"] for one in row["top"]}
        above = {label for label in scores if scores[label] >= thresholds[label]}
        assert {one["label"] for one in row["labels"]} == above
    assert len({len(row["labels"]) for row in rows}) > 1

    out = tmp_path / "answers.csv"
    assert call("predict", "--model", trained, *pictures, "--out", out) == 0
    with out.open() as file:
        table = list(csv.DictReader(file))
    for row, line in zip(rows, table, strict=True):
        assert line["labels"] == ";".join(one["name"] for one in row["labels"])
        assert line["label_scores"].count(";") == max(0, len(row["labels"]) - 1)
    capsys.readouterr()
    assert call("predict", "--model", trained, *pictures) == 0
    assert "closest other" in capsys.readouterr().out


def test_the_split_is_read_back_by_list(trained: Path, listed: str) -> None:
    text = (trained / "split.csv").read_text()
    beside = Path(listed.removeprefix("list:")).parent / "split.csv"
    beside.write_text(text)
    again = mm.open_dataset(f"list:{beside}")
    assert again.val is not None
    before = mm.open_dataset(listed).all()
    assert again.train.classes == before.classes
    assert again.train.targets is not None
    names = [before.name(row) for row in range(len(before))]
    for row in range(len(again.train)):
        place = names.index(again.train.name(row))
        assert again.train.label_text(row) == before.label_text(place)


def test_the_report_shows_labels_instead_of_a_confusion(
    trained: Path, tmp_path: Path
) -> None:
    page = tmp_path / "report.html"
    assert call("report", trained, "--out", page) == 0
    text = page.read_text()
    assert "What was measured of each label" in text
    assert "mAP" in text
    assert "Confusion" not in text
    assert "Top-1" not in text


def test_a_killed_run_goes_on(trained: Path, listed: str, tmp_path: Path) -> None:
    class CrashError(Exception):
        pass

    def crash(row: dict[str, Any]) -> None:
        if row["kind"] == "eval":
            raise CrashError

    settings = [*SETTINGS, "train.save_every_steps=2", "mix.mixup=0.5"]
    short = [*settings, "train.epochs=6", "train.eval_every_epochs=3"]
    mm.train("digits", tmp_path / "whole", data=listed, settings=short)
    with pytest.raises(CrashError):
        mm.train("digits", tmp_path / "cut", data=listed, settings=short, report=crash)
    mm.train("digits", tmp_path / "cut", data=listed, settings=short, resume=True)
    found = [
        (tmp_path / name / "last.safetensors").read_bytes() for name in ("whole", "cut")
    ]
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["finetune", "RUN", "--frozen"], "(frozen) needs one label per image"),
        (["fewshot", "RUN"], "few-shot evaluation needs one label per image"),
        (["evaluate"], "this checkpoint gives one class per image (softmax)"),
        (["finetune", "RUN", "--set", "data.sampling=balanced"], "class_weights=auto"),
        (["finetune", "RUN", "--set", "distill.teacher=RUN"], "leave out distill"),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_sentence(
    trained: Path,
    listed: str,
    tmp_path: Path,
    words: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = [word.replace("RUN", str(trained)) for word in words]
    if words[0] == "finetune":
        arguments += ["--out", str(tmp_path / "tuned")]
    assert call(*arguments, "--data", listed) == 2
    streams = capsys.readouterr()
    assert message in streams.err
    assert "Traceback" not in streams.err


def test_one_label_each_cannot_judge_several(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("evaluate", trained, "--data", "digits") == 2
    assert "name all labels of each image in a list" in capsys.readouterr().err


def test_fine_tuning_weighs_rare_labels(
    trained: Path, listed: str, tmp_path: Path
) -> None:
    out = tmp_path / "tuned"
    options = []
    short = ("train.class_weights=auto", "train.epochs=1", "train.device=cpu")
    for setting in short:
        options += ["--set", setting]
    assert call("finetune", trained, "--data", listed, "--out", out, *options) == 0
    assert mm.load(out).thresholds is not None
    # The head that a single class would be chosen by is not fitted before.
    assert "before the first step" not in (out / "metrics.jsonl").read_text()


def test_pre_training_reads_no_labels(listed: str, tmp_path: Path) -> None:
    out = tmp_path / "pretrained"
    options = ["--set", "train.steps=2", "--set", "train.batch_size=8"]
    options += ["--set", "train.device=cpu"]
    assert call("pretrain", "--data", listed, "--out", out, *options) == 0
    assert mm.load(out).thresholds is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["predict", "--model", "RUN", "x.png", "--min-score", "0.5"], "leave it out"),
        (["predict", "--model", "RUN", "x.png", "--sort-into", "S"], "into one folder"),
        (
            ["average", "RUN", "RUN/last.safetensors", "--out", "A.safetensors"],
            "an average has none",
        ),
    ],
)
def test_what_wants_one_class_is_refused(
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call(*(word.replace("RUN", str(trained)) for word in words)) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_one_label_per_picture_answers_as_before(tmp_path: Path) -> None:
    prediction = mm.Predictor()(np.zeros((8, 8, 3), np.uint8))
    assert prediction.labels is None
    assert "labels" not in prediction.to_dict()


def test_an_export_is_not_judged_by_the_names_of_folders(
    trained: Path, tmp_path: Path, answer: Any
) -> None:
    folder = tmp_path / "left"
    folder.mkdir()
    rng = np.random.default_rng(2)
    Image.fromarray(rng.integers(0, 255, (8, 8), np.uint8)).save(folder / "one.png")
    out = tmp_path / "mixer.onnx"
    made = answer("export", trained, out, "--to", "onnx", "--check", tmp_path)
    assert [row["top1"] for row in made["rows"]] == [None, None]


def test_runs_shows_the_mean_average_precision(
    trained: Path, answer: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (run,) = answer("runs", trained)
    assert run["best_top1"] is None
    page = tmp_path / "compare.html"
    assert call("runs", trained, "--out", page) == 0
    text = f"mAP {100 * run['best_map']:.1f} %"
    assert text in capsys.readouterr().out
    assert text.replace(" %", "%") in page.read_text()
    assert "Validation mAP" in page.read_text()
