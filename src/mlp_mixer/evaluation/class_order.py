"""In which order a model has its classes, where it does not name them.

Here the classes of a folder are ordered as numbers where they are numbers (1, 2, 10), and
torchvision's ImageFolder orders them as text (1, 10, 2). Weights do not tell which it
was, and a wrong guess gives a wrong accuracy without any error: so it is said.
"""

from __future__ import annotations

from ..data.image_set import ImageSet
from ..data.imagenet import Benchmark
from ..errors import UserError, listed
from ..weights import Checkpoint
from ..weights.given_labels import GivenLabels

LEXICOGRAPHIC = "lexicographic"
"""In the place of a model's labels: those of the data, ordered as text."""

_MOST_NAMES = 5  # in a sentence


def with_given_labels(
    checkpoint: Checkpoint, labels: GivenLabels | None, images: ImageSet
) -> Checkpoint:
    """Return a checkpoint that is known to fit the images it is evaluated on.

    Args:
        checkpoint: The checkpoint.
        labels: The names of its classes, as for `load`, or `LEXICOGRAPHIC`; None for
            its own.
        images: The images.

    Raises:
        UserError: There is not one name for each class, or it has none and another
            number of classes than the images.
    """
    if isinstance(labels, str) and labels == LEXICOGRAPHIC:
        labels = sorted(images.classes)
    if labels is not None:
        return checkpoint.with_labels(labels)
    if checkpoint.class_names() is None and not isinstance(images, Benchmark):
        check_count(images, checkpoint.model.num_classes)
    return checkpoint


def check_count(images: ImageSet, classes: int) -> None:
    """Refuse images whose classes cannot be those of a model that names none.

    Args:
        images: The images, with their own classes.
        classes: How many the model has.

    Raises:
        UserError: The numbers differ.
    """
    if len(images.classes) != classes:
        raise UserError(
            f"the images have {len(images.classes)} classes, and this checkpoint has "
            f"{classes} without names: they cannot be matched; name all {classes} by "
            "--labels (labels=)"
        )


def check_one_label_each(checkpoint: Checkpoint, images: ImageSet) -> None:
    """Refuse a checkpoint for which one label per image says nothing.

    Args:
        checkpoint: The checkpoint.
        images: The images, with one label each.

    Raises:
        UserError: It knows one class, as the images do, or gives several labels.
    """
    if len(images.classes) < 2 and checkpoint.model.num_classes < 2:
        raise UserError(
            f"these images are all of one class, {images.classes[0]!r}, so every answer "
            "would be right: add images of other classes, or name several labels per "
            "image (list:FILE with a column labels)"
        )
    # A softmax over yes and no answers would give numbers that mean nothing.
    if checkpoint.thresholds is not None:
        raise UserError(
            "this checkpoint gives an image several labels, and these images have one "
            "each: name all labels of each image in a list (list:FILE with a column "
            "labels)"
        )


def assumed_order(checkpoint: Checkpoint, images: ImageSet) -> str:
    """Return in a sentence which order is assumed; "" where none is.

    Args:
        checkpoint: The checkpoint.
        images: The images, which have as many classes if it names none.
    """
    if checkpoint.labels is not None or isinstance(images, Benchmark):
        return ""
    assumed = (
        "this checkpoint names no classes: they are taken to be in the order of the "
        f"data's, {listed(images.classes, _MOST_NAMES, ', ')}"
    )
    as_text = sorted(images.classes)
    if list(images.classes) == as_text:
        return assumed
    return (
        f"{assumed}; if torchvision's ImageFolder numbered them, whose order is "
        f"{listed(as_text, _MOST_NAMES, ', ')}, say --labels {LEXICOGRAPHIC}"
    )
