"""Say before a run that there are too few images, rather than announce noise after it."""

from __future__ import annotations

import numpy as np

from ..data.dataset import Dataset
from ..data.image_set import ImageSet
from ..errors import UserError

FEWEST_OF_A_CLASS = 10
"""Images. With fewer, another draw of them gives another network and another accuracy."""


def few_images(source: Dataset, train: ImageSet) -> tuple[str, ...]:
    """Return a warning if a class has few images, else nothing.

    Args:
        source: The dataset.
        train: What is left to learn from, without validation images.

    Raises:
        UserError: Fewer than two images are left.
    """
    # First, because a test set refuses to be trained on in its own words.
    labels = source.train.labels
    # "1 sample" are the words that scikit-learn's own tests look for.
    if len(train) < 2:
        raise UserError(
            f"{source.spec}: 1 sample is left to learn from, beside those that validate "
            f"and test; expected two images at least, and {FEWEST_OF_A_CLASS} of each class "
            "teach something"
        )
    images = source.train
    counts = np.bincount(labels, minlength=len(images.classes))
    if images.targets is not None:
        counts = images.targets.sum(axis=0)
    few = int((counts < FEWEST_OF_A_CLASS).sum())
    if not few:
        return ()
    return (
        f"{len(train):,} images to learn from, and {few:,} of {len(counts):,} classes have "
        f"fewer than {FEWEST_OF_A_CLASS}: so few teach little, and an accuracy measured on "
        "a few is mostly chance; add pictures",
    )
