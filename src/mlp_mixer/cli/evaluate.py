"""`mlp-mixer evaluate`: accuracy of a checkpoint on labelled images."""

from __future__ import annotations

import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..intervals import accuracy, plain_accuracy
from .arguments import (
    BatchSize,
    Device,
    Engine,
    Fast,
    Json,
    Key,
    LabelledImages,
    Labels,
    MinScore,
    PrecisionName,
    WeightsOrBundled,
    or_bundled,
)
from .console import print_json

if TYPE_CHECKING:
    from ..evaluation import Answered, Evaluation, MultiLabelEvaluation
    from ..runtime import EngineOnce

_MEASURES = ("top1", "top5", "loss", "balanced_top1")
# Between accuracy and balanced accuracy, from which on both are printed.
_POINT = 0.01

# Of so few classes one of the best five is always the right one.
_CLASSES_FOR_TOP5 = 6


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
    key: Key = None,
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
    clean_top1: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            help="For the relative mCE of ImageNet-C: the top-1 on ImageNet's own "
            "validation images, 0 to 1.",
        ),
    ] = None,
    labels: Labels = None,
    batch_size: BatchSize = 256,
    device: Device = "auto",
    engine: Engine = "auto",
    fast: Fast = False,
    precision: PrecisionName = "auto",
    as_json: Json = False,
) -> int:
    """Measure a checkpoint on labelled images: top-1 and top-5, or mAP and F1."""
    from ..data.dataset import public_name
    from ..data.imagenet import conditions
    from ..data.registry import check_place
    from ..devices import keep_memory, pick_device
    from ..errors import UserError
    from ..evaluation import (
        MultiLabelEvaluation,
        answered,
        corruption_errors,
        evaluate_checkpoint,
    )
    from ..runtime import EngineOnce, admitted_tolerance
    from ..weights import load
    from ..weights.scores import resolve_min_score
    from .next_steps import after_evaluation, print_next
    from .progress import counted

    keep_memory()
    place = pick_device(device)
    tolerance = admitted_tolerance(fast, precision, place)
    engines = EngineOnce(engine, tolerance=tolerance, precision=precision)
    source, name = or_bundled(checkpoint)
    check_place(data, source)
    loaded = load(source, key=key)
    lowest = resolve_min_score(min_score, loaded.provenance)
    found: list[dict[str, Any]] = []
    # A benchmark such as ImageNet-C is several test sets.
    specs = conditions(data)
    if len(specs) > 1:
        # Their names are checked before hours of work, not after them.
        corruption_errors(dict.fromkeys(specs, 0.0), clean_top1)
    elif clean_top1 is not None:
        raise UserError(
            "--clean-top1 goes with all conditions of ImageNet-C: --data imagenet_c:PATH"
        )
    for spec in specs:
        with counted("images", tell_end=False) as show:
            chosen, result = evaluate_checkpoint(
                loaded,
                spec,
                split.value,
                labels=labels,
                batch_size=batch_size,
                device=place,
                tta=tta.value,
                engine=engines,
                progress=show,
            )
        if result.assumed:
            print(f"note: {result.assumed}", file=sys.stderr)
        if isinstance(result, MultiLabelEvaluation):
            about = {"checkpoint": name, "data": spec, "tta": tta.value}
            _print_labels(result, about, as_json)
            _tell_engine(engines)
            return 0
        row = {
            "data": spec,
            "split": chosen.split,
            "among": chosen.among,
            "seen": chosen.seen,
            "n": result.n,
            "top1": result.top1,
            "interval": list(result.interval),
            "top5": result.top5,
            "loss": result.loss,
            "balanced_top1": result.balanced_top1,
            "tta": tta.value,
            "computed": result.computed,
        }
        if lowest is not None:
            part = answered(result, lowest)
            row |= {"coverage": part.coverage, "answered_top1": part.top1}
        found.append(row)
        per_class = [score.to_dict() for score in result.per_class]
        # Printed at once: the 75 test sets of ImageNet-C take long.
        if not as_json:
            print(f"{name} on {spec}, {chosen.split}: {_in_words(result)}")
            if lowest is not None:
                _print_answered(lowest, part, result.n)
        if result.remark:
            print(f"note: {result.remark}", file=sys.stderr)
    _tell_engine(engines)
    if as_json and len(found) == 1:
        # Not for each of 75 test sets: that would be 75,000 classes.
        print_json({"checkpoint": name, **found[0], "per_class": per_class})
    elif len(found) > 1:
        _print_mean(name, data, found, clean_top1, as_json)
    if not as_json:
        trained_on = (loaded.provenance.get("data") or {}).get("source")
        own = public_name(data) == trained_on
        print_next(after_evaluation(checkpoint, data, own))
    return 0


