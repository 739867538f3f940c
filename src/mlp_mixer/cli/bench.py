"""`mlp-mixer bench`: how fast an architecture is here, beside others."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import complete
from .arguments import Json
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
    batch: Annotated[int, typer.Option(min=1, help="Images at a time.")] = 8,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    dtype: Annotated[str, typer.Option(help="fp32, bf16, fp16, fp8 or int8.")] = "fp32",
    peers: Annotated[
        str,
        typer.Option(
            help="none, all, or some of timm,compile,autotune,ort,openvino,vit,resnet,"
            "timm-bf16,openvino-bf16,ort-int8,ours-graph,ours-sbc."
        ),
    ] = "all",
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each competitor.")] = 7,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads; default: one per core.")
    ] = None,
    fast: Annotated[
        bool,
        typer.Option(
            "--fast", help="Ours may compute in bf16 and int8, as --fast of predict."
        ),
    ] = False,
    thorough: Annotated[
        bool, typer.Option("--thorough", help="torch.compile with max-autotune too.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="Append the rows to this .csv file.")
    ] = None,
    as_json: Json = False,
) -> int:
    """Measure a model and its competitors in turns.

    Reports speed, spread, CPU time, memory, and how far all are from the limit of the
    hardware. A competitor that fails is a row; the exit code is 1 if it is ours.
    """
    from ..bench.run import bench as measure
    from ..bench.table import HEADINGS, append_csv, lines, read_csv
    from ..devices import cpu_threads, pick_device

    if out is not None:
        # A file of another kind is refused before the work.
        read_csv(out)
    place = pick_device(device)
    console = stderr()

    def tell(doing: str) -> None:
        console.print(doing, style="dim")

    with cpu_threads(threads):
        result = measure(
            model, task, batch, place, dtype, peers, rounds, thorough, fast, tell=tell
        )
    if out is not None:
        append_csv(out, result)
    failed = result["rows"][0]["status"].startswith("failed: ")
    if as_json:
        print_json(result)
        return int(failed)
    machine = result["environment"]
    print(
        f"{model}, {task}, batch {result['batch']}, {dtype}: {machine['device']}, "
        f"{machine['threads']} threads; {result['versions']}"
    )
    headings = {
        title: "left" if title == "competitor" else "right" for title in HEADINGS
    }
    print_table(headings, lines(result["rows"]))
    return int(failed)
