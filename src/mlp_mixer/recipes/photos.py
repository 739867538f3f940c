"""Photographs of your own, one folder per class."""

from __future__ import annotations

from ..images.augment import Augment
from ..train.config import (
    DataChoice,
    LoopChoice,
    ModelChoice,
    OptimChoice,
    ScheduleChoice,
    TrainConfig,
)


def photos() -> TrainConfig:
    """TODO."""
    return TrainConfig(
        recipe="photos",
        model=ModelChoice(name="mixer_s32", gelu="erf", drop_path=0.1),
        data=DataChoice(source="folder:photos", val_fraction=0.1),
        augment=Augment(crop="inception", area=(0.25, 1.0), flip=True),
        optim=OptimChoice(lr=5e-4, weight_decay=0.1),
        schedule=ScheduleChoice(warmup_epochs=2),
        train=LoopChoice(epochs=25, batch_size=64, label_smoothing=0.1),
    )
