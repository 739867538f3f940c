"""`mlp-mixer fewshot`: how good a checkpoint's features are for new classes."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from .complete import Weights
from .console import percent, print_json, print_table


class ResizeName(StrEnum):
    """How an image comes to the size of the crop."""

    resmall = "resmall"
    resize = "resize"


def fewshot(
    checkpoint: Weights,
    data: Annotated[
        str,
        typer.Option(help="Labelled images: digits, cifar10:PATH, folder:PATH, ..."),
    ],
    shots: Annotated[
        str, typer.Option(help="Images per class to learn from.")
    ] = "1,5,10,25",
    seeds: Annotated[str, typer.Option(help="Which images.")] = "0,1,2",
    l2: Annotated[float, typer.Option(help="Strength of the ridge.")] = 1024,
    knn: Annotated[
        int | None,
        typer.Option(min=1, help="Also a vote of this many nearest neighbours."),
    ] = None,
    resize: Annotated[
        ResizeName | None,
        typer.Option(
            help="resize squashes, as big_vision does; default: the checkpoint's way."
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images at a time.")] = 256,
    device: Annotated[str, typer.Option(help="cpu, cuda, mps or auto.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> int:
    """Fit a linear classifier to the features of a few images per class (the paper's
    "linear 5-shot").
    """
    from ..devices import pick_device
    from ..evaluation import evaluate_fewshot
    from ..weights import load

    result = evaluate_fewshot(
        load(checkpoint),
        data,
        shots=_numbers(shots, "--shots", 1),
        seeds=_numbers(seeds, "--seeds", 0),
        l2=l2,
        neighbours=knn,
        resize=resize.value if resize else None,
        batch_size=batch_size,
        device=pick_device(device),
    )
    mean = {n: sum(each.values()) / len(each) for n, each in result.accuracies.items()}
    images = result.eval_split.images
    if as_json:
        by_shots = {
            n: {"mean": mean[n], "seeds": each} for n, each in result.accuracies.items()
        }
        facts = {
            "checkpoint": checkpoint,
            "data": data,
            "split": result.eval_split.split,
            "n": len(images),
        }
        how = {
            "classes": result.classes,
            "l2": l2,
            "resize": resize.value if resize else "as the checkpoint",
        }
        print_json({**facts, **how, "shots": by_shots, "knn": result.neighbours})
        return 0
    print(
        f"{checkpoint} on {data}, {result.eval_split.split}: n = {len(images):,}, {result.classes} classes, l2 = {l2:g}"
    )
    columns = [f"seed {seed}" for seed in next(iter(result.accuracies.values()))]
    rows = [
        (str(n), percent(mean[n]), *map(percent, each.values()))
        for n, each in result.accuracies.items()
    ]
    print_table(
        {"shots": "right", "mean": "right", **dict.fromkeys(columns, "right")}, rows
    )
    if result.neighbours is not None:
        print(f"{knn} nearest neighbours: {percent(result.neighbours)}")
    return 0


def _numbers(text: str, option: str, least: int) -> tuple[int, ...]:
    """Whole numbers between commas, each once, in the order given."""
    from ..errors import UserError

    try:
        numbers = tuple(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) < least:
        raise UserError(
            f"{option} is {text!r}: expected whole numbers from {least}, such as 1,5,10"
        )
    return numbers
