"""timm's `pretrained_cfg` and `Preprocess`: back and forth without a loss."""

from __future__ import annotations

import json

import pytest

from mlp_mixer import Preprocess
from mlp_mixer.weights.lineages.pretrained_cfg import read_transform, write_transform

USUAL = Preprocess((8, 8), mean=(0.1,), std=(0.9,))


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "nearest", "area"])
@pytest.mark.parametrize("resize", ["resmall", "resize"])
def test_there_and_back_is_the_identity(interpolation: str, resize: str) -> None:
    record = Preprocess(
        (8, 8),
        resize=resize,  # type: ignore[arg-type]
        crop_pct=0.7,
        interpolation=interpolation,  # type: ignore[arg-type]
        mean=(0.1, 0.2, 0.3),
        std=(0.4, 0.5, 0.6),
    )
    stated, changes = write_transform(record)
    assert changes == []
    # As JSON, because it passes through config.json.
    assert read_transform(json.loads(json.dumps(stated)), USUAL) == record


def test_what_is_not_stated_stays_as_usual() -> None:
    assert read_transform({}, USUAL) == USUAL
    assert read_transform({"crop_pct": None, "mean": []}, USUAL) == USUAL
    found = read_transform({"crop_mode": "squash"}, USUAL)
    assert found == Preprocess((8, 8), resize="resize", mean=(0.1,), std=(0.9,))


def test_one_channel_gets_the_mean_of_three() -> None:
    gray = Preprocess((8, 8), channels=1)
    found = read_transform({"mean": [0.2, 0.3, 0.4], "std": [0.5]}, gray)
    assert found.mean == pytest.approx((0.3,))
    assert found.std == (0.5,)


def test_what_timm_does_otherwise_is_said() -> None:
    _, changes = write_transform(Preprocess((8, 8), resampler="opencv", resize="none"))
    assert len(changes) == 2
    assert "not as opencv does" in changes[0]
    assert "images of other sizes" in changes[1]
