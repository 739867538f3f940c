"""`mlp-mixer evaluate`: accuracy of a checkpoint on labelled images."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from .console import percent, print_json


class SplitName(StrEnum):
    """Which images of the source."""

    test = "test"
    train = "train"
    all = "all"


def evaluate(
    checkpoint: Annotated[str, typer.Argument(help="Weights of any kind, the folder of a run, or a name.")],
    data: Annotated[str, typer.Option(help="Labelled images: digits, cifar10:PATH, folder:PATH, ...")],
    split: Annotated[SplitName, typer.Option(help="test: those held out of training.")] = SplitName.test,
    batch_size: Annotated[int, typer.Option(min=1, help="Images at a time.")] = 256,
    device: Annotated[str, typer.Option(help="cpu, cuda, mps or auto.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> int:
    """Measure top-1 and top-5 accuracy of a checkpoint."""
    from ..devices import pick_device
    from ..evaluate import judge
    from ..weights import load

    target = pick_device(device)
    chosen, result = judge(load(checkpoint), data, split.value, batch_size=batch_size, device=target)
    if as_json:
        print_json(
            {
                "checkpoint": checkpoint,
                "data": data,
                "split": chosen.split,
                "n": result.n,
                "top1": result.top1,
                "top5": result.top5,
                "loss": result.loss,
            }
        )
        return 0
    print(
        f"{checkpoint} on {data}, {chosen.split}: top-1 {percent(result.top1)}, top-5 {percent(result.top5)}, "
        f"loss {result.loss:.4f}, n = {result.n:,}"
    )
    return 0
