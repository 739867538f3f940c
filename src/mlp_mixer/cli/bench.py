"""`mlp-mixer bench`: how fast an architecture is here, beside others."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import complete
from .console import print_json, print_table, stderr


def bench(
    model: Annotated[
        str,
        typer.Argument(
            help="An architecture, such as mixer_b16.", autocompletion=complete.models
        ),
    ],
    task: Annotated[
        str,
        typer.Option(
            help="infer, train (a step), or predict (the command, one picture)."
        ),
    ] = "infer",
    batch: Annotated[int, typer.Option(min=1, help="Images at once.")] = 8,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    dtype: Annotated[str, typer.Option(help="fp32, bf16, fp16, fp8 or int8.")] = "fp32",
    peers: Annotated[
        str,
        typer.Option(
            help="none, all, or some: timm,compile,autotune,ort,openvino,vit,resnet,ours-graph"
        ),
    ] = "all",
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each competitor.")] = 7,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads; default: one per core.")
    ] = None,
    thorough: Annotated[
        bool, typer.Option("--thorough", help="torch.compile with max-autotune too.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="Append the rows to this .csv file.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> int:
    """Measure a model and its peers in turns: speed, spread, CPU time, memory, and how
    far from what is possible.
    """
    from ..bench.run import bench as measure
    from ..bench.table import HEADINGS, append_csv, lines, read_csv
    from ..devices import cpu_threads, pick_device

    if out is not None:
        read_csv(out)  # complains before the work
    place = pick_device(device)
    console = stderr()
    with cpu_threads(threads):
        tell = lambda doing: console.print(doing, style="dim")  # noqa: E731
        how = (task, batch, place, dtype, peers, rounds, thorough)
        result = measure(model, *how, tell=tell)
    if out is not None:
        append_csv(out, result)
    if as_json:
        print_json(result)
        return 0
    where = f"{result['environment']['device']}, {result['environment']['threads']} threads; {result['versions']}"
    print(f"{model}, {task}, batch {result['batch']}, {dtype}: {where}")
    print_table(
        {title: "left" if title == "who" else "right" for title in HEADINGS},
        lines(result["rows"]),
    )
    return 0
