"""Rows and pairs of confusion matrices."""

from __future__ import annotations

import numpy as np
import pytest

from mlp_mixer.errors import UserError
from mlp_mixer.report.confusion import (
    ConfusedPair,
    check_confusion,
    class_rows,
    confused_pairs,
)


def test_recall_and_precision() -> None:
    confusion = np.array([[3, 1, 0], [0, 1, 0], [0, 0, 0]])
    a, b, c = class_rows(confusion, ("a", "b", "c"))
    assert a.counts == (3, 1, 0)
    assert (a.total, a.recall, a.precision) == (4, 0.75, 1.0)
    assert (b.total, b.recall, b.precision) == (1, 1.0, 0.5)
    # A class without pictures and without answers has no rates.
    assert (c.total, c.recall, c.precision) == (0, None, None)


def test_confused_pairs_come_most_frequent_first() -> None:
    confusion = np.array([[8, 2, 0], [5, 0, 0], [0, 1, 9]])
    pairs = confused_pairs(confusion, ("a", "b", "c"), most=2)
    first = ConfusedPair("b", "a", 5, 1.0, (1, 0))
    assert pairs == [first, ConfusedPair("a", "b", 2, 0.2, (0, 1))]


def test_a_matrix_without_mistakes_has_no_pairs() -> None:
    assert confused_pairs(np.eye(3, dtype=int), ("a", "b", "c")) == []


def test_a_matrix_of_another_size_is_refused() -> None:
    check_confusion(np.eye(2), ("a", "b"))
    with pytest.raises(UserError, match=r"shape \(2, 2\) does not fit 3 classes"):
        check_confusion(np.eye(2), ("a", "b", "c"))
