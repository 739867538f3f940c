"""`mlp-mixer average`: several finished runs as one network."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..intervals import accuracy
from . import complete
from .arguments import BatchSize, Device, Json, OverwriteOut
from .console import print_json

if TYPE_CHECKING:
    from ..evaluation import Evaluation


def average(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN RUN...",
            help="Folders of runs, or checkpoints: two or more.",
            autocompletion=complete.weights,
        ),
    ],
    out: Annotated[Path, typer.Option(help="The .safetensors file to write.")],
    data: Annotated[
        str | None,
        typer.Option(help="The runs' dataset: measure on its validation images."),
    ] = None,
    greedy: Annotated[
        bool,
        typer.Option(
            "--greedy",
            help="Best first; add the others only where the average gets no worse.",
        ),
    ] = False,
    overwrite: OverwriteOut = False,
    batch_size: BatchSize = 256,
    device: Device = "auto",
    as_json: Json = False,
) -> int:
    """Average the weights of runs that began with the same weights (a model soup).

    It costs as much as one network and is often better than each of them.
    """
    from .. import api

    def tell(name: str, result: Evaluation) -> None:
        if not as_json:
            print(f"{name}: validation top-1 {accuracy(result.top1, result.n)}")

    done = api.average(
        runs,
        out,
        data=data,
        greedy=greedy,
        overwrite=overwrite,
        batch_size=batch_size,
        device=device,
        report=tell,
    )
    if as_json:
        print_json(asdict(done) | {"path": str(done.path)})
        return 0
    print(f"{done.path}: the average of {', '.join(done.used)}")
    return 0
