"""CIFAR-10 and CIFAR-100, 32 x 32 pixels: plain Mixers from scratch, for minutes of a
CPU or of a large GPU.
"""

from __future__ import annotations

from dataclasses import replace

from ..images.settings import Augment, Mix
from ..training.config import (
    DataChoice,
    LoopChoice,
    ModelChoice,
    OptimChoice,
    PreprocessChoice,
    ScheduleChoice,
    TrainConfig,
)


def cifar10() -> TrainConfig:
    """62.7 % test top-1 on CIFAR-10 in 7 minutes on two CPU threads: a plain start,
    AdamW and a cosine, not tuned.

    One run of three epochs, seed 0: 62.71 % of n = 10,000; 6 min 49 s of wall time,
        stopped and resumed once, on a
    virtual Intel Xeon (AVX-512), torch 2.15.0.

    mlp-mixer train cifar10 --data cifar10:PATH
    """
    return TrainConfig(
        recipe="cifar10",
        model=ModelChoice(name="mixer_nano4", gelu="erf"),
        data=DataChoice(source="cifar10", val_fraction=0.1),
        preprocess=PreprocessChoice(
            mean=(0.491, 0.482, 0.447), std=(0.247, 0.243, 0.262)
        ),
        augment=Augment(crop="pad", pad=4, flip=True),
        optim=OptimChoice(lr=3e-3, weight_decay=0.1),
        schedule=ScheduleChoice(warmup_epochs=0.5),
        train=LoopChoice(
            epochs=3,
            batch_size=128,
            label_smoothing=0.1,
            ema=0.998,
            eval_every_epochs=1,
        ),
    )


def cifar10_10min() -> TrainConfig:
    """83.5 % test top-1 on CIFAR-10 in 18 minutes of one CPU thread: Muon, a whitened
    stem, half of the blocks, bf16.

    83.5 ± 0.5 % (n = 10,000; seeds 0 to 2) in the 13 to 15 of its epochs that 1,070
    processor seconds of one thread pay for, on all 50,000 images
    (experiments/records/contest.py); virtual Intel Xeon (AMX), torch 2.15.0.

    mlp-mixer train cifar10_10min --data cifar10:PATH
    """
    config = cifar10()
    return replace(
        config,
        recipe="cifar10_10min",
        model=ModelChoice(
            name="mixer_nano4", num_blocks=4, gelu="erf", stem="whitened"
        ),
        data=replace(config.data, val_fraction=0.02),
        augment=replace(config.augment, alternate=True),
        optim=OptimChoice(name="muon", lr=8e-3, weight_decay=0.05),
        schedule=ScheduleChoice(decay="linear", warmup_share=0.05),
        train=replace(
            config.train, epochs=16, ema=0.99, eval_every_epochs=4, precision="bf16"
        ),
    )


def cifar10_hour() -> TrainConfig:
    """86.8 % test top-1 on CIFAR-10 in 65 minutes of one CPU thread: 50 epochs, CutMix.
    The weights in the package.

    86.8 ± 0.1 % (n = 10,000; seeds 0 and 1: 86.75, 86.88), with the mirror images 86.78
    and 87.02; 3,900 s (seed 1) of one thread of a virtual Intel Xeon (AMX), beside
    another run, torch 2.15.0.

    mlp-mixer train cifar10_hour --data cifar10:PATH --set train.threads=1
    """
    config = cifar10_10min()
    return replace(
        config,
        recipe="cifar10_hour",
        mix=Mix(cutmix=1.0, prob=0.5),
        train=replace(config.train, epochs=50, eval_every_epochs=10),
    )


def cifar10_90_fast() -> TrainConfig:
    """CIFAR-10 above 90.83 % within 30 seconds of one H200: the aim; not run, it waits
    for a GPU.

    90.83 % is the best public result of a plain Mixer from scratch
    (omihub777/MLP-Mixer-CIFAR: 300 epochs, 3.6 hours of a P100). About 5.4e15
    floating-point operations in 60 epochs, on images that stay on the GPU.

    mlp-mixer train cifar10_90_fast --data cifar10:PATH
    """
    config = cifar10_10min()
    return replace(
        config,
        recipe="cifar10_90_fast",
        model=ModelChoice(name="mixer_tiny4", gelu="erf", stem="whitened"),
        mix=Mix(cutmix=1.0, prob=0.5),
        train=replace(
            config.train,
            epochs=60,
            batch_size=1024,
            eval_every_epochs=20,
            precision="auto",
            compile=True,
        ),
    )


def cifar10_best() -> TrainConfig:
    """CIFAR-10 as far as a plain Mixer of 2 x 2 patches goes: at least 93 % is the aim;
    not run, it waits for a GPU.

    256 tokens instead of 64, 200 epochs, CutMix or mixup in each batch: about 7e16
        floating-point operations.

    mlp-mixer train cifar10_best --data cifar10:PATH
    """
    config = cifar10_90_fast()
    return replace(
        config,
        recipe="cifar10_best",
        model=ModelChoice(
            name="mixer_tiny2", gelu="erf", stem="whitened", drop_path=0.1
        ),
        mix=Mix(mixup=0.8, cutmix=1.0, rule="timm"),
        train=replace(
            config.train, epochs=200, batch_size=512, ema=0.999, eval_every_epochs=50
        ),
    )


def cifar100_best() -> TrainConfig:
    """CIFAR-100 by the recipe of `cifar10_best`: above omihub777's 67.51 % is the aim;
    not run, it waits for a GPU.

    mlp-mixer train cifar100_best --data cifar100:PATH
    """
    config = cifar10_best()
    return replace(
        config,
        recipe="cifar100_best",
        data=replace(config.data, source="cifar100"),
        preprocess=replace(
            config.preprocess, mean=(0.507, 0.487, 0.441), std=(0.267, 0.256, 0.276)
        ),
    )
