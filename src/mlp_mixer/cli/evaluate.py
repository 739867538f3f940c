"""`mlp-mixer evaluate`: accuracy of a checkpoint on labelled images."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import typer

from .arguments import (
    BatchSize,
    Device,
    Json,
    LabelledImages,
    WeightsOrBundled,
    or_bundled,
)
from .console import percent, print_json

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
    batch_size: BatchSize = 256,
    device: Device = "auto",
    as_json: Json = False,
) -> int:
    """Measure top-1 and top-5 accuracy of a checkpoint."""
    from ..data.dataset import public_name
    from ..data.imagenet import conditions
    from ..devices import pick_device
    from ..evaluation import evaluate_checkpoint
    from ..weights import load
    from .next_steps import after_evaluation, print_next
    from .progress import counted

    place = pick_device(device)
    source, name = or_bundled(checkpoint)
    loaded = load(source)
    found: list[dict[str, Any]] = []
    # A benchmark such as ImageNet-C is several test sets.
    for spec in conditions(data):
        with counted("images", tell_end=False) as show:
            chosen, result = evaluate_checkpoint(
                loaded,
                spec,
                split.value,
                batch_size=batch_size,
                device=place,
                tta=tta.value,
                progress=show,
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
        found.append(row)
        # Printed at once: the 75 test sets of ImageNet-C take long.
        if not as_json:
            print(
                f"{name} on {spec}, {chosen.split}: top-1 {percent(result.top1)}, "
                f"top-5 {percent(result.top5)}, loss {result.loss:.4f}, n = {result.n:,}"
            )
    if as_json and len(found) == 1:
        print_json({"checkpoint": name, **found[0]})
    elif len(found) > 1:
        _print_mean(name, data, found, as_json)
    if not as_json:
        trained_on = (loaded.provenance.get("data") or {}).get("source")
        own = public_name(data) == trained_on
        print_next(after_evaluation(checkpoint, data, own))
    return 0


def _print_mean(
    name: str, data: str, found: list[dict[str, Any]], as_json: bool
) -> None:
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
