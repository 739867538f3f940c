"""What logits say as scores, and below which score an answer is "unknown"."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..config import from_dict
from ..errors import UserError, unknown

if TYPE_CHECKING:
    # Answers of the bundled model need no torch.
    from torch import Tensor

UNKNOWN = "unknown"
"""The answer for a picture whose best score is too low."""

AUTO = "auto"
"""In the place of a lowest score: the one that the validation images chose."""

FEWEST_IMAGES = 100
"""Validation images below which no lowest score is chosen: it would be chance."""


def _softmax(logits: Tensor) -> Tensor:
    return logits.softmax(dim=-1)


def _sigmoid(logits: Tensor) -> Tensor:
    return logits.sigmoid()


SCORES: dict[str, Callable[[Tensor], Tensor]] = {
    # The classes exclude each other: their scores sum to 1.
    "softmax": _softmax,
    # One yes or no for each class: weights trained with sigmoid cross-entropy, as
    # big_vision's.
    "sigmoid": _sigmoid,
    # MIIL's head of ImageNet-21k was trained in groups of classes. A softmax over all
    # of them ranks well, but it is no probability.
    "semantic softmax": _softmax,
}
"""Logits (..., K) to scores, by the kind of head that a checkpoint's provenance names."""


def scores_of_array(kind: str, logits: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return the scores of logits that are an array of NumPy's.

    Args:
        kind: A key of `SCORES`.
        logits: float32 (..., K).
    """
    if kind == "sigmoid":
        # Of large negative logits the exponential is infinite, and the score 0.
        with np.errstate(over="ignore"):
            return 1 / (1 + np.exp(-logits))
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


@dataclass(frozen=True)
class MinScore:
    """Says from which score on answers were right often enough.

    Attributes:
        score: The lowest score of an answer that is given, 0 to 1.
        accuracy: The share of the answered validation images that were right.
        coverage: The share of the validation images that were answered.
        n: How many validation images there were.
    """

    score: float
    accuracy: float
    coverage: float
    n: int


def score_kind(provenance: Mapping[str, Any], classes: int | None = None) -> str:
    """Return what a checkpoint's scores are: a key of `SCORES`.

    Args:
        provenance: Of the checkpoint.
        classes: How many it has. A softmax over a single one would always say 1, so
            that is a yes or no, whatever the provenance says.

    Raises:
        UserError: It names a kind of head that this version does not know.
    """
    kind = str(provenance.get("head", "softmax"))
    if kind not in SCORES:
        raise unknown("kind of head", kind, SCORES)
    return "sigmoid" if classes == 1 else kind


def checked_thresholds(
    provenance: Mapping[str, Any], classes: int
) -> tuple[float, ...] | None:
    """Return the scores from which on a class is answered, where images have several.

    Args:
        provenance: Of the checkpoint.
        classes: How many it has.

    Raises:
        UserError: The provenance has something else in their place.
    """
    given = provenance.get("thresholds")
    if given is None:
        return None
    is_list = isinstance(given, (list, tuple))
    if not is_list or not all(map(_is_score, given)):
        raise UserError(
            "this checkpoint's thresholds are no numbers from 0 to 1: its provenance is "
            "broken"
        )
    if len(given) != classes:
        raise UserError(
            f"this checkpoint has {len(given)} thresholds for {classes} classes: its "
            "provenance is broken"
        )
    return tuple(map(float, given))


def _is_score(value: Any) -> bool:
    """Whether a value of JSON is a score; NaN is none, and no number beyond floats."""
    return type(value) in (int, float) and 0 <= value <= 1


def chosen_min_score(provenance: Mapping[str, Any]) -> MinScore | None:
    """Return the lowest score that the validation images chose, if they chose one.

    Args:
        provenance: Of the checkpoint.

    Raises:
        UserError: What the checkpoint says there cannot be read.
    """
    stored = provenance.get("min_score")
    return None if stored is None else from_dict(MinScore, stored)


def resolve_min_score(
    wanted: float | str | None, provenance: Mapping[str, Any]
) -> float | None:
    """Return the lowest score of an answer that is given.

    Args:
        wanted: A score from 0 to 1, as a number or as typed; "auto"; None answers all.
        provenance: Of the checkpoint.

    Raises:
        UserError: It is no such score, "auto" where the checkpoint has none, or pictures
            have several labels each.
    """
    if wanted is None:
        return None
    if "thresholds" in provenance:
        raise UserError(
            "a lowest score is of one class per picture, and this checkpoint gives "
            "several labels, each from its own threshold on: leave it out"
        )
    if wanted == AUTO:
        chosen = chosen_min_score(provenance)
        if chosen is None:
            raise UserError(_why_not(provenance))
        return chosen.score
    try:
        score = float(wanted)
    except ValueError:
        score = -1.0
    # Written so that nan is refused too.
    if not 0 <= score <= 1:
        raise UserError(
            f"the lowest score is {wanted!r}: expected a number from 0 to 1, or {AUTO!r}"
        )
    return score


def _why_not(provenance: Mapping[str, Any]) -> str:
    """Return why a checkpoint knows no lowest score, and what to do."""
    advice = "give a number from 0 to 1 instead"
    n = (provenance.get("measured") or {}).get("n")
    if not isinstance(n, int):
        reason = "it was not chosen on validation images of this package's training"
    elif n < FEWEST_IMAGES:
        reason = f"it has {n} validation images, and {FEWEST_IMAGES} are needed"
    else:
        reason = (
            f"on its {n:,} validation images no score made 95 % of the answers right, or "
            "an older version trained it"
        )
    return f"this checkpoint has no lowest score of its own: {reason}; {advice}"
