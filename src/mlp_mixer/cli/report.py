"""`mlp-mixer report`: a run as one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    run: Annotated[Path, typer.Argument(help="The folder of a training run.")],
    data: Annotated[
        str | None,
        typer.Option(help="Evaluate on these images instead of the run's own."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="The page (default: report.html in the run's folder)."),
    ] = None,
) -> int:
    """Write a self-contained page about a run.

    It shows curves, the confusion matrix, sample predictions and token-mixing weights.
    """
    from ..report import build_report, write_report
    from .next_steps import after_report, print_next
    from .progress import stages

    with stages() as stage:
        built = build_report(run, data=data, stage=stage)
    page = write_report(built, out or run / "report.html")
    print(f"report: {page}")
    print_next(after_report(run))
    return 0
