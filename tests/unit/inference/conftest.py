"""A small checkpoint, and pictures for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mlp_mixer import (
    Checkpoint,
    Preprocess,
    create_model,
)


@pytest.fixture
def checkpoint() -> Checkpoint:
    model = create_model(
        "mixer_nano4", num_classes=6, num_blocks=1, hidden_dim=8, image_size=16
    ).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return Checkpoint(model, Preprocess((16, 16)), tuple("abcdef"))


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    rng = np.random.default_rng(0)
    paths = [tmp_path / f"{number}.png" for number in range(5)]
    for path in paths:
        Image.fromarray(rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(path)
    return paths


@pytest.fixture
def tree(tmp_path: Path, pictures: list[Path]) -> Path:
    """Pictures at three depths, beside what is none."""
    root = tmp_path / "tree"
    for name in (
        "b/deep/1.PNG",
        "b/2.png",
        "b.png",
        "a.png",
        "b/deep/0.png",
        "z/é ü.png",
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(pictures[0].read_bytes())
    for name in (".hidden.png", ".git/x.png", "b/notes.txt", "b/png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"no picture")
    return root
