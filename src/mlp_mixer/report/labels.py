"""What a page shows of pictures with several labels each."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from ..data.image_set import ImageSet
from ..evaluation import MultiLabelEvaluation
from ..evaluation.multilabel import map_in_words
from .sample import Sample

_TOP = 3  # scores beside a picture, at least


def label_facts(result: MultiLabelEvaluation) -> dict[str, str]:
    """Return the cards of the page, name and value.

    Args:
        result: What was measured.
    """
    facts = {}
    if result.map is not None:
        facts["mAP"] = map_in_words(result)
    facts["micro F1"] = f"{100 * result.micro_f1:.1f} %"
    if result.macro_f1 is not None:
        facts["macro F1"] = f"{100 * result.macro_f1:.1f} %"
    return facts


def label_samples(
    images: ImageSet, result: MultiLabelEvaluation, indices: Iterable[int]
) -> tuple[Sample, ...]:
    """Return pictures with their labels, and with those that the network gave them.

    Args:
        images: The evaluated images.
        result: What was measured on them.
        indices: Which of them.
    """
    scores = result.scores
    answers = result.answers
    samples = []
    for index in map(int, indices):
        own = _names(result, result.targets[index])
        answered = _names(result, answers[index])
        # All that are right or answered are shown, and the best others.
        concerned = result.targets[index] | answers[index]
        count = max(_TOP, int(concerned.sum()))
        best = np.lexsort((-scores[index], ~concerned))[:count]
        best = best[np.argsort(-scores[index][best], kind="stable")]
        top = [(result.classes[k], float(scores[index, k])) for k in best]
        sample = Sample(
            images.name(index),
            images.image(index),
            ", ".join(own) or "no label",
            tuple(top),
            labels=own,
            answered=answered,
        )
        samples.append(sample)
    return tuple(samples)


def _names(result: MultiLabelEvaluation, row: np.ndarray) -> tuple[str, ...]:
    return tuple(result.classes[k] for k in np.flatnonzero(row))
