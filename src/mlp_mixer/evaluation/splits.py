"""Which images of a source may judge a checkpoint: those it has never seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from ..data.dataset import Dataset, HeldOut
from ..data.image_set import ImageSet
from ..data.imagenet import Benchmark
from ..data.registry import open_dataset
from ..errors import UserError
from ..weights import Checkpoint
from .accuracy import Evaluation, LabelSets, Tta, align_classes, evaluate

Split = Literal["test", "train", "all"]


@dataclass(frozen=True)
class EvalSplit:
    """Images to evaluate on, and in words which they are."""

    images: ImageSet
    split: str

    @property
    def among(self) -> int | None:
        """How many classes may be answered, where the protocol of a test set leaves out
        the model's others.
        """
        among = isinstance(self.images, Benchmark) and self.images.protocol.among
        return len(self.images.classes) if among else None


def eval_split(
    spec: str | Dataset, provenance: Mapping[str, Any], split: Split = "test"
) -> EvalSplit:
    """Choose the images of a source by the checkpoint's provenance.

    "test" is the source's own test split; of a source without one it is the part that
    training held out (the same images again, found by the fingerprint), or, if the
    checkpoint was not trained on this source, all of it. Raises `UserError` if the
    source cannot be opened or has no such split.
    """
    source = _open(spec, provenance)
    if split == "train":
        return EvalSplit(source.train, "train")
    if source.test is None:
        return EvalSplit(source.train, "all images, one per class")
    if source.held_out is None:
        if split == "all":
            raise UserError(
                f"{source.spec!r} has a test split of its own; use --split test or --split train"
            )
        return EvalSplit(source.test, "test" + _rule(source.test))
    if split == "all" or source.fingerprint() != (provenance.get("data") or {}).get(
        "fingerprint"
    ):
        return EvalSplit(source.all(), "all images")
    return EvalSplit(source.test, _held_out(source.held_out))


def support_and_eval_split(
    spec: str | Dataset, provenance: Mapping[str, Any]
) -> tuple[ImageSet, EvalSplit]:
    """The images that a method may learn from on top of a checkpoint's features, and
    those that judge it.

    They never overlap: the source's own train and test split, or, if it has none, what
        training with the checkpoint's
    seed would use and hold out. Raises `UserError` if the source cannot be opened or
    has nothing to hold out.
    """
    source = _open(spec, provenance)
    if source.test is None:
        raise UserError(
            f"{source.spec!r} has one image per class: there are none left to judge by"
        )
    if source.held_out is None:
        return source.train, EvalSplit(source.test, "test")
    return source.train, EvalSplit(source.test, _held_out(source.held_out))


def evaluate_checkpoint(
    checkpoint: Checkpoint,
    spec: str | Dataset,
    split: Split = "test",
    *,
    batch_size: int = 256,
    device: torch.device | None = None,
    tta: Tta = "none",
) -> tuple[EvalSplit, Evaluation]:
    """Evaluate a checkpoint on the images of a source that may judge it, with classes
    matched by name.

    A test set of ImageNet is scored by its authors' protocol: `EvalSplit.among` says if
    only its own classes could be answered, and an image with several right answers
    counts for any of them.
    device: where to compute, the model's own by default (the model is moved there).
        tta: as in `evaluate`.
    Raises `UserError` if the source cannot be read, or has classes or channels that the
    model does not know.
    """
    chosen = eval_split(spec, checkpoint.provenance, split)
    if checkpoint.model.num_classes == 0:
        raise UserError(
            "this checkpoint has no classifier and cannot name classes; judge its features by `fewshot`"
        )
    labels, among = _aligned(chosen, checkpoint.labels)
    model = checkpoint.model if device is None else checkpoint.model.to(device)
    how: dict[str, Any] = {"labels": labels, "among": among}
    result = evaluate(
        model,
        chosen.images,
        checkpoint.preprocess,
        batch_size=batch_size,
        tta=tta,
        **how,
    )
    return chosen, result


def _aligned(
    chosen: EvalSplit, names: Sequence[str] | None
) -> tuple[np.ndarray | LabelSets | None, np.ndarray | None]:
    """The right answers and the possible ones, in the model's numbering; None stands
    for the data's own, and for all.

    names: of the model's classes.
    """
    images = chosen.images
    if names is None:
        if isinstance(images, Benchmark):
            raise UserError(
                "this checkpoint does not know the names of its classes, so ImageNet's cannot be found"
            )
        return None, None
    numbers = align_classes(images, names)
    if isinstance(images, Benchmark) and images.label_sets is not None:
        return [numbers[list(own)].tolist() for own in images.label_sets], None
    return numbers[images.labels], numbers if chosen.among else None


def _open(spec: str | Dataset, provenance: Mapping[str, Any]) -> Dataset:
    """The source, split as for the training of the checkpoint."""
    trained_on = provenance.get("data") or {}
    seed = trained_on.get("split_seed", 0)
    fraction = trained_on.get("test_fraction") or 0.2
    return open_dataset(spec, split_seed=seed, test_fraction=fraction)


def _rule(images: ImageSet) -> str:
    """How the protocol of a test set differs from the usual, in words."""
    if not isinstance(images, Benchmark):
        return ""
    if images.protocol.among:
        return f" among {len(images.classes)} classes"
    return " by any of several labels" if images.label_sets is not None else ""


def _held_out(held_out: HeldOut) -> str:
    return f"test ({100 * held_out.test_fraction:g} % held out by seed {held_out.seed})"
