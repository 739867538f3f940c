"""The recipes for Fashion-MNIST run, shortened, on images of its size, and train the
network they name.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mlp_mixer import load
from mlp_mixer.config import override
from mlp_mixer.data.dataset import Dataset
from mlp_mixer.recipes import get_recipe
from mlp_mixer.training import train


@pytest.mark.parametrize(
    ("name", "patch", "blocks"),
    [
        ("fashion_mnist", 7, 4),
        ("fashion_mnist_12ep", 4, 4),
        ("fashion_mnist_28ep", 4, 4),
        ("fashion_mnist_100ep", 2, 2),
    ],
)
def test_a_few_steps_of_each(
    name: str, patch: int, blocks: int, tmp_path: Path
) -> None:
    images = np.random.default_rng(0).integers(0, 256, (60, 28, 28, 1), dtype=np.uint8)
    source = Dataset.from_arrays(
        images, np.arange(60) % 10, [f"garment {k}" for k in range(10)]
    )
    quick = [
        "train.steps=2",
        "train.batch_size=8",
        "data.workers=0",
        "train.device=cpu",
        "data.val_fraction=0.5",
    ]
    quick += ["train.compile=false", f"model.num_blocks={blocks}"]
    train(override(get_recipe(name), quick), tmp_path / "run", source=source)
    checkpoint = load(tmp_path / "run" / "last.safetensors")
    shape = checkpoint.model.config
    assert (
        shape.image_size,
        shape.patch_size,
        shape.num_blocks,
        shape.in_channels,
    ) == ((28, 28), patch, blocks, 1)
    assert checkpoint.provenance["recipe"] == name
