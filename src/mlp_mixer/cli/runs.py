"""`mlp-mixer runs`: compare training runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..intervals import short_accuracy
from .arguments import Json, OverwriteOut
from .console import percent, print_json, print_table

if TYPE_CHECKING:
    from ..report.compare import RunSummary


def runs(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(help="Runs, or folders of runs (default: runs)."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Also write a page with their curves: FILE.html."),
    ] = None,
    overwrite: OverwriteOut = False,
    as_json: Json = False,
) -> int:
    """Compare runs: a row for each, and with --out their curves on one page.

    clipped: the share of steps whose gradient was clipped; left out: steps that were not
    taken, because their gradient was a spike (train.on_spike) or not finite.
    """
    from ..files import refuse_to_replace
    from ..report.compare import find_runs, write_comparison

    if out is not None and not overwrite:
        refuse_to_replace(out)
    found = find_runs(folders or [Path("runs")])
    if as_json:
        print_json([run.to_dict() for run in found])
    else:
        headings = {
            "run": "left",
            "recipe": "left",
            "epochs": "right",
            "val top-1 [95 %]": "right",
            "n": "right",
            "loss": "right",
            "img/s": "right",
            "minutes": "right",
            "clipped": "right",
            "left out": "right",
        }
        print_table(headings, [_texts(run) for run in found])
    if out is not None:
        print(f"comparison: {write_comparison(found, out)}")
    return 0


def _texts(run: RunSummary) -> tuple[str, ...]:
    top1 = "-"
    if run.best_top1 is not None:
        top1 = short_accuracy(run.best_top1, run.best_n)
    elif run.best_map is not None:
        top1 = f"mAP {100 * run.best_map:.1f} %"
    loss = "-" if run.train_loss is None else f"{run.train_loss:.4f}"
    speed = "-"
    if run.images_per_second is not None:
        speed = f"{run.images_per_second:,.0f}"
    minutes = f"{run.seconds / 60:.1f}"
    images = f"{run.best_n:,}" if run.best_n else "-"
    epochs = f"{run.epochs:.1f}"
    clipped = "-" if run.clipped is None else percent(run.clipped)
    measured = (epochs, top1, images, loss, speed, minutes)
    return run.name, run.recipe, *measured, clipped, f"{run.left_out:,}"
