"""Choose pictures for the cells of a confusion matrix, within a limit for the page."""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from ..data.image_set import ImageSet
from ..evaluation import Evaluation
from .html import thumbnail
from .page import CellPictures

# Of some 5 kB each, so that a page stays below two megabytes of them.
_MOST_PICTURES = 360
_MOST_IN_A_CELL = 12

Cell = tuple[int, int]
"""The true class and the predicted one."""


def cell_pictures(
    images: ImageSet, result: Evaluation, most: int = _MOST_PICTURES
) -> tuple[CellPictures, ...]:
    """Choose pictures for each cell, the surest answers first.

    Args:
        images: What was evaluated.
        result: Its answers.
        most: Pictures in all cells together; where there are more cells than that, the
            rarest mistakes have none.

    Returns:
        The cells that have pictures: mistakes before right answers, frequent ones first.
    """
    members = _members(result)
    in_each = min(_MOST_IN_A_CELL, max(1, most // max(len(members), 1)))

    def by_weight(cell: Cell) -> tuple[bool, int]:
        true, predicted = cell
        return true == predicted, -len(members[cell])

    found = []
    left = most
    for cell in sorted(members, key=by_weight):
        chosen = members[cell][: min(in_each, left)]
        left -= len(chosen)
        pictures = []
        for index in chosen:
            # Made small at once: a thousand photos would fill the memory.
            small = thumbnail(images.image(index))
            pictures.append((images.name(index), small))
        if pictures:
            found.append(CellPictures(*cell, tuple(pictures)))
    return tuple(found)


def _members(result: Evaluation) -> dict[Cell, list[int]]:
    """Return the images of each cell that has some, the surest answers first."""
    members: dict[Cell, list[int]] = defaultdict(list)
    sureness = result.probabilities.max(axis=1)
    labels = result.labels.tolist()
    predictions = result.predictions.tolist()
    for index in np.argsort(-sureness, kind="stable").tolist():
        members[labels[index], predictions[index]].append(index)
    return members
