"""CIFAR-10, 32 x 32 pixels."""

from __future__ import annotations

from ..images.augment import Augment
from ..train.config import (
    DataChoice,
    LoopChoice,
    ModelChoice,
    OptimChoice,
    PreprocessChoice,
    ScheduleChoice,
    TrainConfig,
)


def cifar10() -> TrainConfig:
    """A start on CIFAR-10, no claim yet; by its rate about six minutes on two idle cores.

    Seen so far: one epoch (train.epochs=1, seed 0) gave 44.7 % validation top-1 (n = 5,000). 200 images/s on one
    thread, 380 on two of a virtual Intel Xeon (AVX-512), torch 2.15.0. The three epochs as they stand were not run.

    mlp-mixer train cifar10 --data cifar10:PATH
    """
    return TrainConfig(
        recipe="cifar10",
        model=ModelChoice(name="mixer_nano4", gelu="erf"),
        data=DataChoice(source="cifar10", val_fraction=0.1),
        preprocess=PreprocessChoice(mean=(0.491, 0.482, 0.447), std=(0.247, 0.243, 0.262)),
        augment=Augment(crop="pad", pad=4, flip=True),
        optim=OptimChoice(lr=3e-3, weight_decay=0.1),
        schedule=ScheduleChoice(warmup_epochs=0.5),
        train=LoopChoice(epochs=3, batch_size=128, label_smoothing=0.1, ema=0.998, eval_every_epochs=1),
    )
