"""Imbalanced classes: rare ones count more in the loss, or come more often."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...data.image_set import ImageSet
from ...errors import UserError
from ..config import TrainConfig


def check_imbalance(config: TrainConfig) -> None:
    """Refuse to correct one imbalance twice.

    Args:
        config: The run.

    Raises:
        UserError: Sampling is balanced, and the loss is weighted as well.
    """
    if config.data.sampling == "balanced" and config.train.class_weights == "auto":
        raise UserError(
            "data.sampling=balanced and train.class_weights=auto correct the same "
            "imbalance twice: set one of them"
        )


def class_weights(images: ImageSet) -> NDArray[np.float64]:
    """Return a weight for each class, the inverse of its frequency.

    They are N / (K n_k) for K classes with images, as scikit-learn's "balanced": the
    mean over the training images is 1, so the learning rate keeps its meaning. With
    several labels per image N counts the labels. A class without images has 1.

    Args:
        images: The images to learn from.

    Returns:
        float64 (K,).
    """
    counts = np.bincount(images.labels, minlength=len(images.classes))
    if images.targets is not None:
        counts = images.targets.sum(axis=0)
    seen = counts > 0
    weights = np.ones(len(counts))
    weights[seen] = counts.sum() / (seen.sum() * counts[seen])
    return weights
