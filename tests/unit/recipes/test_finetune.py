"""Fine-tuning chooses by the number of images, their size, and the weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import mlp_mixer as mm
from mlp_mixer import api
from mlp_mixer.recipes.finetune import finetune_auto
from mlp_mixer.weights.catalog import START


@pytest.mark.parametrize("images", [1, 30, 300, 2_000, 100_000])
def test_the_images_that_are_seen_do_not_depend_on_the_batch(images: int) -> None:
    on_cpu = finetune_auto("w", "folder:x", images)
    on_gpu = finetune_auto("w", "folder:x", images, gpu=True)
    assert on_cpu.train.epochs == on_gpu.train.epochs
    assert 2 <= on_cpu.train.epochs <= 30
    assert on_cpu.train.batch_size <= on_gpu.train.batch_size
    # SGD: the same step for each image.
    for config in (on_cpu, on_gpu):
        assert config.optim.lr == pytest.approx(0.01 * config.train.batch_size / 32)


def photos(root: Path, side: int) -> str:
    images = np.random.default_rng(0).integers(0, 256, (20, side, side, 3), np.uint8)
    path = root / "x.npz"
    np.savez(path, x_train=images, y_train=np.arange(20) % 2)
    return f"npz:{path}"


def test_the_bundled_weights_get_photos_at_64_pixels(tmp_path: Path) -> None:
    for weights in (None, "mixer_nano4.cifar10"):
        config = api.finetune_config(weights, photos(tmp_path, 80))
        assert config.model.init == (weights or START)
        assert (config.model.image_size, config.model.patch_size) == (64, 4)
        assert config.model.resize == "interpolate"
        assert config.optim.name == "muon"
        assert config.model.head == "fitted"
    small = api.finetune_config(None, photos(tmp_path, 32))
    assert small.model.image_size is None


@pytest.mark.parametrize(("channels", "optimizer"), [(256, "muon"), (264, "sgd")])
def test_narrow_networks_learn_by_muon(
    tmp_path: Path, channels: int, optimizer: str
) -> None:
    model = mm.create_model(
        "mixer_nano4", num_classes=2, num_blocks=1, hidden_dim=channels
    )
    path = mm.save(tmp_path / "w.safetensors", model)
    assert api.finetune_config(path, "digits").optim.name == optimizer
    # Published weights are not downloaded to be asked.
    config = api.finetune_config("mixer_b16.goog_in21k", "digits")
    assert config.optim.name == "sgd"


def test_the_recipes_of_the_paper_begin_with_zeros() -> None:
    for name in ("finetune_imagenet", "finetune_cifar10", "finetune_small"):
        assert mm.get_recipe(name).model.head == "zero"
