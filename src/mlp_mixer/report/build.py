"""Make a `Report` of a training run.

It reads the journal, evaluates the best checkpoint anew, and draws its weights.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..analysis import token_unit_pictures
from ..analysis.explain import maps, overlay, seen_part
from ..analysis.figures import token_weights
from ..data.dataset import public_name
from ..data.image_set import ImageSet
from ..data.registry import check_place, open_dataset
from ..evaluation import (
    Evaluation,
    MultiLabelEvaluation,
    evaluate,
    evaluate_checkpoint,
)
from ..evaluation.accuracy import Progress
from ..evaluation.calibration import (
    FEWEST,
    Calibration,
    calibration,
    fit_temperature,
    tempered,
)
from ..intervals import decimals, plain_accuracy
from ..models import IsotropicMlp, MlpMixer, cost
from ..training.config import stored_config
from ..training.journal import read_journal
from ..training.record import read_record
from ..training.splits import split_validation
from ..weights import Checkpoint, load
from .cells import cell_pictures
from .labels import label_facts, label_samples
from .page import Drawing, Report, epochs
from .sample import Sample

_POINT = 0.01  # of accuracy
_SAMPLES = 12
_MISTAKES = 12
_TOP = 3
_MOST_UNITS = 64
_MOST_BLOCKS = 4
Stage = Callable[[str], Progress]
"""From what is counted next, in the plural, to what is told how many are done."""

# Multiply-accumulates for the maps of the mistakes: half a minute of two cores.
_MAP_MACS = 3e12


def build_report(
    run: str | Path, *, data: str | None = None, stage: Stage | None = None
) -> Report:
    """Evaluate a run's best checkpoint and collect what a reader wants to see.

    Args:
        run: The folder that `mlp-mixer train` left.
        data: A dataset to evaluate on, such as "folder:PATH"; by default the run's own,
            of which only images that the checkpoint was not trained on are used.
        stage: Is told what is counted next, and returns what is told the count.

    Returns:
        What `write_report` writes.

    Raises:
        UserError: The run is incomplete, or the dataset cannot be opened.
    """
    counted = stage or _silent
    folder = Path(run)
    checkpoint = load(folder)
    record = read_record(folder)
    trained_on = record["config"]["data"]["source"]
    evaluated_on = data or trained_on
    check_place(evaluated_on, folder)
    began = time.perf_counter()
    chosen, result = evaluate_checkpoint(
        checkpoint, evaluated_on, progress=counted("test images")
    )
    images_per_second = result.n / (time.perf_counter() - began)
    classes = checkpoint.labels or chosen.images.classes
    provenance = dict(checkpoint.provenance)
    # A list of keys, for evaluations and not for readers.
    provenance.pop("seen", None)
    page = Report(
        title=f"{provenance.get('model', 'Mixer')} on {public_name(trained_on)}",
        subtitle=(
            f"Recipe {provenance.get('recipe') or '-'}; evaluated on "
            f"{public_name(evaluated_on)}, {chosen.split}, {result.n:,} images."
        ),
        facts=_facts(checkpoint, result, record, images_per_second),
        journal=tuple(read_journal(folder)),
        classes=classes,
        confusion=None,
        samples=(),
        mistakes=(),
        pictures=_pictures(checkpoint.model),
        config=record["config"],
        provenance={**provenance, "environment": record["environment"]},
    )
    if isinstance(result, MultiLabelEvaluation):
        return _with_labels(page, chosen.images, result)
    shown = _Shown(chosen.images, result, classes)
    better: tuple[float, Calibration] | None = None
    remark = ""
    # The run's validation images say nothing about another dataset.
    if data is None:
        progress = counted("validation images")
        better, remark = _tempered(checkpoint, record, result, progress)
    return replace(
        page,
        subtitle=page.subtitle + _remark(result),
        confusion=result.confusion,
        samples=shown.samples(_spread(result.n, _SAMPLES)),
        mistakes=_mistakes(checkpoint, shown, counted("maps of mistakes")),
        calibration=calibration(result.probabilities, result.labels),
        tempered=better,
        remark=remark,
        cells=cell_pictures(chosen.images, result),
    )


def _silent(unit: str) -> Progress:
    """Count for nobody."""
    return lambda done, total: None


def _with_labels(
    page: Report, images: ImageSet, result: MultiLabelEvaluation
) -> Report:
    """Return a page with what was measured on pictures with several labels each."""
    wrong = result.mistakes
    worst = np.argsort(-wrong, kind="stable")[:_MISTAKES]
    worst = worst[wrong[worst] > 0]
    return replace(
        page,
        samples=label_samples(images, result, _spread(result.n, _SAMPLES)),
        mistakes=label_samples(images, result, worst),
        labels=result.per_class,
        mislabelled=(int((wrong > 0).sum()), result.n),
    )


def _remark(result: Evaluation) -> str:
    """Return a sentence where the most frequent class explains the accuracy."""
    if result.remark is None:
        return ""
    return f" {result.remark[0].upper()}{result.remark[1:]}."


def _tempered(
    checkpoint: Checkpoint,
    record: dict[str, Any],
    result: Evaluation,
    progress: Progress,
) -> tuple[tuple[float, Calibration] | None, str]:
    """Fit a temperature on the validation images, and calibrate the answers with it.

    Returns:
        Both, or None; and why there is no temperature, if a reader could wonder.
    """
    # The split is made anew from the run's own seed, so these are the very images that
    # were held out from training; the test images must not choose a temperature.
    choice = stored_config(record["config"]).data
    dataset = open_dataset(
        choice.source,
        split_seed=choice.split_seed,
        test_fraction=choice.test_fraction,
        split_by=choice.split_by,
    )
    _, val = split_validation(dataset, choice)
    # With other classes the answers cannot be compared with these labels.
    if val is None or val.classes != checkpoint.labels:
        return None, ""
    if len(val) < FEWEST:
        too_few = f"Too few validation images to choose a temperature: {len(val)}."
        return None, too_few
    on_val = evaluate(checkpoint.model, val, checkpoint.preprocess, progress=progress)
    temperature = fit_temperature(on_val.probabilities, on_val.labels)
    cooled = tempered(result.probabilities, temperature)
    return (temperature, calibration(cooled, result.labels)), ""


def _facts(
    checkpoint: Checkpoint,
    result: Evaluation | MultiLabelEvaluation,
    record: dict[str, Any],
    images_per_second: float,
) -> tuple[tuple[str, str], ...]:
    counted = cost(checkpoint.model)
    facts = _measured(checkpoint, result)
    facts |= {
        "test images": f"{result.n:,}",
        "parameters": f"{counted.params:,}",
        "GMACs per image": _gmacs(counted.gmacs),
        "epochs": epochs(record["config"]["train"]["epochs"]),
        # Not to be confused with the speed of training, which is another line.
        "evaluation speed": f"{images_per_second:,.0f} images/s",
    }
    return tuple(facts.items())


def _gmacs(value: float) -> str:
    """Write GMACs as the tables of models do; of tiny networks three digits."""
    return f"{value:.3f}" if value >= 0.01 else f"{value:.3g}"


def _measured(
    checkpoint: Checkpoint, result: Evaluation | MultiLabelEvaluation
) -> dict[str, str]:
    if isinstance(result, MultiLabelEvaluation):
        return label_facts(result)
    low, high = result.interval
    places = decimals(result.top1, result.n)
    facts = {
        "top-1 accuracy": plain_accuracy(result.top1, result.n),
        "95 % interval": f"{100 * low:.{places}f} to {100 * high:.{places}f} %",
    }
    if abs(result.balanced_top1 - result.top1) > _POINT:
        balanced = plain_accuracy(result.balanced_top1, result.n)
        facts["balanced accuracy"] = balanced
    # Of five classes, one of the best five is always right.
    if checkpoint.model.config.num_classes > 5:
        facts["top-5 accuracy"] = plain_accuracy(result.top5, result.n)
    return facts


def _spread(count: int, most: int) -> NDArray[np.int64]:
    """Return indices spread evenly, so that every part of the test split is shown."""
    places = np.linspace(0, count - 1, min(most, count))
    return np.unique(places.round().astype(int))


class _Shown:
    """The evaluated images with their answers, as samples of the report."""

    def __init__(
        self, images: ImageSet, result: Evaluation, classes: tuple[str, ...]
    ) -> None:
        self.images = images
        self.result = result
        self.classes = classes

    def samples(self, indices: Iterable[int]) -> tuple[Sample, ...]:
        """Return the images at some positions with their best classes."""
        return tuple(self._sample(int(index)) for index in indices)

    def _sample(self, index: int) -> Sample:
        scores = self.result.probabilities[index]
        best = np.argsort(-scores, kind="stable")[:_TOP]
        return Sample(
            self.images.name(index),
            self.images.image(index),
            self.classes[int(self.result.labels[index])],
            tuple((self.classes[number], float(scores[number])) for number in best),
        )


def _worst_mistakes(result: Evaluation) -> NDArray[np.intp]:
    """Return the wrong answers that were given with the most confidence."""
    wrong = np.flatnonzero(result.predictions != result.labels)
    confidence = result.probabilities[wrong].max(axis=1)
    return wrong[np.argsort(-confidence, kind="stable")][:_MISTAKES]


def _mistakes(
    checkpoint: Checkpoint, shown: _Shown, progress: Progress
) -> tuple[Sample, ...]:
    """Return the worst mistakes, the first of them with maps.

    A map of a large network takes seconds, so there are as many as `_MAP_MACS` allow.
    """
    model = checkpoint.model
    preprocess = checkpoint.preprocess
    worst = _worst_mistakes(shown.result)
    samples = shown.samples(worst)
    # An occlusion map computes about one image for each patch.
    macs_of_a_map = model.config.num_patches * cost(model).macs
    mapped = min(len(samples), int(_MAP_MACS / macs_of_a_map))
    with_maps = []
    for index, sample in zip(worst[:mapped], samples, strict=False):
        x_BCHW = preprocess(sample.image)[None]
        answer = int(shown.result.predictions[index])
        heat = maps(model, x_BCHW, answer, "occlusion")
        picture = overlay(seen_part(sample.image, preprocess), heat)
        with_maps.append(replace(sample, heat=picture))
        progress(len(with_maps), mapped)
    return (*with_maps, *samples[mapped:])


def _pictures(model: IsotropicMlp) -> tuple[Drawing, ...]:
    """Draw Figure 5 of the paper for the first blocks; nothing for other families."""
    if not isinstance(model, MlpMixer):
        return ()
    weights = token_weights(model, _MOST_BLOCKS)
    rows, columns = model.config.grid
    caption = (
        "Each square is one hidden unit of the token-mixing MLP: one weight for each "
        f"of the {rows} x {columns} patches, blue negative, red positive. Low "
        "frequencies first; each unit is followed by its closest inverse."
    )
    light, dark = (
        token_unit_pictures(
            weights, (rows, columns), most_units=_MOST_UNITS, dark=is_dark
        )
        for is_dark in (False, True)
    )
    found = []
    for number, both in enumerate(zip(light, dark, strict=True), start=1):
        found.append(Drawing(f"Block {number}", caption, *both))
    return tuple(found)
