"""Labels as the numbers of classes: which there are, and which names they need."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import UserError

Labels = np.ndarray[tuple[int], np.dtype[np.int64]]

MOST_CLASSES = 1_000_000
"""Classes of a dataset, beyond which a label is a mistake, or a trap."""


def numbered_classes(labels: Any) -> list[str]:
    """Return the names "0", "1", ... of all classes up to the largest label.

    Args:
        labels: Integers (N,).

    Raises:
        UserError: They are no integers, or one is larger than any number of classes.
    """
    array = np.asarray(labels)
    if array.size and not np.issubdtype(array.dtype, np.integer):
        raise UserError(
            f"labels are {array.dtype} {array.shape}: expected integers (N,)"
        )
    largest = int(np.max(array, initial=0))
    # One stray number would ask for that many names.
    if largest >= MOST_CLASSES:
        raise UserError(
            f"the largest label is {largest}: expected the number of a class, below "
            f"{MOST_CLASSES:,}"
        )
    return [str(number) for number in range(largest + 1)]


def checked_labels(labels: Any, number_of_classes: int) -> Labels:
    """Return the labels as int64 (N,), if they fit the classes.

    Args:
        labels: Integers (N,).
        number_of_classes: How many there are.

    Raises:
        UserError: They are no integers, or beyond the classes.
    """
    array = np.asarray(labels)
    # An empty list becomes an array of floats; its type says nothing.
    is_whole = array.size == 0 or np.issubdtype(array.dtype, np.integer)
    if array.ndim != 1 or not is_whole:
        raise UserError(
            f"labels are {array.dtype} {array.shape}: expected integers (N,)"
        )
    if array.size and not 0 <= array.min() <= array.max() < number_of_classes:
        raise UserError(
            f"labels go from {array.min()} to {array.max()} but there are "
            f"{number_of_classes} classes: expected 0 to {number_of_classes - 1}"
        )
    return array.astype(np.int64)
