"""Show a confusion matrix as rows for a table, or as a list of confused pairs.

The matrix (K, K) holds counts, rows true and columns predicted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError


@dataclass(frozen=True)
class ClassRow:
    """Hold one row of the matrix and its rates.

    Attributes:
        name: Of the true class.
        counts: How many of its pictures were predicted as each class.
        total: How many pictures it has.
        recall: The fraction of its pictures that were recognised; None without any.
        precision: The fraction of right answers among the answers of this class; None
            without any.
        answers: How many these are.
    """

    name: str
    counts: tuple[int, ...]
    total: int
    recall: float | None
    precision: float | None
    answers: int


@dataclass(frozen=True)
class ConfusedPair:
    """Count how often one class was taken for another.

    Attributes:
        true: The true class.
        predicted: The predicted class.
        count: How many pictures.
        share: The fraction of the true class.
        cell: The places of both classes.
    """

    true: str
    predicted: str
    count: int
    share: float
    cell: tuple[int, int]


def check_confusion(confusion: NDArray[Any], classes: Sequence[str]) -> None:
    """Refuse a matrix that does not fit the classes.

    Args:
        confusion: Counts.
        classes: The names of the K classes.

    Raises:
        UserError: It is not (K, K).
    """
    if confusion.shape != (len(classes), len(classes)):
        raise UserError(
            f"a confusion matrix of shape {confusion.shape} does not fit "
            f"{len(classes)} classes: expected ({len(classes)}, {len(classes)}), rows "
            "true and columns predicted"
        )


def class_rows(confusion: NDArray[Any], classes: Sequence[str]) -> list[ClassRow]:
    """Return one row for each class, with its recall and its precision.

    Args:
        confusion: Counts (K, K).
        classes: The names of the K classes.
    """
    rows = []
    for index, name in enumerate(classes):
        right = confusion[index, index]
        row = ClassRow(
            name,
            counts=tuple(int(count) for count in confusion[index]),
            total=int(confusion[index].sum()),
            recall=_share(right, confusion[index].sum()),
            precision=_share(right, confusion[:, index].sum()),
            answers=int(confusion[:, index].sum()),
        )
        rows.append(row)
    return rows


def confused_pairs(
    confusion: NDArray[Any], classes: Sequence[str], most: int = 20
) -> list[ConfusedPair]:
    """Return the most frequent mistakes, most frequent first.

    Args:
        confusion: Counts (K, K).
        classes: The names of the K classes.
        most: How many pairs at most.
    """
    mistakes = confusion - np.diag(np.diag(confusion))
    totals = confusion.sum(axis=1)
    pairs = []
    # A stable sort: equal counts stay in the order of the classes.
    for flat in np.argsort(-mistakes, axis=None, kind="stable")[:most]:
        true, predicted = divmod(int(flat), len(classes))
        count = int(mistakes[true, predicted])
        if count > 0:
            share = count / int(totals[true])
            names = classes[true], classes[predicted]
            pairs.append(ConfusedPair(*names, count, share, (true, predicted)))
    return pairs


def _share(part: int, whole: int) -> float | None:
    return int(part) / int(whole) if whole else None
