"""When a classifier should rather say nothing: accuracy against coverage.

Selective classification (Geifman and El-Yaniv, arXiv 1705.08500) by the score of the
best class: the lower the score from which answers are given, the more pictures are
answered, and the more of the answers are wrong.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..weights.scores import FEWEST_IMAGES, MinScore
from .accuracy import Evaluation

ACCURACY = 0.95
"""The share of right answers that a chosen lowest score gives on the images it saw."""

# With fewer answers, 95 % would be all of them: a run of luck.
_FEWEST_ANSWERS = 20


@dataclass(frozen=True)
class Answered:
    """Holds what is left of an evaluation if low scores give no answer.

    Attributes:
        n: How many images were answered.
        coverage: The share of all images.
        top1: The share of the answers that are right; None without answers.
    """

    n: int
    coverage: float
    top1: float | None


def answered(result: Evaluation, min_score: float) -> Answered:
    """Return how many images get an answer, and how many of the answers are right.

    Args:
        result: An evaluation of all images.
        min_score: The lowest score of an answer that is given.
    """
    given = result.scores >= min_score
    right = result.predictions == result.labels
    count = int(given.sum())
    top1 = float(right[given].mean()) if count else None
    return Answered(count, count / result.n, top1)


def choose_min_score(
    scores: NDArray[np.floating], right: NDArray[np.bool_], accuracy: float = ACCURACY
) -> MinScore | None:
    """Return the lowest score at which enough of the answers are right.

    It answers as many images as possible. The images that chose it flatter it a little:
    other images tell how good it is.

    Args:
        scores: (n,) the score of each image's answer.
        right: (n,) whether the answer is right.
        accuracy: The share of right answers that is wanted.

    Returns:
        The score with what it does on these images; None if there are fewer than
        `FEWEST_IMAGES`, or no score does it.
    """
    n = len(scores)
    if n < FEWEST_IMAGES:
        return None
    order = np.argsort(-scores, kind="stable")
    falling = scores[order]
    counts = np.arange(1, n + 1)
    share_right = np.cumsum(right[order]) / counts
    # Images of equal scores are answered together or not at all.
    ends = np.append(falling[:-1] > falling[1:], True)
    fits = ends & (share_right >= accuracy) & (counts >= _FEWEST_ANSWERS)
    if not fits.any():
        return None
    last = int(np.flatnonzero(fits)[-1])
    return MinScore(
        score=float(falling[last]),
        accuracy=float(share_right[last]),
        coverage=float(counts[last] / n),
        n=n,
    )
