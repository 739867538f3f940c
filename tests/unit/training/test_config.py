"""Settings out of range are named; those in range are kept."""

from __future__ import annotations

import subprocess
import sys

import pytest

from mlp_mixer import UserError
from mlp_mixer.config import from_dict, override, to_dict
from mlp_mixer.training.config import TrainConfig, _within


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("data.val_fraction=1", "data.val_fraction must be at least 0 and below 1"),
        ("data.test_fraction=0", "data.test_fraction must be above 0 and below 1"),
        ("data.repeats=0", "data.repeats must be at least 1, got 0"),
        ("data.workers=-1", "data.workers must be at least 0, got -1"),
        ("train.epochs=0", "train.epochs must be above 0"),
        ("train.steps=0", "train.steps must be above 0"),
        ("train.threads=0", "train.threads must be above 0"),
        ("train.patience=0", "train.patience must be above 0"),
        ("train.save_every_steps=0", "train.save_every_steps must be above 0"),
        ("train.label_smoothing=1", "train.label_smoothing must be at least 0 and"),
        ("train.ema=1", "train.ema must be at least 0 and below 1"),
        ("train.start_share=1", "train.start_share must be at least 0 and below 1"),
        ("train.nonfinite=ignore", "train.nonfinite"),
        ("optim.lr=0", "optim.lr must be above 0, got 0"),
        ("optim.betas=0.9,1", "optim.betas must be at least 0 and below 1"),
        ("optim.clip_norm=0", "optim.clip_norm must be above 0"),
        ("distill.weight=0", "distill.weight must be above 0 and at most 1"),
    ],
)
def test_what_is_out_of_range_is_named(setting: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        override(TrainConfig(), [setting])


def test_not_a_number_is_out_of_every_range() -> None:
    with pytest.raises(UserError, match="x must be above 0, got nan"):
        _within("x", float("nan"), above=0)


def test_a_configuration_survives_json() -> None:
    config = override(TrainConfig(), ["augment.sides=8,16", "model.image_size=[8, 4]"])
    assert from_dict(TrainConfig, to_dict(config)) == config


def test_settings_need_no_torch() -> None:
    """So that a list of recipes answers at once."""
    program = "import sys, mlp_mixer.training.config; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)
