"""`mlp-mixer train`: from a recipe to a checkpoint."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import complete
from .arguments import (
    FindBatchSize,
    Minutes,
    OverwriteRun,
    Resume,
    Settings,
    Track,
)

if TYPE_CHECKING:
    from ..training.journal import JournalRow, Report


def train(
    recipe: Annotated[
        str,
        typer.Argument(
            help="A recipe (see `mlp-mixer recipes`), or the config.json of a run.",
            autocompletion=complete.recipes,
        ),
    ],
    data: Annotated[
        str | None,
        typer.Option(help="digits, fashion_mnist:PATH, cifar10:PATH, folder:PATH, ..."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the run (default: runs/RECIPE-DATE-TIME)."),
    ] = None,
    settings: Settings = None,
    epochs: Annotated[
        float | None,
        typer.Option(help="Another length; a warm-up keeps its share of it."),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(min=1, help="Another batch; the learning rate is scaled with it."),
    ] = None,
    minutes: Minutes = None,
    resume: Resume = False,
    overwrite: OverwriteRun = False,
    find_batch_size: FindBatchSize = False,
    track: Track = None,
) -> int:
    """Train a model.

    Leaves best.safetensors, last.safetensors, metrics.jsonl, config.json and state/ in
    the folder of the run.
    """
    from ..data.registry import check_place
    from ..recipes.resolve import repeats, resolve_config

    # A mistake in these is told at once: torch, which takes seconds, is loaded below.
    config, notes = resolve_config(
        recipe,
        data=data,
        settings=settings or (),
        epochs=epochs,
        batch_size=batch_size,
    )
    if repeats(recipe, data, settings or ()):
        check_place(config.data.source, recipe, alone=True)
    # A folder of its own for every run: two runs of a recipe never mix.
    name = f"{config.recipe or 'run'}-{time.strftime('%Y%m%d-%H%M%S')}"
    folder = out or Path("runs") / name

    from .. import api
    from .next_steps import after_training, print_next
    from .progress import speaks, watch

    def start(report: Report) -> JournalRow:
        return api.train(
            config,
            folder,
            resume=resume,
            overwrite=overwrite,
            find_batch_size=find_batch_size,
            minutes=minutes,
            track=track,
            report=report,
            notes=notes,
        )

    watch(start, folder)
    if speaks():
        print_next(after_training(folder, config.data.source))
    return 0
