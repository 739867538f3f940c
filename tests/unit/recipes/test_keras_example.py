"""The Keras example's network has its sizes, and its recipe runs on CIFAR-100's files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from mlp_mixer import load
from mlp_mixer.config import override
from mlp_mixer.models import cost
from mlp_mixer.recipes.keras_example import keras_cifar100
from mlp_mixer.training import train


def test_keras_cifar100_on_a_few_images(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("train", "test"):
        coarse_and_fine = np.stack([np.zeros(200), np.arange(200) // 2], axis=1)
        records = np.concatenate(
            [coarse_and_fine, rng.integers(0, 256, (200, 3072))], axis=1
        )
        (tmp_path / f"{name}.bin").write_bytes(records.astype(np.uint8).tobytes())
    quick = [
        "train.steps=2",
        "train.batch_size=8",
        "data.val_fraction=0.5",
        "data.workers=0",
        "train.device=cpu",
    ]
    source = f"data.source={json.dumps(f'cifar100:{tmp_path}')}"
    train(override(keras_cifar100(), [source, *quick]), tmp_path / "run")
    model = load(tmp_path / "run" / "last.safetensors").model
    # By hand: Dense(256) on 8 x 8 x 3; 4 x (64 -> 64 -> 64 over tokens, 256 -> 64 ->
    # 256 over channels), two norms of
    # 512 to a block where the example shares one; Dense(100).
    body = 4 * (2 * (64 * 64 + 64) + (256 * 64 + 64 + 64 * 256 + 256) + 2 * 512)
    assert cost(model).params == 192 * 256 + 256 + body + 256 * 100 + 100
    assert model.config.image_size == (64, 64)
    assert model.config.dropout == 0.2
