"""The recipes for CIFAR run, shortened, on files of CIFAR's kind, and their docstrings
state what they cost.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mlp_mixer import UserError, cost, create_model, load
from mlp_mixer.config import override
from mlp_mixer.recipes import RECIPES, get_recipe
from mlp_mixer.training import train


@pytest.mark.parametrize(
    "name",
    [
        "cifar10_16ep",
        "cifar10_50ep",
        "cifar10_60ep",
        "cifar10_200ep",
        "cifar100_200ep",
    ],
)
def test_a_few_steps_of_each(name: str, tmp_path: Path) -> None:
    config = get_recipe(name)
    data = config.data.source
    classes = 100 if config.data.source == "cifar100" else 10
    rng = np.random.default_rng(0)
    count = {"cifar10": 6, "cifar100": 4}[data] * classes
    numbers = np.arange(count) % classes
    columns = [numbers, numbers] if data == "cifar100" else [numbers]
    records = np.concatenate(
        [np.stack(columns, 1), rng.integers(0, 256, (count, 3072))], axis=1
    ).astype(np.uint8)
    files = (
        [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
        if data == "cifar10"
        else ["train", "test"]
    )
    for file in files:
        (tmp_path / f"{file}.bin").write_bytes(records.tobytes())
    quick = [
        "train.steps=2",
        "train.batch_size=8",
        "data.workers=0",
        "train.device=cpu",
        "data.val_fraction=0.5",
    ]
    quick += [
        "model.hidden_dim=16",
        "model.num_blocks=1",
        "model.tokens_mlp_dim=8",
        "model.channels_mlp_dim=32",
    ]
    quick += ["train.compile=false", f"data.source={json.dumps(f'{data}:{tmp_path}')}"]
    train(override(config, quick), tmp_path / "run")
    checkpoint = load(tmp_path / "run" / "last.safetensors")
    assert checkpoint.model.config.num_classes == classes
    assert checkpoint.provenance["recipe"] == name


@pytest.mark.parametrize(
    ("name", "operations"), [("cifar10_60ep", 5.4e15), ("cifar10_200ep", 7e16)]
)
def test_the_operations_that_a_docstring_states(name: str, operations: float) -> None:
    """Two for a multiply-accumulate, three times the forward pass, 50,000 images in
    each epoch.
    """
    config = get_recipe(name)
    recipe = RECIPES[name]
    macs = cost(create_model(config.model.name, num_classes=10)).macs
    assert 6 * macs * 50_000 * config.train.epochs == pytest.approx(
        operations, rel=0.06
    )
    assert f"{operations:.1e}".replace("+", "").replace(".0", "") in (
        recipe.__doc__ or ""
    )


def test_colours_of_a_recipe_do_not_fit_grey_images(tmp_path: Path) -> None:
    config = override(
        get_recipe("cifar10_16ep"), ["data.source=digits", "preprocess.mean=0.5"]
    )
    with pytest.raises(
        UserError,
        match=r"preprocess\.std has 3 numbers, and the images have 1 channels: give one",
    ):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
