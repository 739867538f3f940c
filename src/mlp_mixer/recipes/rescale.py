"""Change the length or the batch of a recipe."""

from __future__ import annotations

import math
from dataclasses import replace

from ..training.config import TrainConfig


def rescale(
    config: TrainConfig, *, epochs: float | None = None, batch_size: int | None = None
) -> tuple[TrainConfig, tuple[str, ...]]:
    """Change the length and the batch of a recipe, and all settings that must follow.

    A new batch changes the learning rate: in proportion for SGD (Goyal et al. 2017,
    arXiv 1706.02677), with the square root for all others (Malladi et al. 2022, arXiv
    2205.10287, for Adam; the paper of LAMB for LAMB). A length or warm-up that is stated in steps keeps its
    number of images. With new epochs, a warm-up in steps keeps its share of the run.
    The number of processes changes nothing, because the batch is global.

    Args:
        config: The recipe.
        epochs: The new length; None keeps it.
        batch_size: The new batch over all processes; None keeps it.

    Returns:
        The new configuration, and a sentence for each setting that followed.
    """
    train = config.train
    optim = config.optim
    schedule = config.schedule
    notes = list[str]()
    if batch_size is not None and batch_size != train.batch_size:
        ratio = batch_size / train.batch_size
        lr = optim.lr * (ratio if optim.name == "sgd" else math.sqrt(ratio))
        rule = "in proportion" if optim.name == "sgd" else "with the square root"
        notes.append(
            f"batch {train.batch_size} -> {batch_size}: optim.lr {optim.lr:g} -> {lr:g} ({rule})"
        )
        if train.steps is not None:
            steps = max(1, round(train.steps / ratio))
            notes.append(f"train.steps {train.steps} -> {steps}, the same images")
            train = replace(train, steps=steps)
        if schedule.warmup_steps is not None:
            warmup = round(schedule.warmup_steps / ratio)
            notes.append(
                f"schedule.warmup_steps {schedule.warmup_steps} -> {warmup}, the same images"
            )
            schedule = replace(schedule, warmup_steps=warmup)
        train = replace(train, batch_size=batch_size)
        optim = replace(optim, lr=lr)
    if epochs is not None:
        if train.images is not None:
            notes.append(f"train.images {train.images:,} -> {epochs:g} epochs")
        elif train.steps is not None:
            notes.append(f"train.steps {train.steps} -> {epochs:g} epochs")
        elif schedule.warmup_steps is not None and epochs != train.epochs:
            warmup = round(schedule.warmup_steps * epochs / train.epochs)
            notes.append(
                f"schedule.warmup_steps {schedule.warmup_steps} -> {warmup}, the same share of the run"
            )
            schedule = replace(schedule, warmup_steps=warmup)
        train = replace(train, epochs=epochs, steps=None, images=None)
    return replace(config, train=train, optim=optim, schedule=schedule), tuple(notes)