def _tell_engine(engines: EngineOnce) -> None:
    """Say on stderr what computed, where others than fp32 were admitted."""
    run = engines.made
    if run is not None and not run.is_exact:
        print(run.in_words(), file=sys.stderr)


def _print_mean(
    name: str,
    data: str,
    found: list[dict[str, Any]],
    clean_top1: float | None,
    as_json: bool,
) -> None:
    """Print what was measured over all conditions of ImageNet-C."""
    from ..evaluation.corruptions import (
        ALEXNET_ERRORS,
        condition_of,
        corruption_errors,
    )

    top1 = {row["data"]: row["top1"] for row in found}
    errors = corruption_errors(top1, clean_top1)
    # The corruptions of the folder `extra` do not count.
    counted = [row for row in found if condition_of(row["data"])[0] in ALEXNET_ERRORS]
    rows = counted or found
    # Over test sets, not over images: so their authors report it.
    mean = {key: sum(row[key] for row in rows) / len(rows) for key in _MEASURES}
    images = sum(row["n"] for row in rows)
    if as_json:
        print_json(
            {
                "checkpoint": name,
                "data": data,
                "n": images,
                **mean,
                "mce": errors.mce,
                "relative_mce": errors.relative_mce,
                "corruption_errors": errors.errors,
                "relative_errors": errors.relative,
                "extra": errors.extra,
                "missing": list(errors.missing),
                "conditions": found,
            }
        )
        return
    print(
        f"mean of {len(rows)} conditions: top-1 "
        f"{plain_accuracy(mean['top1'], images)}, top-5 "
        f"{plain_accuracy(mean['top5'], images)}"
    )
    if errors.mce is not None:
        print(
            f"mCE {100 * errors.mce:.1f} % (AlexNet 100 %, {len(errors.errors)} corruptions)"
        )
        if errors.relative_mce is not None:
            print(f"relative mCE {100 * errors.relative_mce:.1f} % (AlexNet 100 %)")
    else:
        print(f"no mCE: {len(errors.missing)} of its 75 conditions are missing")
    if errors.extra:
        each = [f"{word} {100 * error:.1f} %" for word, error in errors.extra.items()]
        print(f"errors of other corruptions, not counted: {', '.join(each)}")


def _in_words(result: Evaluation) -> str:
    """Return what was measured, and how far it can be trusted."""
    text = f"top-1 {accuracy(result.top1, result.n)}"
    if result.probabilities.shape[1] >= _CLASSES_FOR_TOP5:
        text += f", top-5 {plain_accuracy(result.top5, result.n)}"
    # Where it says something else than the accuracy.
    if abs(result.balanced_top1 - result.top1) > _POINT:
        balanced = plain_accuracy(result.balanced_top1, result.n)
        text += f", balanced accuracy {balanced}"
    return f"{text}, loss {result.loss:.4f}"


def _print_labels(
    result: MultiLabelEvaluation, about: dict[str, str], as_json: bool
) -> None:
    """Print what was measured on images with several labels each."""
    from ..evaluation.multilabel import map_in_words

    measured = {
        "split": result.split,
        "seen": result.seen,
        "n": result.n,
        "map": result.map,
        "interval": result.interval,
        "micro_f1": result.micro_f1,
        "macro_f1": result.macro_f1,
        "loss": result.loss,
        "computed": result.computed,
    }
    if as_json:
        per_class = [score.to_dict() for score in result.per_class]
        print_json({**about, **measured, "per_class": per_class})
        return
    micro = f"{100 * result.micro_f1:.1f} %"
    macro = "-" if result.macro_f1 is None else f"{100 * result.macro_f1:.1f} %"
    print(
        f"{about['checkpoint']} on {about['data']}, {result.split}: mAP "
        f"{map_in_words(result)}, micro F1 {micro}, macro F1 {macro}, loss {result.loss:.4f}"
    )


def _print_answered(lowest: float, part: Answered, n: int) -> None:
    right = "-" if part.top1 is None else accuracy(part.top1, part.n)
    print(
        f"scores from {lowest:.4g} on answer {part.n:,} of {n:,} images "
        f"({100 * part.coverage:.1f} %): top-1 of these {right}"
    )
