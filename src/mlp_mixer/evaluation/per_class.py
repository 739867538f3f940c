"""What an accuracy hides: each class for itself, and the answer that needs no network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Standard errors, beyond which an accuracy differs from the share of a class.
_NOISE = 2.0


@dataclass(frozen=True)
class ClassScore:
    """Count the answers about one class.

    Attributes:
        name: The class.
        n: How many images it has.
        right: How many of them were recognised.
        answers: How many images were taken for this class.
    """

    name: str
    n: int
    right: int
    answers: int

    @property
    def recall(self) -> float | None:
        """The share of its images that were recognised; None without images."""
        return self.right / self.n if self.n else None

    @property
    def precision(self) -> float | None:
        """The share of its answers that are right; None without answers."""
        return self.right / self.answers if self.answers else None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "class": self.name,
            "n": self.n,
            "right": self.right,
            "recall": self.recall,
            "precision": self.precision,
        }


def class_scores(
    confusion: NDArray[Any], names: Sequence[str]
) -> tuple[ClassScore, ...]:
    """Return the counts of each class that has images or was answered.

    Args:
        confusion: Counts (K, K), rows true and columns predicted classes.
        names: The names of the K classes.
    """
    images = confusion.sum(axis=1)
    answers = confusion.sum(axis=0)
    right = np.diag(confusion)
    scores = []
    for place in np.flatnonzero(images + answers).tolist():
        counts = (int(images[place]), int(right[place]), int(answers[place]))
        scores.append(ClassScore(names[place], *counts))
    return tuple(scores)


def balanced_accuracy(confusion: NDArray[Any]) -> float:
    """Return the mean recall over the classes that have images; 0 without images.

    Args:
        confusion: Counts (K, K), rows true and columns predicted classes.
    """
    images = confusion.sum(axis=1)
    seen = images > 0
    if not seen.any():
        return 0.0
    return float((np.diag(confusion)[seen] / images[seen]).mean())


def majority(confusion: NDArray[Any]) -> tuple[int, float]:
    """Return the most frequent true class, and its share of the images.

    Args:
        confusion: Counts (K, K), rows true and columns predicted classes.
    """
    images = confusion.sum(axis=1)
    place = int(images.argmax())
    return place, float(images[place] / max(1, images.sum()))


def remark_on_majority(confusion: NDArray[Any], names: Sequence[str]) -> str | None:
    """Return a sentence where one frequent class explains the accuracy.

    That is where the accuracy is not above the share of the most frequent class by two
    standard errors.

    Args:
        confusion: Counts (K, K), rows true and columns predicted classes.
        names: The names of the K classes.

    Returns:
        The sentence; None where the network does better, or without images.
    """
    n = int(confusion.sum())
    if n == 0:
        return None
    top1 = float(np.trace(confusion)) / n
    place, share = majority(confusion)
    noise = _NOISE * math.sqrt(top1 * (1 - top1) / n)
    # Images of a single class have no other answer to be compared with.
    if share == 1 or top1 > share + noise:
        return None
    return (
        f"one class explains this accuracy: always answering {names[place]!r} would give "
        f"{100 * share:.0f} %"
    )
