"""Several labels per image: the loss, the thresholds, and what makes no sense there."""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import nn

from ...data.image_set import ImageSet
from ...errors import UserError
from ...evaluation.multilabel import HALF, choose_thresholds, evaluate_labels
from ...images.preprocess import Preprocess
from ..config import TrainConfig


def for_several_labels(
    config: TrainConfig, images: ImageSet, *, teacher: bool
) -> tuple[TrainConfig, tuple[str, ...]]:
    """Return the configuration that suits the labels of the images.

    Args:
        config: The run.
        images: The images to learn from.
        teacher: Whether a network is given to learn from.

    Returns:
        The configuration with the sigmoid loss if images have several labels each, and
        notes for the journal.

    Raises:
        UserError: A setting makes no sense with several labels per image.
    """
    if images.targets is None:
        return config, ()
    if teacher or config.distill.teacher is not None:
        raise UserError(
            "a teacher's answers are shares of one class per image, and these images have "
            "several labels each: leave out distill.teacher"
        )
    if config.data.sampling == "balanced":
        raise UserError(
            "images with several labels each cannot show every class equally often: use "
            "train.class_weights=auto instead of data.sampling=balanced"
        )
    note = "several labels per image: a yes or no for each class (sigmoid)"
    sigmoid = dataclasses.replace(config.train, loss="sigmoid")
    return dataclasses.replace(config, train=sigmoid), (note,)


def measure_labels(
    model: nn.Module, images: ImageSet, preprocess: Preprocess, workers: int
) -> dict[str, Any]:
    """Evaluate a network on validation images, and choose its thresholds there.

    Args:
        model: The network.
        images: Images with several labels each.
        preprocess: How the model wants its images.
        workers: Processes that read images.

    Returns:
        "map" (absent if no image has a label), "loss", "n" and "thresholds".
    """
    result = evaluate_labels(model, images, preprocess, workers=workers)
    measured: dict[str, Any] = {"loss": result.loss, "n": result.n}
    if result.map is not None:
        measured["map"] = result.map
    # No F1: at thresholds that these images have chosen it would be too good.
    thresholds = choose_thresholds(result.scores, result.targets)
    measured["thresholds"] = thresholds.tolist()
    return measured


def origin_of_labels(classes: int, row: dict[str, Any]) -> dict[str, Any]:
    """Return what a checkpoint's provenance says of several labels per image.

    Args:
        classes: How many there are.
        row: What the network measured, a row of kind "eval".
    """
    return {
        "labels_per_image": "several",
        "thresholds": row.get("thresholds") or [HALF] * classes,
    }
