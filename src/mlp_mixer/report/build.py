"""From the folder of a training run to a `Report`: its journal, a fresh evaluation,
pictures of its weights.
"""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..analysis import token_unit_pictures
from ..analysis.explain import laid_over, maps
from ..config import from_dict
from ..data.dataset import public_name
from ..data.image_set import ImageSet
from ..data.registry import open_dataset
from ..errors import UserError
from ..evaluation import Evaluation, evaluate, evaluate_checkpoint
from ..evaluation.calibration import Calibration, calibration, fit_temperature, tempered
from ..models import MixerConfig, MlpMixer, cost
from ..training import TrainConfig
from ..training.journal import read_journal
from ..training.run import split_validation
from ..weights import Checkpoint, load
from .page import Report, Sample

_SAMPLES = 12
_MISTAKES = 12
_TOP = 3
_MOST_UNITS = 64
_MOST_BLOCKS = 4
_MAP_MACS = (
    3e12  # multiply-accumulates for maps of the mistakes: half a minute of two cores
)


def build_report(run: str | Path, *, data: str | None = None) -> Report:
    """Judge a run's best checkpoint on images it has not seen and collect what a reader
    wants to see.

    run: the folder that `mlp-mixer train` left. data: a source to judge on; the default
        is the run's own.
    Raises `UserError` if the run is incomplete or the data cannot be opened.
    """
    folder = Path(run)
    checkpoint = load(folder)
    record = _read_config(folder)
    source = data or record["config"]["data"]["source"]
    began = time.perf_counter()
    chosen, result = evaluate_checkpoint(checkpoint, source)
    rate = result.n / (time.perf_counter() - began)
    images = chosen.images
    classes = checkpoint.labels or images.classes
    provenance = checkpoint.provenance
    return Report(
        title=f"{provenance.get('model', 'Mixer')} on {public_name(record['config']['data']['source'])}",
        subtitle=(
            f"Recipe {provenance.get('recipe') or '-'}; judged on {public_name(source)}, {chosen.split}, "
            f"{result.n:,} images."
        ),
        facts=(
            *_facts(checkpoint, result, record),
            ("pictures per second", f"{rate:,.0f}"),
        ),
        journal=tuple(read_journal(folder)),
        classes=classes,
        confusion=result.confusion,
        samples=_samples(images, result, classes, _spread(result.n, _SAMPLES)),
        mistakes=_mistakes(checkpoint, images, result, classes),
        pictures=_pictures(checkpoint.model),
        config=record["config"],
        provenance={**provenance, "environment": record["environment"]},
        calibration=calibration(result.probabilities, result.labels),
        tempered=_tempered(checkpoint, record, result) if data is None else None,
    )


def _tempered(
    checkpoint: Checkpoint, record: dict[str, Any], result: Evaluation
) -> tuple[float, Calibration] | None:
    """The temperature that the run's validation images choose, and how calibrated the
    judged answers are with it.
    """
    choice = from_dict(TrainConfig, record["config"]).data
    source = open_dataset(
        choice.source, split_seed=choice.split_seed, test_fraction=choice.test_fraction
    )
    _, val = split_validation(source, choice)
    if val is None or val.classes != checkpoint.labels:
        return None
    chosen_by = evaluate(checkpoint.model, val, checkpoint.preprocess)
    temperature = fit_temperature(chosen_by.probabilities, chosen_by.labels)
    return temperature, calibration(
        tempered(result.probabilities, temperature), result.labels
    )


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"cannot read {str(path)!r} ({error}); give the folder of a training run"
        ) from error
    return record


def _facts(
    checkpoint: Checkpoint, result: Evaluation, record: dict[str, Any]
) -> tuple[tuple[str, str], ...]:
    counted = cost(checkpoint.model)
    top5 = (
        (("top-5 accuracy", f"{100 * result.top5:.2f} %"),)
        if checkpoint.model.config.num_classes > 5
        else ()
    )
    return (
        ("top-1 accuracy", f"{100 * result.top1:.2f} %"),
        *top5,
        ("test images", f"{result.n:,}"),
        ("parameters", f"{counted.params:,}"),
        ("MACs per image", f"{counted.macs / 1e6:,.1f} M"),
        ("epochs", f"{record['config']['train']['epochs']:g}"),
    )


def _spread(count: int, most: int) -> np.ndarray:
    """Indices spread evenly over the images, so that every part of the test split is
    shown.
    """
    return np.unique(np.linspace(0, count - 1, min(most, count)).round().astype(int))


def _worst_mistakes(result: Evaluation) -> np.ndarray:
    """The wrong answers that were given with the most confidence."""
    wrong = np.flatnonzero(result.predictions != result.labels)
    confidence = result.probabilities[wrong].max(axis=1)
    return wrong[np.argsort(-confidence, kind="stable")][:_MISTAKES]


def _mistakes(
    checkpoint: Checkpoint,
    images: ImageSet,
    result: Evaluation,
    classes: tuple[str, ...],
) -> tuple[Sample, ...]:
    """The worst of them, the first with maps of what spoke for the answer, as many as
    take seconds.
    """
    model = checkpoint.model
    preprocess = checkpoint.preprocess
    worst = _worst_mistakes(result)
    samples = _samples(images, result, classes, worst)
    windows = model.config.num_patches  # an occlusion map computes about so many images
    mapped = min(len(samples), int(_MAP_MACS / (windows * cost(model).macs)))
    found = []
    for index, sample in zip(worst[:mapped], samples, strict=False):
        heat = maps(
            model,
            preprocess(sample.image)[None],
            int(result.predictions[index]),
            "occlusion",
        )
        found.append(
            replace(sample, heat=laid_over(preprocess.fit(sample.image), heat))
        )
    return (*found, *samples[mapped:])


def _samples(
    images: ImageSet, result: Evaluation, classes: tuple[str, ...], indices: np.ndarray
) -> tuple[Sample, ...]:
    return tuple(_sample(images, result, classes, int(index)) for index in indices)


def _sample(
    images: ImageSet, result: Evaluation, classes: tuple[str, ...], index: int
) -> Sample:
    scores = result.probabilities[index]
    best = np.argsort(-scores, kind="stable")[:_TOP]
    top = tuple((classes[number], float(scores[number])) for number in best)
    return Sample(
        images.name(index), images.image(index), classes[int(result.labels[index])], top
    )


def _pictures(model: MlpMixer) -> tuple[tuple[str, str, np.ndarray], ...]:
    """Fig. 5 of the paper for the first blocks; nothing for other families."""
    if not isinstance(model.config, MixerConfig):
        return ()
    weights = [
        block.mlp_tokens.fc1.weight.detach().float().numpy()  # type: ignore[union-attr, operator]
        for block in list(model.blocks)[:_MOST_BLOCKS]
    ]
    grid = model.config.grid
    caption = (
        f"Each square is one hidden unit of the token-mixing MLP: one weight for each of the {grid[0]} x {grid[1]} "
        "patches, blue negative, red positive. Low frequencies first; each unit is followed by its closest inverse."
    )
    pictures = token_unit_pictures(weights, grid, most_units=_MOST_UNITS)
    return tuple(
        (f"Block {number}", caption, picture)
        for number, picture in enumerate(pictures, start=1)
    )
