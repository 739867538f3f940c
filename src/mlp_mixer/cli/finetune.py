"""`mlp-mixer finetune`: from pretrained weights to a classifier of other images."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import UserError
from ..intervals import accuracy
from . import complete
from .arguments import (
    FindBatchSize,
    Key,
    LabelledImages,
    Minutes,
    OverwriteRun,
    Resume,
    Settings,
    Track,
)

if TYPE_CHECKING:
    from ..training.config import TrainConfig
    from ..training.journal import JournalRow, Report

_PRICE = (
    "from random weights a Mixer needs many images; the same command without `scratch` "
    "begins with the weights in the package"
)

# Test images, of more of which a person asks for the evaluation by a command of its own.
_MOST_TESTED = 20_000


def finetune(
    data: LabelledImages,
    weights: Annotated[
        str | None,
        typer.Argument(
            help="Checkpoint, run folder, or name (`mlp-mixer models --weights`); "
            "scratch: random weights. Default: the bundled weights.",
            autocompletion=complete.weights,
        ),
    ] = None,
    key: Key = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the run (default: runs/finetune-DATE-TIME)."),
    ] = None,
    recipe: Annotated[
        str, typer.Option(help="auto, paper, or the name of a recipe.")
    ] = "auto",
    settings: Settings = None,
    channels: Annotated[
        int | None,
        typer.Option(
            min=1, help="Of the images, if the weights were made for others: 1, 12, ..."
        ),
    ] = None,
    frozen: Annotated[
        bool,
        typer.Option(
            "--frozen",
            help="Train only a new head (linear probe). Takes seconds.",
        ),
    ] = False,
    minutes: Minutes = None,
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

    A head is fitted to the frozen features first; then all weights learn. The weights
    that do best on the validation images are kept, and tested on images that nothing
    has learnt from.
    """
    from .. import api
    from ..devices import keep_memory
    from ..recipes.resolve import sweep_runs
    from ..training.choice import chosen_by
    from .progress import counted, map_text, watch

    keep_memory()
    # A person who has no weights should know what that costs before hours have passed.
    if weights == api.SCRATCH and not frozen:
        print(_PRICE, file=sys.stderr)
    if channels is not None:
        settings = [f"model.in_channels={channels}", *(settings or ())]
    folder = out or Path("runs") / f"finetune-{time.strftime('%Y%m%d-%H%M%S')}"
    if frozen:
        tell = _Told(introduce=weights is None)
        with counted("images", tell_end=False) as show:
            best = api.finetune(
                weights,
                data,
                folder,
                recipe=recipe,
                key=key,
                settings=settings or (),
                frozen=True,
                sweep=sweep,
                resume=resume,
                overwrite=overwrite,
                find_batch_size=find_batch_size,
                minutes=minutes,
                track=track,
                report=tell,
                progress=show,
            )
        print(f"checkpoint: {folder / 'best.safetensors'}{_by_folds(best)}")
        _test(folder, data)
        _print_next(folder, data)
        return 0

    def run(config: TrainConfig, place: Path) -> JournalRow:
        def start(report: Report) -> JournalRow:
            return api.train(
                config,
                place,
                resume=resume,
                overwrite=overwrite,
                find_batch_size=find_batch_size,
                minutes=minutes,
                track=track,
                report=report,
            )

        return watch(start, place)

    config = api.finetune_config(weights, data, recipe, settings or (), key=key)
    # After the images were found: a mistake in --data is then one sentence.
    if weights is None:
        _introduce_start()
    if sweep is None:
        run(config, folder)
        _test(folder, data)
        _print_next(folder, data)
        return 0
    # Run by run, so that each of them has its own line of progress and result.
    rows = {}
    for place, one in sweep_runs(config, folder, sweep):
        rows[place] = run(one, place)
    best_run = api.best_run(rows)
    row = rows[best_run]
    about = ""
    if "top1" in row:
        about = f" (validation top-1 {accuracy(row['top1'], row['n'])})"
    if "map" in row:
        about = f" (validation {map_text(row)})"
    print(f"best of {len(rows)} by {chosen_by(row)}: {best_run}{about}")
    _test(best_run, data)
    _print_next(best_run, data)
    return 0


class _Told:
    """Prints notes, below what there is to say of the weights."""

    def __init__(self, *, introduce: bool) -> None:
        self._introduce = introduce

    def __call__(self, row: JournalRow) -> None:
        if self._introduce:
            _introduce_start()
        self._introduce = False
        print(row["text"], file=sys.stderr)


def _print_next(run: Path, data: str) -> None:
    from .next_steps import after_training, print_next
    from .progress import speaks

    if speaks():
        print_next(after_training(run, data, tested=True))


def _introduce_start() -> None:
    """Say on stderr which weights are taken, and what a download would give."""
    from ..weights.catalog import BETTER, START, find

    better = find(BETTER)
    assert better is not None
    # Nobody publishes the size: 59.9 million weights of the body and 21,843 classes.
    size = f"{better.mib or 293:,.0f} MiB"
    print(
        f"No weights named: starting from {START}, which are in the package. Named "
        f"weights are better at photographs: `mlp-mixer finetune {BETTER} ...` fetches "
        f"{size} ({better.licence}) once, and a step takes some hundred times as long; "
        "take them with a GPU, or for a few hundred pictures with --frozen.",
        file=sys.stderr,
    )


def _by_folds(row: JournalRow) -> str:
    """Return what the folds of a linear probe have measured, in words."""
    if "top1" not in row:
        return " (too few images to say how good it is)"
    text = f" ({row['split']}: top-1 {accuracy(row['top1'], row['n'])}"
    folds = row["fold_top1"]
    if len(folds) > 1:
        text += f", fold by fold {100 * min(folds):.0f} to {100 * max(folds):.0f} %"
    return text + ")"


def _test(run: Path, data: str) -> None:
    """Print the accuracy of a run on the images that it has not learnt from."""
    from ..evaluation import Evaluation, eval_split, evaluate_checkpoint
    from ..evaluation.multilabel import map_in_words
    from ..weights import load

    # Of several processes the first one speaks, and the others are gone.
    if os.environ.get("RANK", "0") != "0":
        return
    checkpoint = load(run)
    try:
        chosen = eval_split(data, checkpoint.provenance)
    except UserError as error:
        print(f"not tested: {error}", file=sys.stderr)
        return
    if len(chosen.images) > _MOST_TESTED:
        print(
            f"not tested on {len(chosen.images):,} images; do so with `mlp-mixer evaluate "
            f"{run} --data {data}`",
            file=sys.stderr,
        )
        return
    _, result = evaluate_checkpoint(checkpoint, data)
    if isinstance(result, Evaluation):
        print(f"{chosen.split}: top-1 {accuracy(result.top1, result.n)}")
    elif result.map is not None:
        print(f"{chosen.split}: mAP {map_in_words(result)}")
