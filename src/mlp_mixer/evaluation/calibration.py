"""Measure calibration: of answers given with 80 %, are 80 % right?

Guo et al. 2017, arXiv 1706.04599.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

BINS = 15  # as in the paper
FEWEST = 100
"""Images. Of fewer, neither a calibration error nor a temperature says anything: 24 answers
in 15 bins are one or two each, and the error is then mostly noise."""


@dataclass(frozen=True)
class Calibration:
    """Hold confidence against accuracy.

    Attributes:
        error: The expected calibration error in [0, 1]: mean |accuracy - confidence|
            over the bins, by their counts.
        bins: For each bin that holds an answer its mean confidence, its accuracy and
            its count.
    """

    error: float
    bins: tuple[tuple[float, float, int], ...]

    @property
    def n(self) -> int:
        """How many answers were compared."""
        return sum(count for _, _, count in self.bins)


def calibration(probabilities: NDArray[Any], labels: NDArray[Any]) -> Calibration:
    """Compare the confidence of the best answers with their accuracy.

    Args:
        probabilities: (n, K).
        labels: (n,) true classes.

    Returns:
        The comparison, in `BINS` bins of equal width.
    """
    confidence = probabilities.max(axis=1).astype(np.float64)
    right = probabilities.argmax(axis=1) == labels
    # A confidence of 1 belongs to the last bin.
    place = np.minimum((confidence * BINS).astype(int), BINS - 1)
    bins = []
    for number in range(BINS):
        inside = place == number
        if inside.any():
            mean_confidence = float(confidence[inside].mean())
            accuracy = float(right[inside].mean())
            bins.append((mean_confidence, accuracy, int(inside.sum())))
    total = sum(count * abs(accuracy - sure) for sure, accuracy, count in bins)
    return Calibration(total / max(1, len(labels)), tuple(bins))


def tempered(probabilities: NDArray[Any], temperature: float) -> NDArray[np.float64]:
    """Return the softmax of the same logits divided by the temperature.

    Args:
        probabilities: (n, K).
        temperature: Above 1 makes them less sure.
    """
    return np.exp(_log_softmax(_logits(probabilities) / temperature))


def fit_temperature(probabilities: NDArray[Any], labels: NDArray[Any]) -> float:
    """Find the temperature in [0.05, 20] with the least cross-entropy on these images.

    They must not be the images that the network is evaluated on.

    Args:
        probabilities: (n, K).
        labels: (n,) true classes.

    Returns:
        The temperature; above 1 the network is too sure of itself.
    """
    from scipy.optimize import minimize_scalar

    logits = _logits(probabilities)
    rows = np.arange(len(labels))

    def loss(inverse: float) -> float:
        return float(-_log_softmax(logits * inverse)[rows, labels].mean())

    # The loss is convex in 1 / T, so a bounded search finds the minimum.
    found = minimize_scalar(
        loss, bounds=(1 / 20, 20), method="bounded", options={"xatol": 1e-5}
    )
    return float(1 / found.x)


def _logits(probabilities: NDArray[Any]) -> NDArray[np.float64]:
    return np.log(np.maximum(probabilities.astype(np.float64), 1e-30))


def _log_softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
