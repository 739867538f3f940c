"""Train and fine-tune: what `mlp-mixer train` and `mlp-mixer finetune` do."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from ..config import override
from ..data import ArraySet, Dataset, open_dataset
from ..data.registry import check_place
from ..devices import cuda_is_available
from ..errors import UserError
from ..evaluation.accuracy import Progress
from ..files import PathLike
from ..recipes import get_recipe
from ..recipes.finetune import finetune_auto
from ..recipes.resolve import (
    Settings,
    assignments,
    repeats,
    resolve_config,
    sweep_runs,
    with_settings,
)
from ..training import TrainConfig
from ..training import train as run_training
from ..training.choice import is_at_least_as_good
from ..training.extras.linear_probe import fit_head
from ..training.journal import JournalRow, Report
from ..training.track import tracking
from ..weights import load
from ..weights.catalog import START, is_bundled

SCRATCH = "scratch"
"""In the place of weights: train from random weights."""

# Pixels of the longer side, up to which random crops leave too little of an image.
_SMALL_IMAGE = 64
_NARROW = 256  # channels


def _ignore(row: JournalRow) -> None:
    """Ignore a row: the default report."""


def train(
    config: TrainConfig | str | Path,
    out: PathLike,
    *,
    data: str | Dataset | None = None,
    settings: Settings = (),
    epochs: float | None = None,
    batch_size: int | None = None,
    teacher: nn.Module | None = None,
    resume: bool = False,
    overwrite: bool = False,
    find_batch_size: bool = False,
    minutes: float | None = None,
    track: str | None = None,
    report: Report = _ignore,
    notes: Sequence[str] = (),
) -> JournalRow:
    """Train a model and leave its checkpoints, journal and state in a folder.

        import mlp_mixer as mm

        best = mm.train("digits", "runs/digits", epochs=4)
        print(best["top1"])
        predictor = mm.Predictor("runs/digits")

    Args:
        config: A recipe's name (see `list_recipes`), a `TrainConfig`, or the path of a
            run's config.json.
        out: The folder of the run; it is created.
        data: Images in the place of the recipe's: a name or path as `open_dataset`
            takes it, or an open `Dataset`.
        settings: Fields to change, such as `{"train.epochs": 2}`.
        epochs: Another length; a warm-up in steps keeps its share of the run.
        batch_size: Another batch over all processes; the learning rate follows.
        teacher: A network whose answers are learned as `config.distill` says.
        resume: Continue from the newest saved state, or start if there is none.
        overwrite: Train anew in a folder that holds a run.
        find_batch_size: Compute each batch in as many parts as fit into memory.
        minutes: Train for about this time on this machine, instead of a number of
            epochs.
        track: Also follow the run in "tensorboard", "wandb", "trackio" or "mlflow".
        report: Is called with every row of the journal, and with rows of the kinds
            "start" and "note".
        notes: Sentences for the journal.

    Returns:
        The row of the best evaluation: "step", "epoch", and "top1" (a fraction of the
        validation images) where there are validation images.

    Raises:
        UserError: The recipe, a setting or the images cannot be used, or `out` holds a
            run already.
        Interrupted: SIGINT or SIGTERM came; the state is saved.
    """
    spec = data if isinstance(data, str) else None
    resolved, rescaled = resolve_config(
        config, data=spec, settings=settings, epochs=epochs, batch_size=batch_size
    )
    if repeats(config, data, settings):
        assert not isinstance(config, TrainConfig)
        check_place(resolved.data.source, config, alone=True)
    folder = Path(out)
    with _tracked(track, resolved, folder, report) as told:
        return run_training(
            resolved,
            folder,
            source=data if isinstance(data, Dataset) else None,
            teacher=teacher,
            resume=resume,
            overwrite=overwrite,
            find_batch_size=find_batch_size,
            minutes=minutes,
            report=told,
            notes=(*notes, *rescaled),
        )


@contextlib.contextmanager
def _tracked(
    track: str | None, config: TrainConfig, out: Path, report: Report
) -> Iterator[Report]:
    """Yield a report that a tracker hears too, if one is named."""
    # Under torchrun only the first process reports. The group of processes does not
    # exist yet, so the environment tells.
    if track is None or os.environ.get("RANK", "0") != "0":
        yield report
        return
    with tracking(track, config, out) as follow:

        def both(row: JournalRow) -> None:
            report(row)
            follow(row)

        yield both


def finetune(
    weights: PathLike | None,
    data: str | Dataset,
    out: PathLike,
    *,
    recipe: str = "auto",
    settings: Settings = (),
    frozen: bool = False,
    sweep: str | None = None,
    key: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    find_batch_size: bool = False,
    minutes: float | None = None,
    track: str | None = None,
    report: Report = _ignore,
    progress: Progress | None = None,
) -> JournalRow:
    """Fine-tune pretrained weights on other images, from a head that fits already.

        import mlp_mixer as mm

        mm.finetune("mixer_b16.goog_in21k", "folder:photos", "runs/photos")
        result = mm.evaluate("runs/photos", "folder:photos")
        print(result.top1, result.interval, result.n)

    Args:
        weights: What `load` takes; None for the weights in the package, "scratch" for
            random ones.
        data: A name or path as `open_dataset` takes it, or an open `Dataset`.
        out: The folder of the run; with `sweep` of the folders of the runs.
        recipe: "auto" chooses by the number and size of the images, "paper" is the
            paper's fine-tuning, or the name of a recipe.
        settings: Fields to change, such as `{"train.epochs": 2}`.
        frozen: Train only the new head on frozen features (a linear probe).
        sweep: "FIELD=A,B,C": one run for each value; the one that is best on the
            validation images wins.
        key: As for `load`.
        resume: As for `train`.
        overwrite: As for `train`.
        find_batch_size: As for `train`.
        minutes: As for `train`.
        track: As for `train`.
        report: As for `train`.
        progress: With `frozen`: is called with the images whose features are computed,
            and with all.

    Returns:
        The row of the best evaluation, as `train` does; with `sweep` that of the best
        run, whose folder is under the key "run".

    Raises:
        UserError: As for `train`, or the options exclude each other.
        Interrupted: SIGINT or SIGTERM came; the state is saved.
    """
    if frozen and str(weights) == SCRATCH:
        raise UserError(
            "a linear probe (frozen) needs pretrained weights: name some, or train "
            "without it"
        )
    if frozen and (resume or sweep or find_batch_size or track or minutes):
        raise UserError(
            "a linear probe (frozen) takes seconds and has no steps: leave out resume, "
            "sweep, find-batch-size, minutes and track"
        )
    config = finetune_config(weights, data, recipe, settings, key=key)
    source = data if isinstance(data, Dataset) else None
    folder = Path(out)
    if frozen:
        return fit_head(
            config,
            folder,
            source=source,
            overwrite=overwrite,
            report=report,
            progress=progress,
        )

    def run(config: TrainConfig, place: Path) -> JournalRow:
        return train(
            config,
            place,
            data=source,
            resume=resume,
            overwrite=overwrite,
            find_batch_size=find_batch_size,
            minutes=minutes,
            track=track,
            report=report,
        )

    if sweep is None:
        return run(config, folder)
    rows = {}
    for place, one in sweep_runs(config, folder, sweep):
        rows[place] = run(one, place)
    best = best_run(rows)
    return rows[best] | {"run": str(best)}


def finetune_config(
    weights: PathLike | None,
    data: str | Dataset,
    recipe: str = "auto",
    settings: Settings = (),
    *,
    key: str | None = None,
) -> TrainConfig:
    """Return the configuration with which `finetune` trains.

    Args:
        weights: What `load` takes; None for those in the package, or "scratch".
        data: A name or path as `open_dataset` takes it, or an open `Dataset`.
        recipe: "auto", "paper", or the name of a recipe.
        settings: Fields to change.
        key: As for `load`.

    Raises:
        UserError: There is no such recipe, dataset or field.
    """
    name = START if weights is None else str(weights)
    check_place(data, name)
    config = _before_settings(name, data, recipe, key)
    if key is not None:
        config = override(config, assignments({"model.key": key}))
    return with_settings(config, settings)


def _before_settings(
    weights: str, data: str | Dataset, recipe: str, key: str | None
) -> TrainConfig:
    spec = data.spec if isinstance(data, Dataset) else data
    scratch = weights == SCRATCH
    if recipe == "auto":
        images = open_dataset(data).train
        small = are_small(images)
        if not scratch:
            return finetune_auto(
                weights,
                spec,
                len(images),
                small=small,
                gpu=cuda_is_available(),
                bundled=is_bundled(weights),
                narrow=_is_narrow(weights, key),
            )
        config = get_recipe(_scratch_recipe(small, images.channels))
        return override(config, assignments({"data.source": spec}))
    if scratch:
        raise UserError(
            f"{SCRATCH!r} goes with --recipe auto; or `mlp-mixer train RECIPE --data ...` "
            "with any other"
        )
    config = get_recipe("finetune_small" if recipe == "paper" else recipe)
    return override(config, assignments({"model.init": weights, "data.source": spec}))


def best_run(rows: Mapping[Path, JournalRow]) -> Path:
    """Return the run that did best on validation images, the first of equal ones.

    Args:
        rows: What `train` returned for each run.
    """
    best, *others = rows
    for run in others:
        if not is_at_least_as_good(rows[best], rows[run]):
            best = run
    return best


def are_small(images: Any) -> bool:
    """Return whether images are of 64 pixels or less.

    Args:
        images: Those in files are taken for photos.
    """
    if not isinstance(images, ArraySet):
        return False
    return bool(max(images.images.shape[1:3]) <= _SMALL_IMAGE)


def _is_narrow(weights: str, key: str | None) -> bool:
    """Whether a network has at most 256 channels, as those in the package."""
    if is_bundled(weights):
        return True
    # Those with a name are wide, and may have to be downloaded for the answer.
    if not os.path.exists(weights):  # noqa: PTH110 (Path.exists raises for some names)
        return False
    return bool(load(weights, key=key).model.config.hidden_dim <= _NARROW)


def _scratch_recipe(small: bool, channels: int) -> str:
    """Return the recipe that trains such images from random weights."""
    if not small:
        return "photos"
    return "fashion_mnist" if channels == 1 else "cifar10"
