"""What can be shared by several processes. tests/cli/test_torchrun.py starts them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mlp_mixer import UserError
from mlp_mixer.config import override
from mlp_mixer.models import create_model
from mlp_mixer.recipes import RECIPES, get_recipe
from mlp_mixer.training import TrainConfig, parallel, prepare
from mlp_mixer.training.parallel import check_parallel, gathered, shard, wrap

MIXED = ["train.batch_size=24", "mix.mixup=0.5"]
SHARP = ["train.batch_size=24", "optim.rho=0.1"]


def config(*settings: str) -> TrainConfig:
    return override(TrainConfig(), settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ([*MIXED, "mix.group=7"], "mix.group 7 does not divide the 24 images"),
        ([*SHARP, "optim.sam_images=5"], "optim.sam_images 5 does not divide the 24"),
        ([*SHARP, "train.parallel=fsdp"], "needs whole weights in each process"),
        (["train.batch_size=8", "data.repeats=3"], "a multiple of the 3 repeats"),
    ],
)
def test_what_cannot_be_shared_is_refused(settings: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_parallel(config(*settings))


def test_a_run_is_checked_before_its_data_is_opened() -> None:
    wrong = ["train.batch_size=8", "data.repeats=3", "data.source=folder:nowhere"]
    with pytest.raises(UserError, match="a multiple of the 3 repeats"):
        prepare(config(*wrong))


def test_the_share_of_a_process_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "world_size", lambda: 4)
    check_parallel(config(*MIXED))
    with pytest.raises(UserError, match="shared evenly by 4 processes; use 24"):
        check_parallel(config("train.batch_size=26"))
    with pytest.raises(UserError, match="mix.group 4 does not divide the 6 images"):
        check_parallel(config(*MIXED, "mix.group=4"))


def test_no_mixing_needs_no_groups() -> None:
    check_parallel(config("train.batch_size=25", "mix.group=2"))
    check_parallel(config("train.batch_size=25", "optim.sam_images=2"))


def test_every_recipe_can_be_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in RECIPES:
        recipe = get_recipe(name)
        large = recipe.train.batch_size >= 512
        for processes in (1, 2, 4, 8) if large else (1,):
            monkeypatch.setattr(parallel, "world_size", lambda n=processes: n)
            check_parallel(recipe)


def test_one_process_needs_no_wrapper() -> None:
    model: Any = create_model("mixer_pico2", num_classes=2, in_channels=1)
    fsdp = config("train.parallel=fsdp")
    shard(model, fsdp)
    assert type(model.head.weight) is torch.nn.Parameter
    assert wrap(model, fsdp) is model
    assert wrap(model, config()) is model
    assert gathered(model) is model
