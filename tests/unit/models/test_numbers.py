"""Numbers of NumPy and torch are numbers, at every door of a network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mlp_mixer import (
    MixerConfig,
    MlpMixer,
    Preprocess,
    UserError,
    cost,
    create_model,
    load,
    resize,
    save,
)

KINDS: list[Callable[[int], Any]] = [
    np.int64,
    np.int32,
    np.uint8,
    torch.tensor,
    lambda number: np.array(number),
    lambda number: np.array([number]).max(),
]


@pytest.mark.parametrize("kind", KINDS)
def test_whole_numbers_of_others(tmp_path: Path, kind: Callable[[int], Any]) -> None:
    model = create_model(
        "mixer_pico2",
        num_classes=kind(3),
        image_size=kind(8),
        in_channels=kind(1),
        num_blocks=kind(1),
    )
    plain = create_model(
        "mixer_pico2", num_classes=3, image_size=8, in_channels=1, num_blocks=1
    )
    assert model.config == plain.config
    model.reset_classifier(kind(4))
    loaded = load(save(tmp_path / "m.safetensors", model), image_size=kind(8))
    assert loaded.model.config.num_classes == 4
    assert resize(loaded, kind(16)).model.config.image_size == (16, 16)
    assert cost(model, kind(16)) == cost(model, 16)


def test_a_configuration_by_hand_is_written_too(tmp_path: Path) -> None:
    config = MixerConfig(
        *np.array([2, 1, 8, 4, 16]),
        image_size=(np.int64(8), np.int64(8)),
        num_classes=np.int64(2),
        dropout=np.float32(0.5),
    )
    path = save(
        tmp_path / "m.safetensors",
        MlpMixer(config),
        preprocess=Preprocess(
            np.array([8, 8]), mean=np.float32(0.5), std=np.array([0.5, 0.5, 0.5])
        ),
    )
    assert load(path).model.config == MixerConfig(
        2, 1, 8, 4, 16, image_size=(8, 8), num_classes=2, dropout=0.5
    )


@pytest.mark.parametrize("number", ["3", 3.0, True, None, -1, np.float64(3), [3]])
def test_what_is_no_number_of_classes(number: Any) -> None:
    with pytest.raises(UserError, match="num_classes"):
        create_model("mixer_pico2").reset_classifier(number)
    with pytest.raises(UserError, match="num_classes"):
        create_model("mixer_pico2", num_classes=number)


@pytest.mark.parametrize("size", [8.5, "8", None, (8, 8, 8), (8.0, 8.0)])
def test_what_is_no_image_size(size: Any) -> None:
    with pytest.raises(UserError, match="image.size"):
        MixerConfig(2, 1, 8, 4, 16, image_size=size)
    if size is not None:
        with pytest.raises(UserError, match="image.size"):
            create_model("mixer_pico2", image_size=size)


def test_another_pooling_is_refused() -> None:
    model = create_model("mixer_pico2")
    # timm's code says it so.
    model.reset_classifier(3, "avg")
    with pytest.raises(UserError, match="pool by the mean"):
        model.reset_classifier(3, global_pool="max")
