"""What a predictor returns for one picture: an answer, features, or a failure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np

from ..weights.scores import UNKNOWN


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


def reached(
    order: Sequence[int], scores: Any, thresholds: Sequence[float], names: Sequence[str]
) -> tuple[Candidate, ...]:
    """Return all classes whose scores reach their thresholds, best first.

    Args:
        order: The numbers of all classes, ranked by their logits.
        scores: (K,) of torch or NumPy, in [0, 1].
        thresholds: Of the K classes.
        names: Of the K classes.
    """
    found = []
    for number in order:
        score = scores[number].item()
        if score >= thresholds[number]:
            found.append(Candidate(number, names[number], score))
    return tuple(found)


@dataclass(frozen=True)
class Prediction:
    """The answer for one picture.

    Attributes:
        path: The path or address of the picture.
        pred_label: The number of the best class; None if the answer is "unknown",
            because its score is below the predictor's lowest one.
        pred_class: Its name, or "unknown".
        pred_score: The score of the best class, in either case.
        score_kind: What the scores are: a key of `SCORES`.
        top: The best candidates in order, the first of them included; those of an
            unknown picture too.
        labels: All classes whose scores reach their thresholds, best first; None where a
            picture has one class.
        precision: What computed it, where others than fp32 were admitted; else None.
        difference: How far that was at most from fp32 on the pictures it was compared
            on, in units of the largest logit if that is above 1; else None.
    """

    path: str
    pred_label: int | None
    pred_class: str
    pred_score: float
    score_kind: str
    top: tuple[Candidate, ...]
    labels: tuple[Candidate, ...] | None = None
    precision: str | None = None
    difference: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON, the last three only where they are not None."""
        values = asdict(self)
        for name in ("labels", "precision", "difference"):
            if values[name] is None:
                del values[name]
        return values


class Answering(Protocol):
    """What decides the words of an answer; see `Predictor`."""

    labels: tuple[str, ...]
    min_score: float | None
    score_kind: str


def prediction(
    name: str,
    best: Sequence[int],
    scores: Any,
    rules: Answering,
    labels: tuple[Candidate, ...] | None = None,
) -> Prediction:
    """Return the answer for one picture.

    Args:
        name: Of the picture.
        best: The numbers of the best classes, ranked by their logits and not by their
            scores: a sigmoid rounds all large logits to 1.
        scores: (K,) of torch or NumPy, in [0, 1].
        rules: The predictor.
        labels: What `reached` returns, where pictures have several labels each.
    """
    candidates = [Candidate(n, rules.labels[n], scores[n].item()) for n in best]
    first = candidates[0]
    known = rules.min_score is None or first.score >= rules.min_score
    return Prediction(
        path=name,
        pred_label=first.label if known else None,
        pred_class=first.name if known else UNKNOWN,
        pred_score=first.score,
        score_kind=rules.score_kind,
        top=tuple(candidates),
        labels=labels,
    )


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
