"""`mlp-mixer finetune`: from pretrained weights to a classifier of other images."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import complete
from .arguments import (
    FindBatchSize,
    LabelledImages,
    OverwriteRun,
    Resume,
    Settings,
    Track,
)

if TYPE_CHECKING:
    from ..training.config import TrainConfig
    from ..training.journal import JournalRow, Report

_PRICE = (
    "without pretrained weights a Mixer needs many images: on 1,800 photos of ten "
    "classes it reached 32 % (README), and on CIFAR-10 the best published from scratch "
    "is 90.8 %, where B/16 fine-tuned from ImageNet has 96.7 %"
)


def finetune(
    weights: Annotated[
        str,
        typer.Argument(
            help="Checkpoint, run folder, or name (`mlp-mixer models --weights`); "
            "scratch: random weights.",
            autocompletion=complete.weights,
        ),
    ],
    data: LabelledImages,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the run (default: runs/finetune-DATE-TIME)."),
    ] = None,
    recipe: Annotated[
        str, typer.Option(help="auto, paper, or the name of a recipe.")
    ] = "auto",
    settings: Settings = None,
    frozen: Annotated[
        bool,
        typer.Option(
            "--frozen",
            help="Train only a new head (linear probe). Takes seconds.",
        ),
    ] = False,
    sweep: Annotated[
        str | None,
        typer.Option(
            help="FIELD=A,B,C: one run for each value; the best on validation wins."
        ),
    ] = None,
    resume: Resume = False,
    overwrite: OverwriteRun = False,
    find_batch_size: FindBatchSize = False,
    track: Track = None,
) -> int:
    """Fine-tune weights of any lineage on other images.

    The new head is zero, except for classes that the weights know by name: they keep
    their rows.
    """
    from .. import api
    from ..recipes.resolve import sweep_runs
    from .console import percent
    from .progress import map_text, watch

    # A person who has no weights should know what that costs before hours have passed.
    if weights == api.SCRATCH and not frozen:
        print(_PRICE, file=sys.stderr)
    folder = out or Path("runs") / f"finetune-{time.strftime('%Y%m%d-%H%M%S')}"
    if frozen:
        best = api.finetune(
            weights,
            data,
            folder,
            recipe=recipe,
            settings=settings or (),
            frozen=True,
            sweep=sweep,
            resume=resume,
            overwrite=overwrite,
            find_batch_size=find_batch_size,
            track=track,
            report=lambda row: print(row["text"], file=sys.stderr),
        )
        about = ""
        if "top1" in best:
            about = f" (validation top-1 {percent(best['top1'])})"
        print(f"best checkpoint: {folder / 'best.safetensors'}{about}")
        return 0

    def run(config: TrainConfig, place: Path) -> JournalRow:
        def start(report: Report) -> JournalRow:
            return api.train(
                config,
                place,
                resume=resume,
                overwrite=overwrite,
                find_batch_size=find_batch_size,
                track=track,
                report=report,
            )

        return watch(start, place)

    config = api.finetune_config(weights, data, recipe, settings or ())
    if sweep is None:
        run(config, folder)
        return 0
    # Run by run, so that each of them has its own line of progress and result.
    rows = {}
    for place, one in sweep_runs(config, folder, sweep):
        rows[place] = run(one, place)
    best_run = api.best_run(rows)
    best = rows[best_run]
    about = f"top-1 {percent(best.get('top1', 0.0))}"
    if "map" in best:
        about = map_text(best)
    print(f"best of {len(rows)}: {best_run} (validation {about})")
    return 0
