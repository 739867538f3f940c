"""A folder of pictures, from files to answers: the path that most people take."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mlp_mixer import load, open_dataset
from mlp_mixer.cli import run

SMALL = {
    "model.image_size": "32",
    "model.patch_size": "8",
    "model.num_blocks": "2",
    "model.hidden_dim": "32",
    "model.tokens_mlp_dim": "16",
    "model.channels_mlp_dim": "64",
    "train.batch_size": "16",
    "train.epochs": "8",
    "train.device": "cpu",
    "train.ema": "0",
    "optim.lr": "3e-3",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos of many sizes and formats; below, meadows are green and seas are blue."""
    root = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for name, colour in (("meadow", (40, 160, 60)), ("sea", (30, 70, 190))):
        (root / name).mkdir()
        for number in range(40):
            height, width = rng.integers(30, 90, 2)
            pixels = rng.integers(90, 200, (height, width, 3)).astype(float)
            below = pixels[height // 2 :]
            below[:] = np.array(colour) + rng.normal(0, 25, below.shape)
            image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
            ending = ("jpg", "png", "webp")[number % 3]
            image.save(root / name / f"{number}.{ending}")
    return root


@pytest.fixture(scope="module")
def trained(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "photos"
    command = ["train", "photos", "--data", f"folder:{folder}", "--out", str(out)]
    for key, value in SMALL.items():
        command += ["--set", f"{key}={value}"]
    assert run(command) == 0
    return out


def test_it_learns_what_the_folders_say(
    trained: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["evaluate", str(trained), "--data", str(folder), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    held_out = open_dataset(str(folder)).test
    assert held_out is not None
    assert (result["n"], result["seen"]) == (len(held_out), 0)
    assert "20 % held out" in result["split"]
    assert result["top1"] >= 0.9


def test_the_checkpoint_answers_without_the_folder(
    trained: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = tmp_path / "alone.safetensors"
    alone.write_bytes((trained / "best.safetensors").read_bytes())
    pictures = [str(folder / "sea" / "0.jpg"), str(folder / "meadow" / "1.png")]
    assert run(["predict", str(alone), *pictures, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["pred_class"] for row in rows] == ["sea", "meadow"]
    assert load(alone).model.config.gelu == "erf"


def test_a_moved_folder_is_recognised(
    trained: Path, folder: Path, tmp_path: Path
) -> None:
    moved = tmp_path / "elsewhere"
    moved.symlink_to(folder)
    for data in (str(moved), f"folder:{moved}"):
        assert run(["evaluate", str(trained), "--data", data, "--split", "train"]) == 0
    assert run(["report", str(trained), "--data", f"folder:{moved}"]) == 0
    page = (trained / "report.html").read_text()
    assert "20 % held out" in page
    assert "evaluated on folder:elsewhere, test" in page
