"""What a recipe says of each setting, in the words of the tables of docs/training.md."""

from __future__ import annotations

import math
from collections.abc import Callable

from mlp_mixer.training.config import TrainConfig
from mlp_mixer.weights.lineages.transforms import eval_preprocess

Setting = Callable[[TrainConfig], str]


def optimiser(config: TrainConfig) -> str:
    optim = config.optim
    if optim.name == "sgd":
        text = f"SGD, momentum {optim.momentum:g} in {optim.momentum_dtype}"
    else:
        name = {"adamw": "Adam", "lamb": "LAMB"}[optim.name]
        text = f"{name} ({optim.betas[0]:g}, {optim.betas[1]:g})"
    clip = (
        "not clipped" if optim.clip_norm is None else f"clipped at {optim.clip_norm:g}"
    )
    return f"{text}, {clip}"


def sharpness(config: TrainConfig) -> str:
    optim = config.optim
    low = optim.rho if optim.rho_min is None else optim.rho_min
    return f"rho {optim.rho:g} to {low:g}, alpha {optim.alpha:g}"


def decay(config: TrainConfig) -> str:
    return f"{config.optim.weight_decay:g}"


def length(config: TrainConfig) -> str:
    train = config.train
    return (
        f"{train.epochs:g} epochs" if train.steps is None else f"{train.steps:,} steps"
    )


def batch(config: TrainConfig) -> str:
    repeats = config.data.repeats
    each = "" if repeats == 1 else f", each image {repeats} times"
    return f"{config.train.batch_size:,}{each}"


def schedule(config: TrainConfig) -> str:
    own = config.schedule
    warmup = f"{own.warmup_epochs:g} epochs"
    if own.warmup_steps is not None:
        warmup = f"{own.warmup_steps:,} steps"
    return f"{warmup} of warm-up, {own.decay} to {own.final:g} of the peak"


def loss(config: TrainConfig) -> str:
    train = config.train
    if train.loss == "sigmoid":
        return f"sigmoid, head bias {train.head_bias:g}"
    smoothing = train.label_smoothing
    return f"softmax, smoothing {smoothing:g}" if smoothing else "softmax"


def crop(config: TrainConfig) -> str:
    augment = config.augment
    whose = {"inception_tf": "TensorFlow's", "inception": "torchvision's"}[augment.crop]
    low, high = augment.area
    flips = "flips" if augment.flip else "no flips"
    return (
        f"{whose}, {100 * low:g} to {100 * high:g} %, {augment.interpolation}, {flips}"
    )


def policy(config: TrainConfig) -> str:
    augment = config.augment
    numbers = f"({augment.policy_layers}, {augment.policy_magnitude:g})"
    words = {
        "none": "none",
        "randaugment_bv": f"RandAugment {numbers}",
        "randaugment_timm": f"timm's rand-m{augment.policy_magnitude:g}-mstd0.5-inc1",
        "autoaugment_imagenet": "AutoAugment",
    }
    text = words[augment.policy]
    return f"{text}, erasing {augment.erase:g}" if augment.erase else text


def mixing(config: TrainConfig) -> str:
    mix = config.mix
    if not mix.active:
        return "none"
    return f"mixup {mix.mixup:g}" + (f", CutMix {mix.cutmix:g}" if mix.cutmix else "")


def depth(config: TrainConfig) -> str:
    model = config.model
    if not model.drop_path:
        return "none"
    kinds = {
        None: "linear, not rescaled",
        "deit": "linear, rescaled",
        "timm": "constant, rescaled",
    }
    return f"{model.drop_path:g}, {kinds[model.drop_path_rule]}"


def evaluation(config: TrainConfig) -> str:
    model = config.model
    if model.evaluation == "whole":
        return "the whole image"
    side = model.image_size or 224
    assert isinstance(side, int)
    part = config.preprocess.crop_pct
    if model.init is not None:
        part = eval_preprocess("google", (side, side)).crop_pct
    return f"the short side to {math.floor(side / part)}, the middle {side}"


SETTINGS: dict[str, Setting] = {
    "optimiser": optimiser,
    "learning rate": lambda config: f"{config.optim.lr:g}",
    "weight decay": decay,
    "batch": batch,
    "length": length,
    "schedule": schedule,
    "loss": loss,
    "crop": crop,
    "policy": policy,
    "mixing": mixing,
    "stochastic depth": depth,
    "evaluation": evaluation,
}
