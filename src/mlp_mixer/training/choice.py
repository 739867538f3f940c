"""Which of two evaluations is the better one: the rule that chooses checkpoints."""

from __future__ import annotations

from .journal import JournalRow, quality

FEW_IMAGES = 500
"""Validation images, below which the loss chooses instead of the accuracy.

Of so few images the number of right answers moves by chance: its standard error is 2
points and more, and checkpoints of one run lie closer than that. The loss of the same
images also weighs how sure the answers are, and moves less.
"""


def chosen_by(row: JournalRow) -> str:
    """Return what chooses between evaluations on the same images.

    Args:
        row: Of kind "eval".

    Returns:
        "loss"; or, of many images, the key of the accuracy, "top1" or "map". Where an
        imbalance is corrected it is always "balanced_top1", as the loss would favour
        the frequent classes.
    """
    if "balanced_top1" in row:
        return "balanced_top1"
    if row.get("n", 0) < FEW_IMAGES and "loss" in row:
        return "loss"
    return "map" if "map" in row else "top1"


def is_at_least_as_good(row: JournalRow, best: JournalRow | None) -> bool:
    """Return whether an evaluation is to be preferred to the best one so far.

    Of equals the later one: it has seen more images. Without validation images every
    row is equal, and the last checkpoint is the best.

    Args:
        row: The evaluation.
        best: The best one before it, None if it is the first.
    """
    if best is None or "loss" not in best:
        return True
    if chosen_by(row) == "loss":
        return bool(row["loss"] <= best["loss"])
    return quality(row) >= quality(best)
