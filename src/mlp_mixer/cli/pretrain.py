"""`mlp-mixer pretrain`: from pictures without labels to features."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import complete
from .arguments import OverwriteRun, Resume, Settings, Track

if TYPE_CHECKING:
    from ..training.journal import JournalRow, Report


def pretrain(
    data: Annotated[
        str,
        typer.Option(
            help="Pictures: folder:PATH at any depth, or what train takes. Labels are "
            "not used."
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the run (default: runs/pretrain-DATE-TIME)."),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            "--from",
            help="What to begin with: weights, or scratch (default: the bundled "
            "weights).",
            autocompletion=complete.weights,
        ),
    ] = None,
    recipe: Annotated[
        str, typer.Option(help="pretrain_views, pretrain_covered, ...")
    ] = "pretrain_views",
    settings: Settings = None,
    epochs: Annotated[
        float | None,
        typer.Option(
            help="The length, in views of each picture (default: 10,000 in all)."
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(min=1, help="Another batch; the learning rate is scaled with it."),
    ] = None,
    resume: Resume = False,
    overwrite: OverwriteRun = False,
    track: Track = None,
) -> int:
    """Learn features from pictures without labels, to begin a fine-tuning with.

    Test images are not learnt from. The checkpoint has no classifier.
    """
    from .. import api
    from .next_steps import after_pretraining, print_next
    from .progress import speaks, watch

    folder = out or Path("runs") / f"pretrain-{time.strftime('%Y%m%d-%H%M%S')}"
    config, notes = api.pretrain_config(
        data, weights, recipe, settings or (), epochs=epochs, batch_size=batch_size
    )
    labelled = True

    def start(report: Report) -> JournalRow:
        def told(row: JournalRow) -> None:
            nonlocal labelled
            if row["kind"] == "start":
                labelled = row["labelled"]
            report(row)

        return api.train(
            config,
            folder,
            resume=resume,
            overwrite=overwrite,
            track=track,
            report=told,
            notes=notes,
        )

    watch(start, folder)
    if speaks():
        print_next(after_pretraining(folder, data if labelled else None))
    return 0
