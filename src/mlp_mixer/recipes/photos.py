"""Photographs of your own, one folder per class."""

from __future__ import annotations

from ..images.settings import Augment
from ..training.config import (
    DataChoice,
    LoopChoice,
    ModelChoice,
    OptimChoice,
    ScheduleChoice,
    TrainConfig,
)


def photos() -> TrainConfig:
    """Train a Mixer-S/32 from scratch on your own photographs at 224 pixels.

    The values are for about 2,000 photographs and are not tuned. One run with
    train.epochs=8, seed 0, on 1,800 photos of ten classes: 32.3 % test top-1 (n =
    1,000) in 6 minutes on two threads of a virtual Intel Xeon (AVX-512), 41 images/s,
    torch 2.15.0. The 25 epochs as they stand were not run.

    mlp-mixer train photos --data folder:PATH
    """
    return TrainConfig(
        recipe="photos",
        model=ModelChoice(name="mixer_s32", gelu="erf", drop_path=0.1),
        data=DataChoice(source="folder:photos", val_fraction=0.1),
        augment=Augment(crop="inception", area=(0.25, 1.0), flip=True),
        optim=OptimChoice(lr=5e-4, weight_decay=0.1),
        schedule=ScheduleChoice(warmup_epochs=2),
        train=LoopChoice(epochs=25, batch_size=64, label_smoothing=0.1),
    )
