"""Is an answer of 80 % right in four cases of five? Calibration after Guo et al., arXiv
1706.04599.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

BINS = 15  # theirs


@dataclass(frozen=True)
class Calibration:
    """Confidence against accuracy.

    Attributes:
        error: the expected calibration error in [0, 1]: mean |accuracy - confidence|
            over the bins, by their counts.
        bins: for each bin that holds an answer its mean confidence, its accuracy and
            its count.
    """

    error: float
    bins: tuple[tuple[float, float, int], ...]


def calibration(probabilities: NDArray[Any], labels: NDArray[Any]) -> Calibration:
    """Calibration of the best answers, in `BINS` bins of equal width; probabilities (n,
    K), labels (n,).
    """
    confidence = probabilities.max(axis=1).astype(np.float64)
    right = probabilities.argmax(axis=1) == labels
    place = np.minimum((confidence * BINS).astype(int), BINS - 1)
    bins = tuple(
        (
            float(confidence[inside].mean()),
            float(right[inside].mean()),
            int(inside.sum()),
        )
        for inside in (place == number for number in range(BINS))
        if inside.any()
    )
    error = sum(count * abs(accuracy - sure) for sure, accuracy, count in bins) / max(
        1, len(labels)
    )
    return Calibration(error, bins)


def tempered(probabilities: NDArray[Any], temperature: float) -> NDArray[np.float64]:
    """The softmax of the same logits divided by the temperature."""
    return np.exp(_log_softmax(_logits(probabilities) / temperature))


def fit_temperature(probabilities: NDArray[Any], labels: NDArray[Any]) -> float:
    """The temperature in [0.05, 20] with the least cross-entropy on these images, which
    must not be those judged.

    Above 1: the network is too sure of itself. The loss is convex in 1 / T, so a
        bounded search finds the minimum.
    """
    from scipy.optimize import minimize_scalar

    logits = _logits(probabilities)
    rows = np.arange(len(labels))

    def loss(inverse: float) -> float:
        return float(-_log_softmax(logits * inverse)[rows, labels].mean())

    return float(
        1
        / minimize_scalar(
            loss, bounds=(1 / 20, 20), method="bounded", options={"xatol": 1e-5}
        ).x
    )


def _logits(probabilities: NDArray[Any]) -> NDArray[np.float64]:
    return np.log(np.maximum(probabilities.astype(np.float64), 1e-30))


def _log_softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
