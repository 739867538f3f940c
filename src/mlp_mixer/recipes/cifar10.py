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
    """62.7 % test top-1 on CIFAR-10 in 7 minutes on two CPU threads: a start, not tuned.

    One run of three epochs, seed 0: 62.71 % of n = 10,000; 6 min 49 s of wall time, stopped and resumed once, on a
    virtual Intel Xeon (AVX-512), torch 2.15.0.

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
