"""Pre-training on pictures without labels."""

from __future__ import annotations

from dataclasses import replace

from ..images.settings import Augment
from ..training.config import (
    DataChoice,
    LoopChoice,
    ModelChoice,
    OptimChoice,
    PretextChoice,
    ScheduleChoice,
    TrainConfig,
)


def pretrain_views() -> TrainConfig:
    """Learn from pictures without labels: find the other view of the same picture.

    SimCLR (arXiv 2002.05709), with the temperature that did best in
    experiments/transfer. From `mixer_nano4.cifar10` on 1,800 photos (`pretrain`, 3.9
    epochs, data.val_fraction=0) a linear probe went from 63.5 to 70.4 % (n = 1,000 test
    images, one run, 133 processor seconds of one thread of an AMD EPYC, torch 2.15.0);
    the rate was chosen on other images. From `mixer_mini4.cifar110`, with which it begins
    now, it was not measured. An epoch is one view of each picture. The 50 epochs from
    random weights, as they stand, were not run.

    mlp-mixer pretrain --data folder:PATH --out DIR --recipe pretrain_views
    """
    return TrainConfig(
        recipe="pretrain_views",
        # Of random weights; `pretrain` begins with the bundled ones instead.
        model=ModelChoice(
            name="mixer_nano4", image_size=64, patch_size=8, gelu="erf", stem="whitened"
        ),
        # The validation images of a later fine-tuning are left to it: nothing has seen
        # them then. Here the last checkpoint is taken.
        data=DataChoice(source="folder:photos", val_fraction=0.1, repeats=2),
        augment=Augment(
            crop="inception", area=(0.2, 1.0), flip=True, jitter=0.4, gray=0.2
        ),
        pretext=PretextChoice(name="views", temperature=0.1),
        # At random weights; `pretrain` takes an eighth where it begins with others.
        optim=OptimChoice(lr=4e-3, weight_decay=0.05),
        schedule=ScheduleChoice(warmup_share=0.1),
        train=LoopChoice(epochs=50, batch_size=128, eval_every_epochs=1),
    )


def pretrain_covered() -> TrainConfig:
    """Learn from pictures without labels: guess the pixels of covered patches.

    SimMIM (arXiv 2111.09886). In experiments/transfer it helped a later fine-tuning by
    2 to 8 points over random weights (three draws of labels, one pre-training; beyond
    the 95 % interval with all labels alone), and frozen features little:
    `pretrain_views` did better. The 50 epochs as they stand were not run.

    mlp-mixer pretrain --data folder:PATH --out DIR --recipe pretrain_covered
    """
    config = pretrain_views()
    return replace(
        config,
        recipe="pretrain_covered",
        data=replace(config.data, repeats=1),
        augment=Augment(crop="inception", area=(0.4, 1.0), flip=True),
        pretext=PretextChoice(name="covered", mask_ratio=0.75),
    )
