"""`mlp-mixer evaluate`: accuracy of a checkpoint on labelled images."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .arguments import (
    BatchSize,
    Device,
    Json,
    LabelledImages,
    MinScore,
    WeightsOrBundled,
    or_bundled,
)
from .console import percent, print_json

if TYPE_CHECKING:
    from ..evaluation import Answered

_MEASURES = ("top1", "top5", "loss")


class SplitName(StrEnum):
    """Which images of the dataset."""

    test = "test"
    train = "train"
    all = "all"


class Views(StrEnum):
    """Test-time augmentation: the views of each image."""

    none = "none"
    flip = "flip"
    shift = "shift"


def evaluate(
    data: LabelledImages,
    checkpoint: WeightsOrBundled = None,
    split: Annotated[
        SplitName,
        typer.Option(help="test: the test split, or the images held out of training."),
    ] = SplitName.test,
    tta: Annotated[
        Views,
        typer.Option(
            help="Test-time augmentation, averaged: flip; or shift: flip and shift by "
            "pixels."
        ),
    ] = Views.none,
    min_score: MinScore = None,
    batch_size: BatchSize = 256,
    device: Device = "auto",
    as_json: Json = False,
) -> int:
    """Measure top-1 and top-5 accuracy of a checkpoint."""
    from ..data.imagenet import conditions
    from ..devices import pick_device
    from ..evaluation import answered, evaluate_checkpoint
    from ..weights import load
    from ..weights.scores import resolve_min_score

    place = pick_device(device)
    source, name = or_bundled(checkpoint)
    loaded = load(source)
    lowest = resolve_min_score(min_score, loaded.provenance)
    found: list[dict[str, Any]] = []
    # A benchmark such as ImageNet-C is several test sets.
    for spec in conditions(data):
        chosen, result = evaluate_checkpoint(
            loaded,
            spec,
            split.value,
            batch_size=batch_size,
            device=place,
            tta=tta.value,
        )
        row = {
            "data": spec,
            "split": chosen.split,
            "among": chosen.among,
            "n": result.n,
            "top1": result.top1,
            "top5": result.top5,
            "loss": result.loss,
            "tta": tta.value,
        }
        if lowest is not None:
            part = answered(result, lowest)
            row |= {"coverage": part.coverage, "answered_top1": part.top1}
        found.append(row)
        # Printed at once: the 75 test sets of ImageNet-C take long.
        if not as_json:
            print(
                f"{name} on {spec}, {chosen.split}: top-1 {percent(result.top1)}, "
                f"top-5 {percent(result.top5)}, loss {result.loss:.4f}, n = {result.n:,}"
            )
            if lowest is not None:
                _print_answered(lowest, part, result.n)
    if len(found) == 1:
        if as_json:
            print_json({"checkpoint": name, **found[0]})
        return 0
    # Over test sets, not over images: so their authors report it.
    mean = {key: sum(row[key] for row in found) / len(found) for key in _MEASURES}
    if as_json:
        print_json(
            {
                "checkpoint": name,
                "data": data,
                "n": sum(row["n"] for row in found),
                **mean,
                "conditions": found,
            }
        )
    else:
        print(
            f"mean of {len(found)} conditions: top-1 {percent(mean['top1'])}, "
            f"top-5 {percent(mean['top5'])}"
        )
    return 0


def _print_answered(lowest: float, part: Answered, n: int) -> None:
    right = "-" if part.top1 is None else percent(part.top1)
    print(
        f"scores from {lowest:.4g} on answer {part.n:,} of {n:,} images "
        f"({percent(part.coverage)}): top-1 of these {right}"
    )
