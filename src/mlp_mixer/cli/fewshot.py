"""`mlp-mixer fewshot`: how good a checkpoint's features are for new classes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..intervals import accuracy, plain_accuracy, short_accuracy
from .arguments import (
    BatchSize,
    Device,
    Json,
    Key,
    LabelledImages,
    ResizeName,
    Weights,
    whole_numbers,
)
from .console import print_json, print_table

if TYPE_CHECKING:
    from ..evaluation import FewShot


def fewshot(
    checkpoint: Weights,
    data: LabelledImages,
    key: Key = None,
    shots: Annotated[
        str, typer.Option(help="Images per class to learn from.")
    ] = "1,5,10,25",
    seeds: Annotated[str, typer.Option(help="Each draws other images.")] = "0,1,2",
    l2: Annotated[float, typer.Option(help="Strength of the ridge penalty.")] = 1024,
    knn: Annotated[
        int | None,
        typer.Option(min=1, help="Also a vote of this many nearest neighbours."),
    ] = None,
    resize: Annotated[
        ResizeName | None,
        typer.Option(
            help="resize ignores the aspect ratio, as big_vision does; resmall keeps it; "
            "default: the checkpoint's preprocessing."
        ),
    ] = None,
    batch_size: BatchSize = 256,
    device: Device = "auto",
    as_json: Json = False,
) -> int:
    """Measure linear few-shot accuracy (the paper's "linear 5-shot").

    A ridge regression learns from the features of a few images per class.
    """
    from ..data.registry import check_place
    from ..devices import keep_memory, pick_device
    from ..evaluation import evaluate_fewshot
    from ..weights import load
    from .progress import counted

    keep_memory()
    check_place(data, checkpoint)
    with counted("images", tell_end=False) as show:
        result = evaluate_fewshot(
            load(checkpoint, key=key),
            data,
            shots=whole_numbers(shots, "--shots", 1),
            seeds=whole_numbers(seeds, "--seeds", 0),
            l2=l2,
            neighbours=knn,
            resize=resize.value if resize else None,
            batch_size=batch_size,
            device=pick_device(device),
            progress=show,
        )
    if as_json:
        how = {
            "l2": l2,
            "resize": resize.value if resize else "as the checkpoint",
        }
        print_json({"checkpoint": checkpoint, "data": data, **how, **_plain(result)})
        return 0
    chosen = result.eval_split
    print(
        f"{checkpoint} on {data}, {chosen.split}: n = {len(chosen.images):,}, "
        f"{result.classes} classes, l2 = {l2:g}"
    )
    _print_accuracies(result.accuracies, len(chosen.images))
    if result.neighbours is not None:
        vote = accuracy(result.neighbours, len(chosen.images))
        print(f"{knn} nearest neighbours: {vote}")
    return 0


def _mean(by_seed: dict[int, float]) -> float:
    return sum(by_seed.values()) / len(by_seed)


def _plain(result: FewShot) -> dict[str, Any]:
    by_shots = {}
    for count, by_seed in result.accuracies.items():
        by_shots[count] = {"mean": _mean(by_seed), "seeds": by_seed}
    return {
        "split": result.eval_split.split,
        "n": len(result.eval_split.images),
        "classes": result.classes,
        "shots": by_shots,
        "knn": result.neighbours,
    }


def _print_accuracies(accuracies: dict[int, dict[int, float]], n: int) -> None:
    headings = {"shots": "right", "mean [95 %]": "right"}
    for seed in next(iter(accuracies.values())):
        headings[f"seed {seed}"] = "right"
    rows = []
    for count, by_seed in accuracies.items():
        each = [plain_accuracy(share, n) for share in by_seed.values()]
        rows.append((str(count), short_accuracy(_mean(by_seed), n), *each))
    print_table(headings, rows)
