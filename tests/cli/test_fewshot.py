"""`mlp-mixer fewshot`, and `mlp-mixer evaluate` on ImageNet's test sets, as a person
and a program use them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mlp_mixer import MixerConfig, MlpMixer, Preprocess, save
from mlp_mixer.cli import run
from mlp_mixer.evaluation.corruptions import (
    ALEXNET_ERRORS,
    SEVERITIES,
    corruption_errors,
)
from mlp_mixer.weights.labels import class_names, wordnet_ids


def call(*arguments: object) -> int:
    """Run the command and return its exit code."""
    return run([str(argument) for argument in arguments])


Json = Callable[..., Any]
WNIDS = wordnet_ids("imagenet1k")


@pytest.fixture
def answer(capsys: pytest.CaptureFixture[str]) -> Json:
    """Run with --json and give what it prints."""

    def ask(*arguments: str) -> Any:
        capsys.readouterr()
        assert call(*arguments, "--json", "--device", "cpu") == 0
        return json.loads(capsys.readouterr().out)

    return ask


@pytest.fixture
def headless(tmp_path: Path) -> str:
    """An untrained network: a random projection of digits is worth something."""
    model = MlpMixer(
        MixerConfig(4, 1, 16, 4, 8, image_size=(8, 8), in_channels=1, num_classes=0)
    )
    return str(
        save(
            tmp_path / "w.safetensors",
            model,
            preprocess=Preprocess((8, 8), channels=1, crop_pct=1.0),
        )
    )


def test_fewshot_for_programs(headless: str, answer: Json) -> None:
    said = answer("fewshot", headless, "--data", "digits", "--knn", "20")
    assert said["split"] == "test (20 % held out by seed 0)"
    assert said["data"] == "digits"
    assert said["n"] == 351
    assert said["classes"] == 10
    assert said["l2"] == 1024
    assert [*said["shots"]] == ["1", "5", "10", "25"]
    for point in said["shots"].values():
        assert [*point["seeds"]] == ["0", "1", "2"]
        assert point["mean"] == pytest.approx(np.mean([*point["seeds"].values()]))
    means = [point["mean"] for point in said["shots"].values()]
    assert 0.2 < means[0] < means[3] < said["knn"] < 1
    fewer = answer(
        "fewshot",
        headless,
        "--data",
        "digits",
        "--shots",
        "25,5",
        "--seeds",
        "2",
        "--batch-size",
        "7",
    )
    assert (fewer["knn"], fewer["resize"]) == (None, "as the checkpoint")
    assert [*fewer["shots"]] == ["25", "5"]
    assert fewer["shots"]["5"]["seeds"] == {
        "2": pytest.approx(said["shots"]["5"]["seeds"]["2"], abs=1 / 351)
    }
    weak = answer(
        "fewshot",
        headless,
        "--data",
        "digits",
        "--shots",
        "25",
        "--l2",
        "1e-3",
        "--resize",
        "resize",
    )
    assert (weak["l2"], weak["resize"]) == (1e-3, "resize")
    assert weak["shots"]["25"]["mean"] != said["shots"]["25"]["mean"]


def test_fewshot_for_people(headless: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--shots", "1,5", "--seeds", "3,0", "--knn", "5", "--resize", "resize"]
    assert call("fewshot", headless, "--data", "digits", *arguments) == 0
    first, headings, *rows, last = capsys.readouterr().out.splitlines()
    assert first.endswith(
        "w.safetensors on digits, test (20 % held out by seed 0): n = 351, 10 classes, l2 = 1024"
    )
    assert headings.split() == ["shots", "mean", "[95", "%]", "seed", "3", "seed", "0"]
    assert [row.split()[0] for row in rows] == ["1", "5"]
    one, two, three = (float(value) for value in re.findall(r"([\d.]+) %", rows[1]))
    # In whole percents.
    assert one == pytest.approx((two + three) / 2, abs=1)
    assert last.startswith("5 nearest neighbours: ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--shots", "1,x"], "--shots is '1,x': expected whole numbers from 1"),
        (["--shots", "0"], "--shots is '0'"),
        (["--shots", ""], "--shots is ''"),
        (["--seeds", "-1"], "--seeds is '-1': expected whole numbers from 0"),
        (
            ["--shots", "1,500"],
            "500 shots need as many images of each class to learn from, '0' has 143",
        ),
        (["--l2", "0"], "l2 is 0"),
        (["--knn", "5000"], "k is 5000: expected 1 to 1446"),
        (["--knn", "0"], "--knn"),
        (["--resize", "none"], "--resize"),
    ],
)
def test_mistakes_are_one_sentence(
    headless: str,
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert call("fewshot", headless, "--data", "digits", *arguments) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n"), err.startswith("error: ")) == ("", 1, True)
    assert message in err


@pytest.fixture
def imagenet(tmp_path: Path) -> str:
    """A network with ImageNet's classes and a random head."""
    torch.manual_seed(0)
    model = MlpMixer(MixerConfig(4, 1, 8, 4, 8, image_size=(8, 8)))
    torch.nn.init.normal_(model.head.weight)
    path = tmp_path / "in1k.safetensors"
    return str(
        save(
            path, model, preprocess=Preprocess((8, 8)), labels=class_names("imagenet1k")
        )
    )


