"""The recipes of others beside their originals: numbers written down from the sources."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import torch
from torchvision.transforms import functional as tv

from mlp_mixer.config import to_dict
from mlp_mixer.models import cost, create_model
from mlp_mixer.randomness import steps_for
from mlp_mixer.recipes import RECIPES, get_recipe, list_recipes
from mlp_mixer.training.model import _preprocess
from mlp_mixer.training.optim.sam import rho_at

# arXiv 2203.08065: rho, rho_min, alpha and ImageNet top-1 of each Mixer.
GSAM = {
    "gsam_s32": (0.5, 0.0, 0.2, "68.6"),
    "gsam_s16": (0.5, 0.0, 0.6, "75.0"),
    "gsam_s8": (0.5, 0.1, 0.1, "76.8"),
    "gsam_b32": (0.7, 0.2, 0.05, "73.6"),
    "gsam_b16": (0.5, 0.2, 0.01, "77.8"),
}
# Millions of parameters with 1,000 classes: the rows name the right network.
MILLIONS = {
    "gsam_s32": 19.1,
    "gsam_s16": 18.5,
    "gsam_s8": 20.6,
    "gsam_b32": 60.3,
    "gsam_b16": 59.9,
}


def test_every_recipe_of_gsam_has_a_row() -> None:
    assert set(list_recipes("gsam_*")) == set(GSAM)


@pytest.mark.parametrize("name", GSAM)
def test_the_numbers_of_gsam(name: str) -> None:
    rho, rho_min, alpha, top1 = GSAM[name]
    config = get_recipe(name)
    optim = config.optim
    assert (optim.rho, optim.rho_min, optim.alpha) == (rho, rho_min, alpha)
    # What big_vision's configs/proj/gsam has for every network.
    assert (optim.name, optim.lr, optim.clip_norm) == ("adamw", 3e-3, 1.0)
    assert optim.lr * optim.weight_decay == pytest.approx(3e-3 * 0.3)
    assert (config.train.epochs, config.train.batch_size) == (300, 4096)
    assert (config.train.loss, config.train.head_bias) == ("sigmoid", -10.0)
    assert (config.schedule.decay, config.schedule.final) == ("linear", 0.01)
    assert config.schedule.warmup_steps == 10_000
    assert config.augment.flip
    assert config.augment.policy == "none"
    assert not config.mix.active
    assert f"{top1} % top-1" in (inspect.getdoc(RECIPES[name]) or "")


@pytest.mark.parametrize("name", GSAM)
def test_gsam_trains_the_network_that_it_names(name: str) -> None:
    with torch.device("meta"):
        model = create_model(get_recipe(name).model.name, num_classes=1000)
    count = sum(parameter.numel() for parameter in model.parameters())
    assert round(count / 1e6, 1) == MILLIONS[name]


def test_rho_falls_with_the_learning_rate() -> None:
    config = get_recipe("gsam_b16")
    # At the peak, half-way down to 1 % of it, and at the end.
    for factor, rho in ((1.0, 0.5), (0.505, 0.35), (0.01, 0.2)):
        assert rho_at(factor, config.optim, config.schedule) == pytest.approx(rho)


def test_sam_is_gsam_with_one_rho_and_no_gap() -> None:
    sam = get_recipe("sam_b16")
    assert (sam.optim.rho_min, sam.optim.alpha) == (None, 0.0)
    for factor in (1.0, 0.5, 0.01):
        assert rho_at(factor, sam.optim, sam.schedule) == sam.optim.rho
    assert "was not found" in (inspect.getdoc(RECIPES["sam_b16"]) or "")


# Resize of the short side, crop, mean and deviation at evaluation. big_vision:
# resize_small(256)|central_crop(224)|value_range(-1, 1) in mlp_mixer_i1k.py and in
# proj/gsam; the paper: App. C; DeiT: datasets.py (int(256 / 224 * 224), bicubic).
GOOGLE = (256, 224, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
DEIT = (256, 224, *IMAGENET)
RESMLP = (248, 224, *IMAGENET)  # deit#113: int(224 / 0.9)
A2 = (235, 224, *IMAGENET)  # timm: floor(224 / 0.95)
EVALUATION = {
    "imagenet_b16": GOOGLE,
    "imagenet_l16": GOOGLE,
    "imagenet21k_b16": GOOGLE,
    "imagenet21k_l16": GOOGLE,
    "jft_s32": GOOGLE,
    "jft_s16": GOOGLE,
    "jft_b32": GOOGLE,
    "jft_b16": GOOGLE,
    "jft_l32": GOOGLE,
    "jft_l16_7ep": GOOGLE,
    "jft_l16": GOOGLE,
    "jft_h14": GOOGLE,
    "bigvision_b16": GOOGLE,
    "bigvision_b16_60ep": GOOGLE,
    "gsam_s32": GOOGLE,
    "gsam_s16": GOOGLE,
    "gsam_s8": GOOGLE,
    "gsam_b32": GOOGLE,
    "gsam_b16": GOOGLE,
    "sam_b16": GOOGLE,
    "deit_b16": DEIT,
    "resmlp_12": RESMLP,
    "resmlp_24": RESMLP,
    "resmlp_36": RESMLP,
    "resmlp_big_24": RESMLP,
    "gmlp_ti16": DEIT,
    "gmlp_s16": DEIT,
    "gmlp_b16": DEIT,
    "a2_b16": A2,
    "a2_gmixer_12": A2,
    "a2_gmixer_24": A2,
}


def test_every_recipe_for_imagenet_or_more_has_a_row() -> None:
    """Fine-tuning takes the preprocessing of its weights instead."""
    large = set()
    for name in RECIPES:
        config = get_recipe(name)
        source = config.data.source.partition(":")[0]
        if config.model.init is None and source in ("imagenet", "shards"):
            large.add(name)
    assert large == set(EVALUATION)


@pytest.mark.parametrize("name", EVALUATION)
def test_evaluation_and_the_checkpoint_are_the_original_s(name: str) -> None:
    resize, crop, mean, std = EVALUATION[name]
    config = get_recipe(name)
    with torch.device("meta"):
        model = create_model(config.model.name, num_blocks=1, num_classes=2)
    # The record that the run evaluates with and that its checkpoint carries.
    record = _preprocess(config.preprocess, model.config)
    assert (record.image_size, record.mean, record.std) == ((crop, crop), mean, std)
    picture = np.random.default_rng(0).integers(0, 256, (resize, 300, 3), np.uint8)
    # Its short side is right already: the middle comes out as it is.
    pixels = torch.from_numpy(picture).permute(2, 0, 1)
    middle = tv.center_crop(pixels, [crop, crop]).permute(1, 2, 0)
    assert np.array_equal(record.fit(picture), middle.numpy())
    # Of another one as many pixels are seen, and no more.
    top, left, bottom, right = record.seen(500, 375)
    assert bottom - top == pytest.approx(crop / int(resize * 500 / 375))
    assert right - left == pytest.approx(crop / resize)


def test_the_short_run_is_the_long_one_for_fewer_epochs() -> None:
    """As mode `regression_test` of mlp_mixer_i1k.py changes the epochs and no more."""
    short = to_dict(get_recipe("bigvision_b16_60ep"))
    full = to_dict(get_recipe("bigvision_b16"))
    assert (short["train"].pop("epochs"), full["train"].pop("epochs")) == (60, 300)
    assert short.pop("recipe") != full.pop("recipe")
    assert short == full
    assert short["schedule"]["warmup_steps"] == 10_000


def test_the_cost_of_the_short_run_is_what_its_docstring_says() -> None:
    # 1 % of each class is for validation.
    images = round(0.99 * 1_281_167)
    config = get_recipe("bigvision_b16_60ep").train
    seen = 60 * images
    flops = 6 * cost("mixer_b16").macs * seen
    hopper = flops / (0.4 * 989e12) / 3600
    ampere = flops / (0.4 * 312e12) / 3600
    said = " ".join((inspect.getdoc(RECIPES["bigvision_b16_60ep"]) or "").split())
    assert f"{images:,} images" in said
    assert f"{steps_for(60, config.batch_size, images):,} steps" in said
    assert f"{flops:.2g} FLOPs".replace("e+", "e") in said
    assert f"{hopper:.1f} GPU hours" in said
    assert f"{ampere:.1f} GPU hours" in said
    assert f"{round(seen / hopper / 3600, -2):,.0f} images a second" in said
    assert f"{round(seen / 3600, -1):,.0f} hours over their images a second" in said
    assert "70.5 % expected" in said


def test_the_crops_are_the_original_s() -> None:
    """TensorFlow's in all recipes of Google's Mixers, torchvision's in the others."""
    others = {name for name, row in EVALUATION.items() if row[2:] == IMAGENET}
    assert "deit_b16" in others
    for name in {*EVALUATION, *list_recipes("finetune_*")} - others:
        augment = get_recipe(name).augment
        assert augment.crop == "inception_tf", name
        assert (augment.area, augment.ratio) == ((0.05, 1.0), (0.75, 1.33))
        assert augment.flip
    for name in others:
        augment = get_recipe(name).augment
        assert (augment.crop, augment.interpolation) == ("inception", "bicubic"), name
        assert (augment.area, augment.ratio) == ((0.08, 1.0), (3 / 4, 4 / 3))
        assert augment.flip


