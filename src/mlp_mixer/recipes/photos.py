"""Photographs of your own, one folder per class."""

from __future__ import annotations

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


def photos() -> TrainConfig:
    """Train a small Mixer from scratch on your own photographs, at 64 pixels.

    Four blocks of 128 channels on patches of 8, a whitened stem, Muon, an average of the
    weights, crops and CutMix: what `cifar10_50ep` has, for photographs. A large network
    at 224 pixels learns far less from so few. The number of epochs follows from the
    number of images (`train.images`). Parts of its search are in docs/log.md; as it
    stands it was not run.

    mlp-mixer train photos --data folder:PATH
    """
    return TrainConfig(
        recipe="photos",
        model=ModelChoice(
            name="mixer_nano4",
            image_size=96,
            patch_size=8,
            num_blocks=4,
            channels_mlp_dim=256,
            gelu="erf",
            stem="whitened",
        ),
        data=DataChoice(source="folder:photos", val_fraction=0.1),
        preprocess=PreprocessChoice(crop_pct=0.875),
        augment=Augment(crop="inception", area=(0.25, 1.0), flip=True),
        mix=Mix(cutmix=1.0, prob=0.5),
        optim=OptimChoice(name="muon", lr=8e-3, weight_decay=0.05),
        schedule=ScheduleChoice(decay="linear", warmup_share=0.05),
        train=LoopChoice(
            images=54_000,
            fewest_epochs=10,
            most_epochs=300,
            batch_size=64,
            label_smoothing=0.1,
            ema=0.99,
            precision="fast",
        ),
    )
