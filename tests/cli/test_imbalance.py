"""Imbalanced classes on the command line: what evaluate says, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mlp_mixer.cli import run


@pytest.fixture
def photos(tmp_path: Path) -> str:
    """Nineteen pictures of noise that are called cats, and a frog: a folder's spec."""
    rng = np.random.default_rng(0)
    for number in range(20):
        folder = tmp_path / "photos" / ("frog" if number == 0 else "cat")
        folder.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return f"folder:{tmp_path / 'photos'}"


def test_evaluate_says_that_one_class_explains_the_number(
    photos: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["evaluate", "--data", photos]) == 0
    plain = capsys.readouterr()
    assert "always answering 'cat' would give 95 %" in plain.err
    assert run(["evaluate", "--data", photos, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    images = {row["class"]: row["n"] for row in found["per_class"] if row["n"]}
    assert images == {"cat": 19, "frog": 1}
    recalls = [row["recall"] for row in found["per_class"] if row["n"]]
    assert found["balanced_top1"] == pytest.approx(sum(recalls) / 2)
    differs = abs(found["balanced_top1"] - found["top1"]) > 0.01
    assert ("balanced accuracy" in plain.out) == differs


@pytest.mark.parametrize(
    "setting", ["train.class_weights=auto", "data.sampling=balanced"]
)
def test_a_linear_probe_ignores_no_setting_in_silence(
    photos: str, setting: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["finetune", "mixer_nano4.cifar10", "--data", photos, "--frozen"]
    words += ["--out", str(tmp_path / "run"), "--set", setting]
    assert run(words) == 2
    assert "leave out train.class_weights and data.sampling" in capsys.readouterr().err
