"""The images of a run: to learn from, to choose a checkpoint by, and those left alone."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..data.dataset import Dataset, split
from ..data.image_set import ImageSet
from ..data.registry import open_dataset, open_pictures
from ..data.seen import SeenImages
from ..errors import UserError
from .config import DataChoice, TrainConfig
from .few_images import few_images


@dataclass(frozen=True)
class RunImages:
    """Hold the images of a run.

    Attributes:
        source: The dataset with its splits.
        train: The images to learn from.
        val: The images that choose the best checkpoint, if there are any.
        labelled: Whether labels are learnt.
        notes: What a person should know of them.
    """

    source: Dataset
    train: ImageSet
    val: ImageSet | None
    labelled: bool
    notes: tuple[str, ...]

    def seen(self) -> SeenImages:
        """Return the record of the images that the run learns from or chooses by."""
        return SeenImages.of(self.train, self.val, labelled=self.labelled)


def open_images(
    config: TrainConfig, source: Dataset | None
) -> tuple[TrainConfig, RunImages]:
    """Open the images of a run and split them.

    Args:
        config: The configuration.
        source: The dataset, instead of the one that `config.data.source` names.

    Returns:
        The configuration, which names the images that are used, and the images.

    Raises:
        UserError: The dataset cannot be opened, too few images are left to learn from,
            or all of them are of one class.
    """
    data = config.data
    labelled = config.pretext.name == "none"
    notes = list[str]()
    if source is None:
        source, notes = _opened(data, labelled)
    else:
        # What is written beside the run must name the images that were used.
        config = dataclasses.replace(
            config, data=dataclasses.replace(data, source=source.spec)
        )
    train, val = split_validation(source, data)
    if labelled:
        _need_two_classes(source.spec, train)
        notes += few_images(source, train)
        return config, RunImages(source, train, val, labelled, tuple(notes))
    if len(source.train.classes) < 2:
        # No label will ever be checked on these images.
        train = source.train
        val = None
    notes += _held_back(source.test, val)
    # Without labels there is nothing to choose a checkpoint by.
    return config, RunImages(source, train, None, labelled, tuple(notes))


def split_validation(
    source: Dataset, data: DataChoice
) -> tuple[ImageSet, ImageSet | None]:
    """Return the images to learn from and those that choose the best checkpoint.

    The test split is in neither.

    Args:
        source: The dataset.
        data: Says which share of the training images is validation, and by which seed.

    Returns:
        The training split, and the validation split or None.
    """
    if source.val is not None or data.val_fraction == 0:
        return source.train, source.val
    # A dataset with a test split of its own is not asked for its images' keys: reading
    # ImageNet for them would take minutes.
    rest, held_out = split(
        source.train,
        data.val_fraction,
        data.split_seed,
        by=source.held_out.by if source.held_out else "position",
        purpose="val",
    )
    if not len(held_out):
        return source.train, None
    return source.train.take(rest), source.train.take(held_out)


def seen_notes(seen: SeenImages, val: ImageSet | None) -> tuple[str, ...]:
    """Return a note if the weights have learnt from images that are to choose now.

    Args:
        seen: What the weights have learnt from before.
        val: The images that choose.
    """
    if val is None or not len(seen.short_keys):
        return ()
    count = int(seen.contains(val.keys()).sum())
    if not count:
        return ()
    return (
        f"the weights have learnt from {count:,} of the {len(val):,} validation images, "
        "whose numbers are too good; the split_seed of the earlier run keeps them apart",
    )


def _opened(data: DataChoice, labelled: bool) -> tuple[Dataset, list[str]]:
    """Open the images of a run; return them and what a person should know."""
    how: dict[str, Any] = {
        "split_seed": data.split_seed,
        "test_fraction": data.test_fraction,
        "split_by": data.split_by,
    }
    if labelled:
        return open_dataset(data.source, **how), []
    source, note = open_pictures(data.source, **how)
    return source, [note] if note else []


def _need_two_classes(spec: str, images: ImageSet) -> None:
    """Refuse images of a single class: a network would learn one answer for all."""
    if images.targets is None and len(np.unique(images.labels)) < 2:
        raise UserError(
            f"{spec}: the images to learn from are of one class; a classifier needs two "
            "or more, or several labels per image (docs/training.md)"
        )


def _held_back(test: ImageSet | None, val: ImageSet | None) -> list[str]:
    """Say which images a run without labels leaves to later evaluations."""
    parts = {"test": test, "validation": val}
    held = [f"{len(part):,} {name}" for name, part in parts.items() if part is not None]
    return [f"the {' and '.join(held)} images are not learnt from"] if held else []
