"""`mlp-mixer probe`: what a checkpoint's features are worth on many sources."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..intervals import plain_accuracy, short_accuracy
from .arguments import (
    BatchSize,
    Device,
    Json,
    Key,
    OverwriteOut,
    ResizeName,
    Weights,
    whole_numbers,
    with_key,
)
from .console import percent, print_json, print_table
from .streams import printable

if TYPE_CHECKING:
    from ..api import Probe
    from ..evaluation.probe import ProbeRow


def probe(
    checkpoint: Weights,
    data: Annotated[
        list[str],
        typer.Option(
            "--data", help="Labelled images; give it once for each source to measure."
        ),
    ],
    key: Key = None,
    shots: Annotated[
        str, typer.Option(help="Images per class of the few-shot fits; none: no fits.")
    ] = "5,10",
    seeds: Annotated[str, typer.Option(help="Each draws other images.")] = "0,1,2",
    linear: Annotated[
        bool,
        typer.Option(help="A linear head on frozen features, as finetune --frozen."),
    ] = True,
    train_images: Annotated[
        int | None,
        typer.Option(
            min=2,
            metavar="N",
            help="Images that the linear head learns from, of each class its share "
            "(VTAB-1k: 1000); default: all.",
        ),
    ] = None,
    l2: Annotated[float, typer.Option(help="Ridge penalty of few-shot fits.")] = 1024,
    resize: Annotated[
        ResizeName | None,
        typer.Option(
            help="resize ignores the aspect ratio, as big_vision does; resmall keeps it; "
            "default: the checkpoint's preprocessing."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE.json", help="Written anew after each source."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Keep the complete rows of --out.")
    ] = False,
    overwrite: OverwriteOut = False,
    batch_size: BatchSize = 256,
    device: Device = "auto",
    as_json: Json = False,
) -> int:
    """Measure frozen features on several sources: few-shot and linear accuracy.

    As in VTAB (arXiv 1910.04867), over any list of sources. A source that fails is
    listed, and the exit code is 1 then.
    """
    from .. import api
    from ..devices import keep_memory
    from ..errors import UserError
    from .progress import counted

    if (resume or overwrite) and out is None:
        raise UserError("--resume and --overwrite go with --out FILE.json")
    few = () if shots.lower() == "none" else whole_numbers(shots, "--shots", 1)

    def tell(row: ProbeRow) -> None:
        for problem in (row.error, *row.missing.values()):
            if problem:
                print(printable(f"{row.data}: {problem}"), file=sys.stderr)

    keep_memory()
    with counted("images", tell_end=False) as show:
        found = api.probe(
            with_key(checkpoint, key),
            data,
            shots=few,
            seeds=whole_numbers(seeds, "--seeds", 0),
            linear=linear,
            train_images=train_images,
            l2=l2,
            resize=resize.value if resize else None,
            out=out,
            resume=resume,
            overwrite=overwrite,
            batch_size=batch_size,
            device=device,
            report=tell,
            progress=show,
        )
    if as_json:
        print_json({"checkpoint": checkpoint, **found.to_dict()})
    else:
        _print(found)
    return 0 if found.complete else 1


def _print(found: Probe) -> None:
    """Print a line for each source and measure, and the means over sources."""
    headings = {
        "data": "left",
        "measure": "left",
        "top-1 [95 %]": "right",
        "right": "right",
    }
    lines = []
    for row in found.rows:
        lines += _lines(row, found.choice.measures)
    total = len(found.rows)
    for measure, mean in found.means.items():
        of = f"of {total}" if mean.sources == total else f"of {mean.sources} of {total}"
        lines.append((f"mean {of}", measure, percent(mean.accuracy), ""))
    print_table(headings, lines)


def _lines(row: ProbeRow, measures: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Return the lines of one source, the trivial answer among them."""
    if row.error:
        return [(row.data, "failed", "-", "-")]
    base = plain_accuracy(row.largest_class, row.n)
    lines: list[tuple[str, ...]] = []
    right = _right(row.largest_class, row.n)
    lines.append((row.data, "largest class", base, right))
    for measure in measures:
        share = row.mean(measure)
        if share is None:
            lines.append(("", measure, "-", "-"))
            continue
        text = short_accuracy(share, row.n)
        lines.append(("", measure, text, _right(share, row.n)))
    return lines


def _right(share: float, n: int) -> str:
    return f"{round(share * n):,} of {n:,}"