def plant(root: Path, *folders: str, count: int = 3) -> Path:
    rng = np.random.default_rng(0)
    for folder in folders:
        (root / folder).mkdir(parents=True)
        for i in range(count):
            Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(
                root / folder / f"{i}.png"
            )
    return root


def test_the_rule_of_a_and_r_is_stated(
    imagenet: str, tmp_path: Path, answer: Json, capsys: pytest.CaptureFixture[str]
) -> None:
    root = plant(tmp_path / "r", *WNIDS[:4])
    said = answer("evaluate", imagenet, "--data", f"imagenet_r:{root}")
    assert said["among"] == 4
    assert said["split"] == "test among 4 classes"
    assert said["n"] == 12
    assert said["top5"] == 1
    code = call("evaluate", imagenet, "--data", f"imagenet_r:{root}", "--device", "cpu")
    assert code == 0
    assert ", test among 4 classes: top-1 " in capsys.readouterr().out
    sketch = answer("evaluate", imagenet, "--data", f"imagenet_sketch:{root}")
    assert (sketch["among"], sketch["split"]) == (None, "test")
    assert sketch["top1"] < said["top1"]


def test_every_condition_of_c_and_their_mean(
    imagenet: str, tmp_path: Path, answer: Json, capsys: pytest.CaptureFixture[str]
) -> None:
    """The mean is over conditions, however many images each has.

    Those of the folder `extra` are told apart.
    """
    root = plant(tmp_path / "c", *(f"fog/1/{wnid}" for wnid in WNIDS[:2]), count=1)
    plant(
        root, *(f"snow/{severity}/{wnid}" for severity in (1, 5) for wnid in WNIDS[:5])
    )
    two = WNIDS[:2]
    plant(root, *(f"extra/saturate/{k}/{wnid}" for k in range(1, 6) for wnid in two))
    said = answer("evaluate", imagenet, "--data", f"imagenet_c:{root}")
    each = said["conditions"]
    assert len(each) == 8
    assert said["extra"] == {
        "saturate": pytest.approx(1 - np.mean([row["top1"] for row in each[:5]]))
    }
    assert (said["mce"], len(said["missing"])) == (None, 72)
    each = each[5:]
    ends = [condition["data"].removeprefix(f"imagenet_c:{root}/") for condition in each]
    assert ends == ["fog/1", "snow/1", "snow/5"]
    assert ([condition["n"] for condition in each], said["n"]) == ([2, 15, 15], 32)
    for key in ("top1", "top5", "loss"):
        assert said[key] == pytest.approx(
            np.mean([condition[key] for condition in each])
        )
    alone = answer("evaluate", imagenet, "--data", f"imagenet_c:{root}/snow/5")
    # The classes of all 75 conditions would be 75,000 rows.
    per_class = alone.pop("per_class")
    assert sum(row["n"] for row in per_class) == alone["n"]
    # How many images a second is no answer.
    assert alone.pop("computed")["precision"] == each[2].pop("computed")["precision"]
    assert alone == {"checkpoint": imagenet, **each[2]}
    assert alone["split"] == "test, 8 x 8 pixels as they are"
    code = call("evaluate", imagenet, "--data", f"imagenet_c:{root}", "--device", "cpu")
    assert code == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 11
    assert lines[8].startswith("mean of 3 conditions: top-1 ")
    assert lines[9] == "no mCE: 72 of its 75 conditions are missing"
    assert lines[10].startswith("errors of other corruptions, not counted: saturate ")


