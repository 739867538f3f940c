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
from ..data.seen import SeenImages
from ..devices import pick_device
from ..errors import UserError
from ..images.preprocess import Preprocess
from ..models import IsotropicMlp
from ..models.as_built import network_to_compute
from ..weights import Checkpoint
from ..weights.given_labels import GivenLabels
from ..weights.scores import score_kind
from .accuracy import (
    Evaluation,
    LabelSets,
    MakeEngine,
    Progress,
    Tta,
    align_classes,
    evaluate,
)
from .as_trained import open_as_trained
from .class_order import assumed_order, check_one_label_each, with_given_labels
from .multilabel import MultiLabelEvaluation, evaluate_labels

Split = Literal["test", "train", "all"]

# Few-shot fits, probes and reports ask for images here too, and have no such choice.
_ADVICE = (
    'give other images; `evaluate --split train` (split="train") takes such, and its '
    "number says so"
)


@dataclass(frozen=True)
class EvalSplit:
    """Hold images to evaluate on.

    Attributes:
        images: The images.
        split: Which they are, in words.
        seen: How many of them the checkpoint, or one that it began from, has learnt
            from, or may have; None if it does not say what it has learnt from.
    """

    images: ImageSet
    split: str
    seen: int | None = None

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

    Every number that is told of a checkpoint comes from images that were chosen here.

    Args:
        spec: The dataset, or what `open_dataset` takes.
        provenance: Of the checkpoint; it says which images the network, and those that
            it began from, have learnt from.
        split: "test" is the dataset's own test split, or, of a dataset without one, all
            its images; in both cases without those that were learnt from. "train" and
            "all" leave none out and count them in `EvalSplit.seen`.

    Returns:
        The images, and in words which they are.

    Raises:
        UserError: The dataset cannot be opened or has no such split, or no image is
            left that was not learnt from.
    """
    dataset = open_as_trained(spec, provenance, to_learn=False)
    seen = SeenImages.from_provenance(provenance)
    if split == "train":
        if not len(dataset.train):
            raise UserError(
                f"{dataset.spec!r} has no training images, only those of a test split: "
                "give a dataset with both, or use `evaluate --split test`"
            )
        return _counted(dataset, dataset.train, "train", seen)
    if split == "all":
        if dataset.test is not None and dataset.held_out is None:
            raise UserError(
                f"{dataset.spec!r} has a test split of its own; use `evaluate --split "
                'test` (split="test") or train'
            )
        return _counted(dataset, dataset.all(), "all images", seen)
    if dataset.test is not None and dataset.held_out is None:
        return _unseen(dataset, dataset.test, "test" + _rule(dataset.test), seen)
    if seen is None and dataset.held_out and _trained_on(provenance, dataset):
        # A checkpoint of 0.1.0, which remembers the dataset instead of its images.
        assert dataset.test is not None
        return EvalSplit(dataset.test, _held_out(dataset.held_out), 0)
    every = dataset.all()
    words = "all images"
    if dataset.test is None and len(every) == len(np.unique(every.labels)):
        words += ", one per class"
    return _unseen(dataset, every, words, seen)


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
        UserError: The dataset cannot be opened, has nothing to hold out, or nothing
            held out that the checkpoint has not learnt from.
    """
    dataset = open_as_trained(spec, provenance)
    if dataset.test is None:
        raise UserError(
            f"{dataset.spec!r} has one image per class: none is left to evaluate on"
        )
    seen = SeenImages.from_provenance(provenance)
    words = _held_out(dataset.held_out) if dataset.held_out else "test"
    return dataset.train, _unseen(dataset, dataset.test, words, seen)


def _counted(
    dataset: Dataset, images: ImageSet, words: str, seen: SeenImages | None
) -> EvalSplit:
    """Return all images, and count those that were learnt from."""
    if seen is None:
        return EvalSplit(images, words)
    source = _source(dataset)
    if source in seen.sources or f"{source} train" in seen.sources:
        words += ", any of which it may have learnt from"
        return EvalSplit(images, words, len(images))
    count = int(seen.contains(images.keys()).sum()) if len(seen.short_keys) else 0
    if count:
        words += f", {count:,} of which it has learnt from"
    return EvalSplit(images, words, count)


