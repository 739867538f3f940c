"""Several labels per image, as a table of yes and no: N images, K classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError

Targets = NDArray[np.bool_]
"""(N, K): whether an image has a label; an image may have none."""

SEPARATOR = ";"
"""Between the labels of an image where they are one text."""


def checked_targets(targets: Any, images: int, classes: int) -> Targets:
    """Return the table as booleans, if it fits the images and the classes.

    Args:
        targets: 0 or 1, or booleans, (N, K).
        images: N.
        classes: K.

    Raises:
        UserError: It has another shape, or other values.
    """
    array = np.asarray(targets)
    if array.shape != (images, classes):
        raise UserError(
            f"the targets are {array.shape} for {images} images and {classes} classes: "
            f"expected ({images}, {classes})"
        )
    if not np.isin(array, (0, 1)).all():
        raise UserError(
            "the targets of several labels per image have other values than 0 and 1: "
            "expected 1 where an image has the label, else 0"
        )
    return array.astype(bool)


def table(labels: Sequence[Sequence[int]], classes: int) -> Targets:
    """Return the table of lists of labels.

    Args:
        labels: The classes of each image, 0 to K - 1.
        classes: K.
    """
    targets = np.zeros((len(labels), classes), dtype=bool)
    for row, own in zip(targets, labels, strict=True):
        row[list(own)] = True
    return targets


def rarest_labels(targets: Targets) -> NDArray[np.int64]:
    """Return of each image the label that fewest images have, 0 where it has none.

    A split that takes from each of them alike takes from every class.

    Args:
        targets: The table (N, K).
    """
    counts = targets.sum(axis=0)
    most = counts.max(initial=0) + 1
    # A label that an image does not have is more frequent than any.
    frequency = np.where(targets, counts, most)
    return frequency.argmin(axis=1).astype(np.int64)
