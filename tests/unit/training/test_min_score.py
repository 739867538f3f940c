"""A run's checkpoint carries the lowest score that its validation images chose."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mlp_mixer as mm
from mlp_mixer.config import override
from mlp_mixer.training import TrainConfig, train
from mlp_mixer.training.splits import split_validation
from mlp_mixer.weights.scores import chosen_min_score

Tiny = Callable[..., TrainConfig]


@pytest.fixture(scope="module")
def shades() -> mm.Dataset:
    """Images of two shades; a quarter of them are grey, whatever their label."""
    rng = np.random.default_rng(0)
    labels = np.arange(800) % 2
    shade = np.where(labels == 1, 200, 40)
    grey = rng.permutation(800) < 200
    shade[grey] = 120
    noise = rng.integers(-20, 20, (800, 8, 8, 1))
    images = (shade[:, None, None, None] + noise).astype(np.uint8)
    return mm.Dataset.from_arrays(images, labels, ["dark", "bright"])


def config(tiny: Tiny, **loop: Any) -> TrainConfig:
    settings = {
        "data.val_fraction": "0.25",
        "data.test_fraction": "0.2",
        "model.dropout": "0",
        "model.drop_path": "0",
        "augment.rotate": "0",
        "optim.lr": "0.003",
    }
    return override(tiny(**loop), [f"{key}={value}" for key, value in settings.items()])


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_the_checkpoint_carries_it(
    tiny: Tiny, shades: mm.Dataset, tmp_path: Path, loss: str
) -> None:
    chosen_by = config(tiny, epochs=6, eval_every_epochs=2, loss=loss)
    train(chosen_by, tmp_path, source=shades)
    best = mm.load(tmp_path / "best.safetensors")
    chosen = chosen_min_score(best.provenance)
    assert chosen is not None

    # Once more by the predictor, image for image.
    _, val = split_validation(shades, chosen_by.data)
    assert val is not None
    predictor = mm.Predictor(best, min_score="auto", engine="plain")
    given = right = 0
    for index in range(len(val)):
        answer = predictor(val.image(index))
        # The lowest score is that of an image, which another batch may move a little.
        if answer.pred_score >= chosen.score - 1e-5:
            given += 1
            right += answer.top[0].label == val.labels[index]
        elif answer.pred_score < chosen.score - 1e-4:
            assert answer.pred_class == "unknown"
    assert chosen.n == len(val) >= 100
    assert chosen.coverage == pytest.approx(given / len(val), abs=1e-9)
    assert chosen.accuracy == pytest.approx(right / given, abs=1e-9)
    # The greys are what it should not answer.
    assert 0.5 < chosen.coverage < 1
    assert chosen.accuracy >= 0.95 > best.provenance["measured"]["top1"]


def test_few_validation_images_choose_nothing(
    tiny: Tiny, shades: mm.Dataset, tmp_path: Path
) -> None:
    few = config(tiny, epochs=1)
    data = dataclasses.replace(few.data, val_fraction=0.1)
    train(dataclasses.replace(few, data=data), tmp_path, source=shades)
    assert "min_score" not in mm.load(tmp_path).provenance
    with pytest.raises(
        mm.UserError, match=r"it has \d\d validation images, and 100 are"
    ):
        mm.Predictor(tmp_path, min_score="auto")


def test_a_linear_probe_has_one_from_its_folds(
    tiny: Tiny, shades: mm.Dataset, tmp_path: Path
) -> None:
    train(config(tiny, epochs=1), tmp_path / "start", source=shades)
    settings = {"train.device": "cpu", "model.image_size": 8}
    mm.finetune(
        tmp_path / "start", shades, tmp_path / "probe", settings=settings, frozen=True
    )
    provenance = mm.load(tmp_path / "probe").provenance
    chosen = chosen_min_score(provenance)
    assert chosen is not None
    assert chosen.n == provenance["measured"]["n"] > 500
    assert chosen.accuracy >= 0.95 > provenance["measured"]["top1"]
