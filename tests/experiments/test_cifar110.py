"""Two datasets as one of all their classes, and the recipe that learns from it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

import mlp_mixer as mm

SCRIPT = Path(__file__).parents[2] / "experiments" / "transfer" / "cifar110.py"


def write(path: Path, classes: list[str], seed: int) -> Path:
    rng = np.random.default_rng(seed)
    numbers = np.arange(8 * len(classes)) % len(classes)
    np.savez(
        path,
        x_train=rng.integers(0, 256, (len(numbers), 32, 32, 3), np.uint8),
        y_train=numbers,
        x_test=rng.integers(0, 256, (len(classes), 32, 32, 3), np.uint8),
        y_test=np.arange(len(classes)),
        classes=np.array(classes),
    )
    return path


def join(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_images_keep_their_classes_and_splits(tmp_path: Path) -> None:
    first = write(tmp_path / "a.npz", ["car", "bird", "ship"], 0)
    second = write(tmp_path / "b.npz", ["apple", "whale"], 1)
    done = join(f"npz:{first}", f"npz:{second}", tmp_path / "both.npz")
    assert done.returncode == 0, done.stderr
    both = mm.open_dataset(f"npz:{tmp_path / 'both.npz'}")
    assert both.train.classes == ("car", "bird", "ship", "apple", "whale")
    for number, path in enumerate((first, second)):
        own = mm.open_dataset(f"npz:{path}")
        for name in ("train", "test"):
            images, part = getattr(both, name), getattr(own, name)
            start = number * len(getattr(mm.open_dataset(f"npz:{first}"), name))
            for index in (0, len(part) - 1):
                found = images.image(start + index).astype(int)
                difference = np.abs(found - part.image(index)).mean()
                # Noise suffers from JPEG; another image would differ by 85.
                assert difference == 0 if name == "test" else 0 < difference < 30
                label = images.labels[start + index]
                assert images.classes[label] == part.classes[part.labels[index]]


def test_a_class_of_both_is_refused(tmp_path: Path) -> None:
    first = write(tmp_path / "a.npz", ["car", "bird"], 0)
    second = write(tmp_path / "b.npz", ["bird", "whale"], 1)
    done = join(f"npz:{first}", f"npz:{second}", tmp_path / "both.npz")
    assert done.returncode == 2
    assert "both datasets have the class 'bird'" in done.stderr
    assert not (tmp_path / "both.npz").exists()


def test_the_recipe_makes_the_network_of_the_weights(tmp_path: Path) -> None:
    data = write(tmp_path / "a.npz", ["car", "bird"], 0)
    settings = {
        "train.steps": 2,
        "train.batch_size": 8,
        "train.device": "cpu",
        "data.workers": 0,
        "data.val_fraction": 0.5,
    }
    mm.train("cifar110_8ep", tmp_path / "run", data=f"npz:{data}", settings=settings)
    model = mm.load(tmp_path / "run").model
    assert model.config.hidden_dim == 256
    assert model.config.num_blocks == 4
