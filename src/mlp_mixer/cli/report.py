"""`mlp-mixer report`: a run as one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .arguments import OverwriteOut


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
    overwrite: OverwriteOut = False,
) -> int:
    """Write a self-contained page about a run.

    It shows curves, the confusion matrix, sample predictions and token-mixing weights.
    """
    from ..devices import keep_memory
    from ..files import refuse_to_replace
    from ..report import build_report, write_report
    from .next_steps import after_report, print_next
    from .progress import stages

    # A page inside the run's folder is the run's own, and is written anew.
    page = out or run / "report.html"
    own = page.suffix == ".html" and page.resolve().parent == run.resolve()
    if not (own or overwrite):
        refuse_to_replace(page)
    keep_memory()
    with stages() as stage:
        built = build_report(run, data=data, stage=stage)
    write_report(built, page)
    print(f"report: {page}")
    print_next(after_report(run))
    return 0
