"""`mlp-mixer runs`: training runs beside each other."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .console import percent, print_json, print_table


def runs(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(help="Runs, or folders of runs (default: runs)."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Also write a page with their curves: FILE.html."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> int:
    """Compare runs: a row each, and with --out their curves on one page."""
    from ..report.compare import find_runs, plain, write_comparison

    found = find_runs(folders or [Path("runs")])
    if as_json:
        print_json([plain(run) for run in found])
    else:
        numbers = ("epochs", "val top-1", "loss", "img/s", "minutes")
        rows = [
            (
                run.name,
                run.recipe,
                f"{run.epochs:.1f}",
                "-" if run.best_top1 is None else percent(run.best_top1),
                "-" if run.train_loss is None else f"{run.train_loss:.4f}",
                "-"
                if run.images_per_second is None
                else f"{run.images_per_second:,.0f}",
                f"{run.seconds / 60:.1f}",
            )
            for run in found
        ]
        print_table(
            {"run": "left", "recipe": "left"} | dict.fromkeys(numbers, "right"), rows
        )
    if out is not None:
        print(f"comparison: {write_comparison(found, out)}")
    return 0
