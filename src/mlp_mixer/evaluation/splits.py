"""Choose the images that a checkpoint is evaluated on: those it has never seen."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from ..data.dataset import Dataset, HeldOut
from ..data.image_set import ImageSet
from ..data.imagenet import Benchmark
from ..data.registry import open_dataset
from ..devices import pick_device
from ..errors import UserError
from ..weights import Checkpoint
from ..weights.scores import score_kind
from .accuracy import Evaluation, LabelSets, Tta, align_classes, evaluate

Split = Literal["test", "train", "all"]


@dataclass(frozen=True)
class EvalSplit:
    """Hold images to evaluate on.

    Attributes:
        images: The images.
        split: Which they are, in words.
    """

    images: ImageSet
    split: str

    @property
    def among(self) -> int | None:
        """How many classes may be answered, where a protocol leaves out the others.

        None: all that the model knows.
        """
        if isinstance(self.images, Benchmark) and self.images.protocol.among:
            return len(self.images.classes)
        return None


def eval_split(
    spec: str | Dataset, provenance: Mapping[str, Any], split: Split = "test"
) -> EvalSplit:
    """Choose the images of a dataset by a checkpoint's provenance.

    Args:
        spec: The dataset, or what `open_dataset` takes.
        provenance: Of the checkpoint; it says what the network was trained on.
        split: "test" is the dataset's own test split. Of a dataset without one it is the
            part that training held out (the same images again, found by the
            fingerprint), or, if the checkpoint was not trained on this dataset, all of
            it.

    Returns:
        The images, and in words which they are.

    Raises:
        UserError: The dataset cannot be opened or has no such split.
    """
    dataset = _open(spec, provenance)
    if split == "train":
        return EvalSplit(dataset.train, "train")
    if dataset.test is None:
        return EvalSplit(dataset.train, "all images, one per class")
    if dataset.held_out is None:
        if split == "all":
            raise UserError(
                f"{dataset.spec!r} has a test split of its own; use --split test or "
                "--split train"
            )
        return EvalSplit(dataset.test, "test" + _rule(dataset.test))
    if split == "all" or not _trained_on(provenance, dataset):
        return EvalSplit(dataset.all(), "all images")
    return EvalSplit(dataset.test, _held_out(dataset.held_out))


def support_and_eval_split(
    spec: str | Dataset, provenance: Mapping[str, Any]
) -> tuple[ImageSet, EvalSplit]:
    """Choose images to learn from on top of a checkpoint's features, and to evaluate on.

    They never overlap: the dataset's own train and test split, or, if it has none, what
    training with the checkpoint's seed would use and hold out.

    Args:
        spec: As for `eval_split`.
        provenance: As for `eval_split`.

    Returns:
        The images to learn from, and those to evaluate on.

    Raises:
        UserError: The dataset cannot be opened or has nothing to hold out.
    """
    dataset = _open(spec, provenance)
    if dataset.test is None:
        raise UserError(
            f"{dataset.spec!r} has one image per class: none is left to evaluate on"
        )
    if dataset.held_out is None:
        return dataset.train, EvalSplit(dataset.test, "test")
    return dataset.train, EvalSplit(dataset.test, _held_out(dataset.held_out))


def evaluate_checkpoint(
    checkpoint: Checkpoint,
    spec: str | Dataset,
    split: Split = "test",
    *,
    batch_size: int = 256,
    device: torch.device | str | None = "auto",
    tta: Tta = "none",
) -> tuple[EvalSplit, Evaluation]:
    """Evaluate a checkpoint on images of a dataset that it has never seen.

    Classes are matched by name. A test set of ImageNet is scored by its authors'
    protocol: `EvalSplit.among` says if only its own classes could be answered, and an
    image with several right answers counts for any of them.

    Args:
        checkpoint: The network, its labels, preprocessing and provenance.
        spec: As for `eval_split`.
        split: As for `eval_split`.
        batch_size: Images in a forward pass.
        device: Where to compute, a name for `pick_device` or torch's; the model is moved
            there. None: where the model is.
        tta: As for `evaluate`.

    Returns:
        Which images were chosen, and what was measured.

    Raises:
        UserError: The dataset cannot be read, or has classes or channels that the model
            does not know.
    """
    chosen = eval_split(spec, checkpoint.provenance, split)
    if checkpoint.model.num_classes == 0:
        raise UserError(
            "this checkpoint has no classifier and cannot name classes; evaluate its "
            "features by `fewshot`"
        )
    labels, among = _aligned(chosen, checkpoint.labels)
    model = checkpoint.model
    if device is not None:
        model = model.to(pick_device(device))
    result = evaluate(
        model,
        chosen.images,
        checkpoint.preprocess,
        labels=labels,
        among=among,
        batch_size=batch_size,
        tta=tta,
        head=score_kind(checkpoint.provenance),
    )
    return chosen, dataclasses.replace(result, split=chosen.split)


def _aligned(
    chosen: EvalSplit, names: Sequence[str] | None
) -> tuple[np.ndarray | LabelSets | None, np.ndarray | None]:
    """Return the right answers and the possible ones, in the model's numbering.

    None stands for the data's own labels, and for all classes.

    Args:
        chosen: The images.
        names: Of the model's classes.
    """
    images = chosen.images
    if names is None:
        if isinstance(images, Benchmark):
            raise UserError(
                "this checkpoint does not know the names of its classes, so ImageNet's "
                "cannot be found"
            )
        return None, None
    numbers = align_classes(images, names)
    if isinstance(images, Benchmark) and images.label_sets is not None:
        return [numbers[list(own)].tolist() for own in images.label_sets], None
    return numbers[images.labels], numbers if chosen.among else None


def _open(spec: str | Dataset, provenance: Mapping[str, Any]) -> Dataset:
    """Return the dataset, split as for the training of the checkpoint."""
    data = provenance.get("data") or {}
    seed = data.get("split_seed", 0)
    fraction = data.get("test_fraction") or 0.2
    return open_dataset(spec, split_seed=seed, test_fraction=fraction)


def _trained_on(provenance: Mapping[str, Any], dataset: Dataset) -> bool:
    data = provenance.get("data") or {}
    return bool(dataset.fingerprint() == data.get("fingerprint"))


def _rule(images: ImageSet) -> str:
    """Return in words how the protocol of a test set differs from the usual."""
    if not isinstance(images, Benchmark):
        return ""
    if images.protocol.among:
        return f" among {len(images.classes)} classes"
    return " by any of several labels" if images.label_sets is not None else ""


def _held_out(held_out: HeldOut) -> str:
    return f"test ({100 * held_out.test_fraction:g} % held out by seed {held_out.seed})"
