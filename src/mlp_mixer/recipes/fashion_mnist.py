"""Fashion-MNIST, 28 x 28 gray pixels."""

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


def fashion_mnist() -> TrainConfig:
    """Reach 90.1 % on Fashion-MNIST in 4 to 6 minutes of one CPU thread.

    Seeds 0 to 2: 90.1 ± 0.3 % of n = 10,000 test images (90.31, 89.76, 90.33); 350
    processor seconds on a virtual AMD EPYC (AVX2), 230 on an Intel Xeon (AVX-512), torch
    2.15.0.

    mlp-mixer train fashion_mnist --data fashion_mnist:PATH
    """
    return TrainConfig(
        recipe="fashion_mnist",
        model=ModelChoice(name="mixer_pico7", gelu="erf"),
        data=DataChoice(source="fashion_mnist", val_fraction=0.1),
        preprocess=PreprocessChoice(mean=(0.286,), std=(0.353,)),
        augment=Augment(crop="pad", pad=1, flip=True),
        optim=OptimChoice(lr=5e-3, weight_decay=0.1),
        schedule=ScheduleChoice(warmup_epochs=1),
        train=LoopChoice(
            epochs=16,
            batch_size=128,
            label_smoothing=0.1,
            ema=0.998,
            eval_every_epochs=2,
            threads=1,
        ),
    )


def fashion_mnist_12ep() -> TrainConfig:
    """Reach 92.2 % on Fashion-MNIST in 16 minutes of one CPU thread.

    The settings of `cifar10_16ep` for 12 epochs. 92.2 ± 0.2 % (n = 10,000; seeds 0 to
    2); 960 processor seconds on one thread of a virtual Intel Xeon (AMX), beside other
    runs, torch 2.15.0 (measured with seeds 0 and 1; 2 was stopped and resumed).

    mlp-mixer train fashion_mnist_12ep --data fashion_mnist:PATH
    """
    config = fashion_mnist()
    return replace(
        config,
        recipe="fashion_mnist_12ep",
        model=ModelChoice(
            name="mixer_nano4", num_blocks=4, image_size=28, gelu="erf", stem="whitened"
        ),
        data=replace(config.data, val_fraction=0.02),
        augment=replace(config.augment, alternate=True),
        optim=OptimChoice(name="muon", lr=8e-3, weight_decay=0.05),
        schedule=ScheduleChoice(decay="linear", warmup_share=0.05),
        train=replace(
            config.train,
            epochs=12,
            ema=0.99,
            eval_every_epochs=4,
            threads=None,
        ),
    )


def fashion_mnist_28ep() -> TrainConfig:
    """Reach 93.7 % on Fashion-MNIST in 33 minutes of one CPU thread.

    28 epochs, with CutMix in half of the batches. 93.66 ± 0.04 % (n = 10,000; seeds 0
    to 2), 93.8 ± 0.1 with test-time flips; 1,960 processor seconds on one thread of a
    virtual Intel Xeon (AMX), beside other runs, torch 2.15.0. Two threads process 1,420
    images/s there, which makes 19 minutes.

    mlp-mixer train fashion_mnist_28ep --data fashion_mnist:PATH
    """
    config = fashion_mnist_12ep()
    return replace(
        config,
        recipe="fashion_mnist_28ep",
        mix=Mix(cutmix=1.0, prob=0.5),
        train=replace(config.train, epochs=28, eval_every_epochs=7),
    )


def fashion_mnist_100ep() -> TrainConfig:
    """Train a Mixer of 2 x 2 patches on Fashion-MNIST for 100 epochs; the aim is 95 %.

    196 tokens, and a rectangle erased from half of the images: about 3.3e16
    floating-point operations. It needs a GPU and was not run.

    mlp-mixer train fashion_mnist_100ep --data fashion_mnist:PATH
    """
    config = fashion_mnist_12ep()
    return replace(
        config,
        recipe="fashion_mnist_100ep",
        model=ModelChoice(
            name="mixer_tiny2",
            image_size=28,
            gelu="erf",
            stem="whitened",
            drop_path=0.1,
        ),
        augment=replace(config.augment, erase=0.5),
        train=replace(
            config.train,
            epochs=100,
            batch_size=512,
            ema=0.999,
            eval_every_epochs=25,
            compile=True,
        ),
    )