def _unseen(
    dataset: Dataset, images: ImageSet, words: str, seen: SeenImages | None
) -> EvalSplit:
    """Return the images that were not learnt from.

    Args:
        dataset: That they belong to.
        images: All that may be used.
        words: What to call them if none was learnt from.
        seen: What was learnt from, if that is known.
    """
    if seen is None:
        return EvalSplit(images, words)
    if _source(dataset) in seen.sources:
        raise UserError(
            f"this checkpoint, or one that it began from, may have learnt from any image "
            f"of {_source(dataset)}, those of its test split among them; {_ADVICE}"
        )
    # The keys of many images take time, and nothing can be among none.
    if len(seen.short_keys):
        images, words = _without_seen(dataset, images, words, seen)
    if len(seen.unlabelled):
        count = int(seen.contains_unlabelled(images.keys()).sum())
        if count:
            words += f", {count:,} of which it has seen without labels"
    return EvalSplit(images, words, 0)


def _without_seen(
    dataset: Dataset, images: ImageSet, words: str, seen: SeenImages
) -> tuple[ImageSet, str]:
    """Return the images that were not learnt from with their labels, and their words."""
    rest = np.flatnonzero(~seen.contains(images.keys()))
    left_out = len(images) - len(rest)
    if left_out == 0:
        return images, words
    if len(rest) == 0:
        raise UserError(
            f"this checkpoint, or one that it began from, has learnt from all "
            f"{len(images):,} images of {dataset.spec!r} that could test it; {_ADVICE}"
        )
    unseen = images.take(rest)
    if dataset.held_out and dataset.test is not None:
        expected = np.sort(dataset.test.keys())
        if np.array_equal(np.sort(unseen.keys()), expected):
            return unseen, _held_out(dataset.held_out)
    if images is dataset.test:
        return unseen, f"{words} without {left_out:,} that it has learnt from"
    return unseen, f"images that it has not learnt from, without {left_out:,} others"