# Table 3: ImageNet top-1 after pre-training on JFT-300M, by model and epochs.
JFT = {
    "jft_s32": ("mixer_s32", 5, "68.70"),
    "jft_s16": ("mixer_s16", 5, "73.83"),
    "jft_b32": ("mixer_b32", 7, "75.53"),
    "jft_b16": ("mixer_b16", 7, "80.00"),
    "jft_l32": ("mixer_l32", 7, "80.67"),
    "jft_l16_7ep": ("mixer_l16", 7, "84.05"),
    "jft_l16": ("mixer_l16", 14, "84.82"),
    "jft_h14": ("mixer_h14", 14, "86.32"),
}


def test_every_row_of_jft_has_a_recipe() -> None:
    found = {}
    for name in list_recipes("jft_*"):
        config = get_recipe(name)
        text = inspect.getdoc(RECIPES[name]) or ""
        top1 = text.partition("; ")[2].partition(" %")[0]
        found[name] = (config.model.name, config.train.epochs, top1)
    assert found == JFT


@pytest.mark.parametrize("name", EVALUATION)
def test_batches_can_be_shared_out(name: str) -> None:
    """Whole triples where images repeat, pairs for mixup, on 8 and 16 processes."""
    config = get_recipe(name)
    for processes in (1, 8, 16):
        own, rest = divmod(config.train.batch_size, processes)
        assert rest == 0
        assert own % config.data.repeats == 0
        assert own % config.mix.group == 0


def test_gradients_of_a_sum_over_classes_are_not_clipped() -> None:
    """timm's clipping at 1 is made for the mean over a thousand classes."""
    for name in list_recipes("a2_*"):
        config = get_recipe(name)
        assert (config.train.loss, config.optim.clip_norm) == ("sigmoid", None)
        assert config.optim.name == "lamb"
