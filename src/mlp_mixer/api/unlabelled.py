"""Pre-train on pictures without labels: what `mlp-mixer pretrain` does."""

from __future__ import annotations

import dataclasses

from ..config import override
from ..data import Dataset
from ..data.registry import open_pictures
from ..errors import UserError
from ..files import PathLike
from ..recipes.resolve import Settings, assignments, resolve_config
from ..training import TrainConfig
from ..training.config import ModelChoice
from ..training.journal import JournalRow, Report, ignore_row
from ..weights.catalog import START
from .learn import SCRATCH, are_small, train

PRETRAINING = "pretrain_views"
"""The recipe, where none is named."""

# Pixels of a side, to which the bundled weights are interpolated for photos: of those
# that were tried, their frozen features were best there.
_SIDE = 64

# Weights that know something already learn at this share of the rate of random ones.
_GENTLE = 0.125

# Views to learn from, where no length is given: some five minutes of one core at 64
# pixels. Few pictures are seen more often, many at least some times.
_VIEWS = 10_000
_LEAST_EPOCHS = 3.0
_MOST_EPOCHS = 100.0


def pretrain(
    data: str | Dataset,
    out: PathLike,
    *,
    weights: PathLike | None = None,
    recipe: str = PRETRAINING,
    settings: Settings = (),
    epochs: float | None = None,
    batch_size: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
    track: str | None = None,
    report: Report = ignore_row,
) -> JournalRow:
    """Learn features from pictures without labels, and leave a checkpoint without head.

        import mlp_mixer as mm

        mm.pretrain("folder:pictures", "runs/features")
        mm.finetune("runs/features", "folder:labelled", "runs/mine")

    Args:
        data: A name or path as `open_dataset` takes it, an open `Dataset`, or a folder
            with pictures at any depth. Labels are not used; images that are, or would
            be, held out as a test split are not learnt from.
        out: The folder of the run; it is created.
        weights: What to begin with, as `load` takes it; None: the bundled weights, at
            64 pixels for photos; "scratch": random weights.
        recipe: "pretrain_views", "pretrain_covered", or another with a pretext.
        settings: Fields to change, such as `{"train.epochs": 20}`.
        epochs: The length, in views of each picture; by default some minutes' worth.
        batch_size: Another batch, in views over all processes; the learning rate
            follows.
        resume: As for `train`.
        overwrite: As for `train`.
        track: As for `train`.
        report: As for `train`.

    Returns:
        The row of the last checkpoint: "step" and "epoch".

    Raises:
        UserError: As for `train`, or the recipe learns from labels.
        Interrupted: SIGINT or SIGTERM came; the state is saved.
    """
    config, notes = pretrain_config(
        data, weights, recipe, settings, epochs=epochs, batch_size=batch_size
    )
    return train(
        config,
        out,
        data=data if isinstance(data, Dataset) else None,
        resume=resume,
        overwrite=overwrite,
        track=track,
        report=report,
        notes=notes,
    )


def pretrain_config(
    data: str | Dataset,
    weights: PathLike | None = None,
    recipe: str = PRETRAINING,
    settings: Settings = (),
    *,
    epochs: float | None = None,
    batch_size: int | None = None,
) -> tuple[TrainConfig, tuple[str, ...]]:
    """Return the configuration with which `pretrain` trains.

    Args:
        data: As for `pretrain`, like the rest.
        weights: What to begin with.
        recipe: The name of a recipe.
        settings: Fields to change.
        epochs: Another length.
        batch_size: Another batch.

    Returns:
        The configuration, and a sentence for each setting that followed another.

    Raises:
        UserError: As for `pretrain`.
    """
    dataset = data if isinstance(data, Dataset) else open_pictures(data)[0]
    config, notes = resolve_config(
        recipe, data=dataset.spec, epochs=epochs, batch_size=batch_size
    )
    if config.pretext.name == "none":
        raise UserError(
            f"the recipe {recipe!r} learns from labels: choose pretrain_views or "
            "pretrain_covered, or use `mlp-mixer train`"
        )
    config = _begun(config, weights, small=are_small(dataset.train))
    images = len(dataset.train)
    if batch_size is None:
        config = _with_batch(config, images)
    if epochs is None:
        length = min(_MOST_EPOCHS, max(_LEAST_EPOCHS, _VIEWS / images))
        loop = dataclasses.replace(config.train, epochs=round(length, 2))
        config = dataclasses.replace(config, train=loop)
    return override(config, assignments(settings)), notes


def _begun(
    config: TrainConfig, weights: PathLike | None, *, small: bool
) -> TrainConfig:
    """Return a recipe that begins with some weights; its own network is the random one.

    Args:
        config: The recipe.
        weights: As for `pretrain`.
        small: The images have 64 pixels or less.
    """
    if str(weights) == SCRATCH:
        if not small:
            return config
        # The variant's own size of image and patch.
        model = dataclasses.replace(config.model, image_size=None, patch_size=None)
        return dataclasses.replace(config, model=model)
    if weights is not None:
        model = ModelChoice(init=str(weights))
    elif small:
        model = ModelChoice(init=START)
    else:
        model = ModelChoice(init=START, image_size=_SIDE, resize="interpolate")
    optim = dataclasses.replace(config.optim, lr=config.optim.lr * _GENTLE)
    return dataclasses.replace(config, model=model, optim=optim)


def _with_batch(config: TrainConfig, images: int) -> TrainConfig:
    """Return the configuration with a batch in which no image comes more than once."""
    repeats = config.data.repeats
    largest = max(2, images) * repeats
    if config.train.batch_size <= largest:
        return config
    loop = dataclasses.replace(config.train, batch_size=largest)
    return dataclasses.replace(config, train=loop)
