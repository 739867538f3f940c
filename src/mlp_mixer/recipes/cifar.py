"""CIFAR-10 and CIFAR-100, 32 x 32 pixels: plain Mixers from scratch.

They take minutes of a CPU or of a large GPU.
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
    """Reach 62.7 % on CIFAR-10 in 7 minutes of two CPU threads; a plain, untuned start.

    AdamW and a cosine. One run of three epochs, seed 0: 62.71 % of n = 10,000 test
    images; 6 min 49 s of wall time, stopped and resumed once, on a virtual Intel Xeon
    (AVX-512), torch 2.15.0.

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


def cifar10_16ep() -> TrainConfig:
    """Reach 83.5 % on CIFAR-10 in 18 minutes of one CPU thread.

    Muon, a whitened stem, half of the blocks, bf16. 83.5 ± 0.5 % (n = 10,000; seeds 0
    to 2) in 13 to 15 of the 16 epochs, which took 1,070 processor seconds of one
    thread, on all 50,000 images (experiments/records/contest.py); virtual Intel Xeon
    (AMX), torch 2.15.0.

    mlp-mixer train cifar10_16ep --data cifar10:PATH
    """
    config = cifar10()
    return replace(
        config,
        recipe="cifar10_16ep",
        model=ModelChoice(
            name="mixer_nano4", num_blocks=4, gelu="erf", stem="whitened"
        ),
        data=replace(config.data, val_fraction=0.02),
        augment=replace(config.augment, alternate=True),
        optim=OptimChoice(name="muon", lr=8e-3, weight_decay=0.05),
        schedule=ScheduleChoice(decay="linear", warmup_share=0.05),
        train=replace(config.train, epochs=16, ema=0.99, eval_every_epochs=4),
    )


def cifar10_50ep() -> TrainConfig:
    """Reach 86.8 % on CIFAR-10 in 65 minutes of one CPU thread.

    50 epochs with CutMix; the bundled weights were trained so. 86.8 ± 0.1 % (n =
    10,000; seeds 0 and 1: 86.75, 86.88), with test-time flips 86.78 and 87.02; 3,900 s
    (seed 1) of one thread of a virtual Intel Xeon (AMX), beside another run, torch
    2.15.0.

    mlp-mixer train cifar10_50ep --data cifar10:PATH --set train.threads=1
    """
    config = cifar10_16ep()
    return replace(
        config,
        recipe="cifar10_50ep",
        mix=Mix(cutmix=1.0, prob=0.5),
        train=replace(config.train, epochs=50, eval_every_epochs=10),
    )


def cifar10_60ep() -> TrainConfig:
    """Train on CIFAR-10 for 60 epochs; the aim is 90.83 % in 30 seconds of one H200.

    90.83 % is the best public result of a plain Mixer from scratch
    (omihub777/MLP-Mixer-CIFAR: 300 epochs, 3.6 hours of a P100). About 5.4e15
    floating-point operations, on images that stay on the GPU. It needs a GPU and was
    not run.

    mlp-mixer train cifar10_60ep --data cifar10:PATH
    """
    config = cifar10_16ep()
    return replace(
        config,
        recipe="cifar10_60ep",
        model=ModelChoice(name="mixer_tiny4", gelu="erf", stem="whitened"),
        mix=Mix(cutmix=1.0, prob=0.5),
        train=replace(
            config.train,
            epochs=60,
            batch_size=1024,
            eval_every_epochs=20,
            compile=True,
        ),
    )


def cifar10_200ep() -> TrainConfig:
    """Train a Mixer of 2 x 2 patches on CIFAR-10 for 200 epochs; the aim is 93 %.

    256 tokens instead of 64, CutMix or mixup in each batch: about 7e16 floating-point
    operations. It needs a GPU and was not run.

    mlp-mixer train cifar10_200ep --data cifar10:PATH
    """
    config = cifar10_60ep()
    return replace(
        config,
        recipe="cifar10_200ep",
        model=ModelChoice(
            name="mixer_tiny2", gelu="erf", stem="whitened", drop_path=0.1
        ),
        mix=Mix(mixup=0.8, cutmix=1.0, rule="timm"),
        train=replace(
            config.train, epochs=200, batch_size=512, ema=0.999, eval_every_epochs=50
        ),
    )


def cifar100_200ep() -> TrainConfig:
    """Train on CIFAR-100 as `cifar10_200ep` does; the aim is omihub777's 67.51 %.

    It needs a GPU and was not run.

    mlp-mixer train cifar100_200ep --data cifar100:PATH
    """
    config = cifar10_200ep()
    return replace(
        config,
        recipe="cifar100_200ep",
        data=replace(config.data, source="cifar100"),
        preprocess=replace(
            config.preprocess, mean=(0.507, 0.487, 0.441), std=(0.267, 0.256, 0.276)
        ),
    )


def cifar110_8ep() -> TrainConfig:
    """Learn 110 classes, CIFAR-10's and CIFAR-100's, for features of other pictures.

    The recipe `cifar10_16ep` for both datasets together; experiments/transfer/cifar110.py
    makes the .npz file. It made `mixer_mini4.cifar110`, the bundled weights that learning
    begins with: 65.7 % of 20,000 test images (seed 0), and a linear probe on its features
    has 71.5 % of 1,000 photos of ten other classes (on those of `mixer_nano4.cifar10` it
    has 62.5 %).

    mlp-mixer train cifar110_8ep --data npz:cifar110.npz --set train.threads=1
    """
    config = cifar10_16ep()
    return replace(
        config,
        recipe="cifar110_8ep",
        model=ModelChoice(name="mixer_mini4", gelu="erf", stem="whitened"),
        data=replace(config.data, source="npz:cifar110.npz"),
        train=replace(config.train, epochs=8, eval_every_epochs=1),
    )
