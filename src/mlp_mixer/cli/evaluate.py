"""`mlp-mixer evaluate`: accuracy of a checkpoint on labelled images."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import typer

from .complete import WeightsOrBundled
from .console import percent, print_json


class SplitName(StrEnum):
    """Which images of the source."""

    test = "test"
    train = "train"
    all = "all"


class Views(StrEnum):
    """Of each image, at test time."""

    none = "none"
    flip = "flip"
    shift = "shift"


def evaluate(
    data: Annotated[
        str,
        typer.Option(help="Labelled images: digits, cifar10:PATH, folder:PATH, ..."),
    ],
    checkpoint: WeightsOrBundled = None,
    split: Annotated[
        SplitName, typer.Option(help="test: those held out of training.")
    ] = SplitName.test,
    tta: Annotated[
        Views,
        typer.Option(
            help="Views of each image to average: flip, or shift: flips and pixels."
        ),
    ] = Views.none,
    batch_size: Annotated[int, typer.Option(min=1, help="Images at a time.")] = 256,
    device: Annotated[str, typer.Option(help="cpu, cuda, mps or auto.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> int:
    """Measure top-1 and top-5 accuracy of a checkpoint."""
    from ..data.imagenet import conditions
    from ..devices import pick_device
    from ..evaluation import evaluate_checkpoint
    from ..weights import load
    from ..weights.catalog import BUNDLED

    target = pick_device(device)
    loaded = load(BUNDLED if checkpoint is None else checkpoint)
    name = BUNDLED.stem if checkpoint is None else checkpoint
    found: list[dict[str, Any]] = []
    for spec in conditions(data):
        chosen, result = evaluate_checkpoint(
            loaded,
            spec,
            split.value,
            batch_size=batch_size,
            device=target,
            tta=tta.value,
        )
        measured = {
            "top1": result.top1,
            "top5": result.top5,
            "loss": result.loss,
            "tta": tta.value,
        }
        found.append(
            {
                "data": spec,
                "split": chosen.split,
                "among": chosen.among,
                "n": result.n,
                **measured,
            }
        )
        if not as_json:
            print(
                f"{name} on {spec}, {chosen.split}: top-1 {percent(result.top1)}, top-5 {percent(result.top5)}, "
                f"loss {result.loss:.4f}, n = {result.n:,}"
            )
    mean: dict[str, Any] = {
        key: sum(row[key] for row in found) / len(found)
        for key in ("top1", "top5", "loss")
    }
    if as_json:
        several = {
            "data": data,
            "n": sum(row["n"] for row in found),
            **mean,
            "conditions": found,
        }
        print_json({"checkpoint": name, **(found[0] if len(found) == 1 else several)})
    elif len(found) > 1:
        print(
            f"mean of {len(found)} conditions: top-1 {percent(mean['top1'])}, top-5 {percent(mean['top5'])}"
        )
    return 0
