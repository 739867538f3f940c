"""What a configuration and its data come to."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mlp_mixer.config import override
from mlp_mixer.errors import UserError
from mlp_mixer.recipes import RECIPES, get_recipe
from mlp_mixer.training import prepare


def test_every_recipe_says_its_name_and_what_it_is() -> None:
    for name, recipe in RECIPES.items():
        assert recipe().recipe == name
        assert recipe.__doc__


def test_the_numbers_of_table_4() -> None:
    b16 = RECIPES["imagenet_b16"]()
    assert b16.train.epochs == 300
    assert b16.train.batch_size == 4096
    assert b16.schedule.warmup_steps == 10_000
    assert b16.optim.lr == 1e-3
    assert b16.optim.weight_decay == 0.1
    assert b16.mix.mixup == 0.5
    assert b16.augment.policy_magnitude == 15
    assert RECIPES["imagenet21k_l16"]().augment.policy_magnitude == 20
    h14 = RECIPES["jft_h14"]()
    assert h14.augment.policy == "none"
    assert h14.train.epochs == 14
    released = RECIPES["bigvision_b16"]()
    assert released.train.loss == "sigmoid"
    assert released.train.head_bias == -6.9
    assert released.schedule.final == 1e-5


def test_the_seed_decides_the_weights_and_the_callers_generator_stays(
    noise: Any,
) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    weights = []
    for seed in (0, 0, 1):
        config = override(get_recipe("digits"), [f"train.seed={seed}"])
        weights.append(prepare(config, noise()).model.stem.proj.weight)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        (["train.epochs=2"], 7),
        (["train.steps=3"], 3),
        (["train.epochs=0.01"], 1),
        (["train.images=1000"], 42),
        (["train.images=100"], 32),  # ten epochs at least
        (["train.images=9999", "train.most_epochs=12"], 38),
    ],
)
def test_the_length_of_a_run(noise: Any, settings: list[str], steps: int) -> None:
    common = ["train.batch_size=24", "data.val_fraction=0.2"]
    run = prepare(override(get_recipe("digits"), [*common, *settings]), noise())
    assert len(run.train) == 76
    assert run.total_steps == steps
    assert run.epoch(76) == 24


def test_few_images_of_a_class_are_warned_of(noise: Any) -> None:
    # In bf16 there would be a note on that.
    config = override(get_recipe("digits"), ["train.precision=fp32"])
    # About a fifth is held out to test.
    (warning,) = prepare(config, noise(30)).notes
    assert "3 of 3 classes have fewer than 10" in warning
    assert prepare(config, noise(90)).notes == ()


def test_a_single_image_is_refused(noise: Any) -> None:
    with pytest.raises(UserError, match="are of one class; a classifier needs two"):
        prepare(get_recipe("digits"), noise(2, classes=1))
