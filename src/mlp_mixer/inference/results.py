"""What a predictor returns for one picture: an answer, features, or a failure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor


def _softmax(logits: Tensor) -> Tensor:
    return logits.softmax(dim=-1)


SCORES: dict[str, Callable[[Tensor], Tensor]] = {
    # The classes exclude each other: their scores sum to 1.
    "softmax": _softmax,
    # One yes or no for each class: weights trained with sigmoid cross-entropy, as
    # big_vision's.
    "sigmoid": torch.sigmoid,
    # MIIL's head of ImageNet-21k was trained in groups of classes. A softmax over all
    # of them ranks well, but it is no probability.
    "semantic softmax": _softmax,
}
"""Logits (..., K) to scores, by the kind of head that a checkpoint's provenance names."""


@dataclass(frozen=True)
class Candidate:
    """One class that a picture may show.

    Attributes:
        label: The number of the class.
        name: Its name.
        score: As `SCORES` makes it, 0 to 1.
    """

    label: int
    name: str
    score: float


@dataclass(frozen=True)
class Prediction:
    """The answer for one picture.

    Attributes:
        path: The path or address of the picture.
        pred_label: The number of the best class.
        pred_class: Its name.
        pred_score: Its score.
        score_kind: What the scores are: a key of `SCORES`.
        top: The best candidates in order, the first of them included.
        labels: All classes whose scores reach their thresholds, best first; None where a
            picture has one class.
    """

    path: str
    pred_label: int
    pred_class: str
    pred_score: float
    score_kind: str
    top: tuple[Candidate, ...]
    labels: tuple[Candidate, ...] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; `labels` only where there are several."""
        values = asdict(self)
        if self.labels is None:
            del values["labels"]
        return values


@dataclass(frozen=True, eq=False)
class Features:
    """What the network computed for one picture.

    Attributes:
        path: The path or address of the picture.
        values: float32 arrays without a batch axis, by the names of
            `IsotropicMlp.features`.
    """

    path: str
    values: dict[str, np.ndarray[Any, Any]]


@dataclass(frozen=True)
class Failure:
    """A picture that could not be read.

    Attributes:
        path: The path or address of the picture.
        error: Why, in one sentence.
    """

    path: str
    error: str

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)
