"""Handwritten digits, 8 x 8 pixels, embedded in scikit-learn."""

from __future__ import annotations

from ..images.augment import Augment
from ..train.config import DataChoice, LoopChoice, ModelChoice, OptimChoice, ScheduleChoice, TrainConfig


def digits() -> TrainConfig:
    """A small Mixer on scikit-learn's digits."""
    return TrainConfig(
        recipe="digits",
        model=ModelChoice(name="mixer_pico1", gelu="erf"),
        data=DataChoice(source="digits"),
        augment=Augment(shift=0.1, rotate=10, scale=0.1),
        optim=OptimChoice(lr=3e-3, weight_decay=0.05),
        schedule=ScheduleChoice(warmup_epochs=2),
        train=LoopChoice(epochs=60, batch_size=128, label_smoothing=0.1, ema=0.99, eval_every_epochs=5),
    )
