"""A confusion matrix (K, K), rows true and columns predicted, as rows for a table or as
a list of confused pairs.
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
    """One true class: how many pictures were predicted as each class; rates are
    fractions, None where undefined.
    """

    name: str
    counts: tuple[int, ...]
    total: int
    recall: float | None
    precision: float | None


@dataclass(frozen=True)
class ConfusedPair:
    """`count` pictures of the class `true` were taken for `predicted`: the fraction
    `share` of that class.
    """

    true: str
    predicted: str
    count: int
    share: float


def check_confusion(confusion: NDArray[Any], classes: Sequence[str]) -> None:
    """Raise `UserError` unless the matrix has one row and one column for each class."""
    if confusion.shape != (len(classes), len(classes)):
        raise UserError(
            f"a confusion matrix of shape {confusion.shape} does not fit {len(classes)} classes: "
            f"expected ({len(classes)}, {len(classes)}), rows true and columns predicted"
        )


def class_rows(confusion: NDArray[Any], classes: Sequence[str]) -> list[ClassRow]:
    """One row for each class, with its recall and its precision."""
    return [
        ClassRow(
            name,
            counts=tuple(int(count) for count in confusion[index]),
            total=int(confusion[index].sum()),
            recall=_share(confusion[index, index], confusion[index].sum()),
            precision=_share(confusion[index, index], confusion[:, index].sum()),
        )
        for index, name in enumerate(classes)
    ]


def confused_pairs(
    confusion: NDArray[Any], classes: Sequence[str], most: int = 20
) -> list[ConfusedPair]:
    """The `most` frequent mistakes, most frequent first."""
    mistakes = confusion - np.diag(np.diag(confusion))
    totals = confusion.sum(axis=1)
    pairs = []
    for flat in np.argsort(-mistakes, axis=None, kind="stable")[:most]:
        true, predicted = divmod(int(flat), len(classes))
        count = int(mistakes[true, predicted])
        if count > 0:
            pairs.append(
                ConfusedPair(
                    classes[true], classes[predicted], count, count / int(totals[true])
                )
            )
    return pairs


def _share(part: int, whole: int) -> float | None:
    return int(part) / int(whole) if whole else None