def test_all_conditions_of_c_have_an_mce(
    imagenet: str, tmp_path: Path, answer: Json, capsys: pytest.CaptureFixture[str]
) -> None:
    root = plant(
        tmp_path / "c",
        *(
            f"{word}/{k}/{wnid}"
            for word in ALEXNET_ERRORS
            for k in SEVERITIES
            for wnid in WNIDS[:2]
        ),
        count=1,
    )
    said = answer("evaluate", imagenet, "--data", f"imagenet_c:{root}")
    top1 = {row["data"]: row["top1"] for row in said["conditions"]}
    assert said["mce"] == pytest.approx(corruption_errors(top1).mce)
    assert (len(said["corruption_errors"]), said["missing"]) == (15, [])
    assert call("evaluate", imagenet, "--data", f"imagenet_c:{root}") == 0
    last = capsys.readouterr().out.splitlines()[76]
    assert last == f"mCE {100 * said['mce']:.1f} % (AlexNet 100 %, 15 corruptions)"
    assert (said["relative_mce"], said["relative_errors"]) == (None, {})
    how = ("evaluate", imagenet, "--clean-top1", "0.6", "--data", f"imagenet_c:{root}")
    relative = answer(*how)["relative_mce"]
    assert relative == pytest.approx(corruption_errors(top1, 0.6).relative_mce)
    assert call(*how) == 0
    last = capsys.readouterr().out.splitlines()[77]
    assert last == f"relative mCE {100 * relative:.1f} % (AlexNet 100 %)"


@pytest.mark.parametrize(
    ("place", "share", "message"),
    [
        ("fog/1", "0.6", "--clean-top1 goes with all conditions of ImageNet-C"),
        ("", "60", "the accuracy on clean images is 60.0: expected a fraction"),
    ],
)
def test_a_clean_accuracy_that_says_nothing(
    imagenet: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    place: str,
    share: str,
    message: str,
) -> None:
    root = plant(tmp_path / "c", *(f"fog/{k}/{WNIDS[0]}" for k in (1, 2)))
    data = f"imagenet_c:{root / place}"
    assert call("evaluate", imagenet, "--data", data, "--clean-top1", share) == 2
    told = capsys.readouterr()
    assert message in told.err
    assert told.out == ""


def test_conditions_with_other_names_are_refused_before_the_work(
    imagenet: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = plant(tmp_path / "c", *(f"fog/hard{k}/{WNIDS[0]}" for k in (1, 2)))
    assert call("evaluate", imagenet, "--data", f"imagenet_c:{root}") == 2
    told = capsys.readouterr()
    assert "is no condition of ImageNet-C" in told.err
    assert told.out == ""


def test_nothing_is_learnt_from_a_test_set(
    imagenet: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = plant(tmp_path / "a", *WNIDS[:2])
    for verb in (
        ["fewshot", imagenet, "--data"],
        ["evaluate", imagenet, "--split", "train", "--data"],
    ):
        assert call(*verb, f"imagenet_a:{root}") == 2
        error = capsys.readouterr().err
        assert "imagenet_a is a test set without images to learn from" in error
    out = tmp_path / "run"
    code = call(
        "train", "digits", "--set", f"data.source=imagenet_a:{root}", "--out", out
    )
    assert code == 2
    error = capsys.readouterr().err
    assert "imagenet_a is a test set without images to learn from" in error
    assert not out.exists()