def evaluate_checkpoint(
    checkpoint: Checkpoint,
    spec: str | Dataset,
    split: Split = "test",
    *,
    labels: GivenLabels | None = None,
    batch_size: int = 256,
    device: torch.device | str | None = "auto",
    tta: Tta = "none",
    engine: MakeEngine | None = None,
    progress: Progress | None = None,
) -> tuple[EvalSplit, Evaluation | MultiLabelEvaluation]:
    """Evaluate a checkpoint on images of a dataset that it has never seen.

    Classes are matched by name. A test set of ImageNet is scored by its authors'
    protocol: `EvalSplit.among` says if only its own classes could be answered, an image
    with several right answers counts for any of them, and the images of ImageNet-C are
    neither scaled nor cropped for a network of their size. Images with several labels
    each are scored by mAP and F1.

    Args:
        checkpoint: The network, its labels, preprocessing and provenance.
        spec: As for `eval_split`.
        split: As for `eval_split`.
        labels: The names of the checkpoint's classes, as for `load`; or
            `class_order.LEXICOGRAPHIC`.
        batch_size: Images in a forward pass.
        device: Where to compute, a name for `pick_device` or torch's. None: where the
            model is.
        tta: As for `evaluate`.
        engine: Puts a network of this package behind a call that computes its logits
            and has a `record()`, as `runtime.engine` does; the network itself by
            default.
        progress: As for `evaluate`.

    Returns:
        Which images were chosen, and what was measured.

    Raises:
        UserError: The dataset cannot be read, or has classes or channels that the model
            does not know.
    """
    chosen = eval_split(spec, checkpoint.provenance, split)
    # The caller's model keeps its mode and its device.
    place = None if device is None else pick_device(device)
    model = network_to_compute(checkpoint.model, place)
    checkpoint = dataclasses.replace(checkpoint, model=model)
    if model.num_classes == 0:
        raise UserError(
            "this checkpoint has no classifier and cannot name classes; evaluate its "
            "features by `fewshot`"
        )
    checkpoint = with_given_labels(checkpoint, labels, chosen.images)
    # Engines are for our own networks; another's is called as it is.
    run = None
    if engine is not None and isinstance(model, IsotropicMlp):
        run = engine(model)
    if chosen.images.targets is not None:
        found = evaluate_labels(
            model,
            chosen.images,
            checkpoint.preprocess,
            thresholds=checkpoint.thresholds,
            columns=_columns(checkpoint, chosen.images),
            batch_size=batch_size,
            tta=tta,
            compute=run,
            progress=progress,
        )
        return chosen, dataclasses.replace(
            found,
            split=chosen.split,
            seen=chosen.seen,
            computed=run.record() if run else {},
            assumed=assumed_order(checkpoint, chosen.images),
        )
    check_one_label_each(checkpoint, chosen.images)
    right, among = _aligned(chosen, checkpoint.labels)
    chosen, preprocess = _by_protocol(chosen, checkpoint.preprocess)
    result = evaluate(
        model,
        chosen.images,
        preprocess,
        labels=right,
        among=among,
        batch_size=batch_size,
        tta=tta,
        head=score_kind(checkpoint.provenance, model.num_classes),
        compute=run,
        progress=progress,
    )
    return chosen, dataclasses.replace(
        result,
        split=chosen.split,
        seen=chosen.seen,
        # Without names, the data's own were compared with the model's.
        classes=checkpoint.labels or chosen.images.classes,
        computed=run.record() if run else {},
        assumed=assumed_order(checkpoint, chosen.images),
    )


def _by_protocol(
    chosen: EvalSplit, preprocess: Preprocess
) -> tuple[EvalSplit, Preprocess]:
    """Return the images, and how the protocol of their test set prepares them."""
    images = chosen.images
    if not isinstance(images, Benchmark) or not images.protocol.as_is:
        return chosen, preprocess
    # All images of such a test set have one size.
    height, width = images.image(0).shape[:2]
    size = f"{height} x {width} pixels"
    if (height, width) != preprocess.image_size:
        words = f"{chosen.split}, {size} resized"
        return dataclasses.replace(chosen, split=words), preprocess
    words = f"{chosen.split}, {size} as they are"
    as_is = dataclasses.replace(preprocess, resize="none", crop_pct=1.0)
    return dataclasses.replace(chosen, split=words), as_is


def _columns(checkpoint: Checkpoint, images: ImageSet) -> np.ndarray | None:
    """Return the numbers of the images' classes in the model; None if all are its own."""
    kind = score_kind(checkpoint.provenance, checkpoint.model.num_classes)
    if kind != "sigmoid":
        raise UserError(
            "these images have several labels each, and this checkpoint gives one class "
            "per image (softmax): train or fine-tune a model on such images"
        )
    if checkpoint.labels is not None:
        return align_classes(images, checkpoint.labels)
    return None


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


def _trained_on(provenance: Mapping[str, Any], dataset: Dataset) -> bool:
    data = provenance.get("data") or {}
    return bool(dataset.fingerprint() == data.get("fingerprint"))


def _source(dataset: Dataset) -> str:
    """Return the name of a known dataset, such as cifar100."""
    return dataset.spec.partition(":")[0]


def _rule(images: ImageSet) -> str:
    """Return in words how the protocol of a test set differs from the usual."""
    if not isinstance(images, Benchmark):
        return ""
    if images.protocol.among:
        return f" among {len(images.classes)} classes"
    return " by any of several labels" if images.label_sets is not None else ""


def _held_out(held_out: HeldOut) -> str:
    return f"test ({100 * held_out.test_fraction:g} % held out by seed {held_out.seed})"
