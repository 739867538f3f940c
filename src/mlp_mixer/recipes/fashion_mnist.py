"""Fashion-MNIST, 28 x 28 gray pixels."""

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


def fashion_mnist() -> TrainConfig:
    """TODO."""
    return TrainConfig(
        recipe="fashion_mnist",
        model=ModelChoice(name="mixer_pico1", image_size=28, patch_size=7, gelu="erf"),
        data=DataChoice(source="fashion_mnist", val_fraction=0.1),
        preprocess=PreprocessChoice(mean=(0.286,), std=(0.353,)),
        augment=Augment(crop="pad", pad=1, flip=True),
        optim=OptimChoice(lr=3e-3, weight_decay=0.1),
        schedule=ScheduleChoice(warmup_epochs=1),
        train=LoopChoice(epochs=24, batch_size=128, label_smoothing=0.1, ema=0.998, eval_every_epochs=2),
    )
