"""Top-1 and top-5 accuracy, loss and confusion of a classifier over an image set."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data.image_set import ImageSet
from ..data.imagenet import Benchmark
from ..data.loader import EvalBatches, auto_workers, stream
from ..distributed import all_gather, rank, world_size
from ..errors import UserError, listed
from ..images.preprocess import Preprocess
from ..intervals import wilson_interval
from ..models import IsotropicMlp
from ..weights.labels import class_numbers, wordnet_ids
from ..weights.scores import SCORES
from .per_class import (
    ClassScore,
    balanced_accuracy,
    class_scores,
    remark_on_majority,
)

Tta = Literal["none", "flip", "shift"]
LabelSets = Sequence[Sequence[int]]
"""The right answers of each image, at least one: an answer counts if it is any of them."""

Progress = Callable[[int, int], None]
"""Is told again and again how many images of how many are done."""

_MOST_NAMES = 5  # of classes in an error


class Computes(Protocol):
    """A call from images to logits that says how it computes; `runtime.Engine` is one."""

    def __call__(self, images: Tensor) -> Tensor: ...

    def record(self) -> dict[str, Any]: ...


MakeEngine = Callable[[IsotropicMlp], Computes]


@dataclass(frozen=True)
class Evaluation:
    """Hold what was measured, and every answer.

    Attributes:
        n: How many images.
        top1: The share of images whose class is the best answer, in [0, 1].
        top5: The share whose class is among the best five answers; with fewer than five
            classes among all of them, hence 1.
        loss: The mean cross-entropy in nats.
        labels: (n,) true classes in the model's numbering; of several right ones the
            likeliest.
        probabilities: (n, K) float32, the softmax of the logits.
        scores: (n,) float32, of each answer, as a predictor gives it: its probability,
            or its sigmoid where the head learnt by sigmoids.
        split: Which images, in words, where a dataset was evaluated.
        seen: How many of them the network has learnt from, where that is known.
        classes: The names of the K classes, where they are known.
        assumed: What had to be assumed of the classes, in a sentence.
        computed: What computed the logits and how far it is from fp32, as
            `runtime.Engine.record` says it; empty for the plain module.
    """

    n: int
    top1: float
    top5: float
    loss: float
    labels: np.ndarray
    probabilities: np.ndarray
    scores: np.ndarray
    split: str = ""
    seen: int | None = None
    classes: tuple[str, ...] | None = None
    assumed: str = ""
    computed: Mapping[str, Any] = field(default_factory=dict)

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the top-1 accuracy (Wilson), in [0, 1]."""
        return wilson_interval(self.top1 * self.n, self.n)

    @property
    def predictions(self) -> np.ndarray:
        """(n,) the class of the largest probability."""
        return self.probabilities.argmax(axis=1)

    @property
    def confusion(self) -> np.ndarray:
        """(K, K) counts: rows are true classes, columns predicted ones."""
        classes = self.probabilities.shape[1]
        pairs = self.labels * classes + self.predictions
        return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)

    @property
    def balanced_top1(self) -> float:
        """The mean share of right answers over the classes that have images."""
        return balanced_accuracy(self.confusion)

    @property
    def per_class(self) -> tuple[ClassScore, ...]:
        """The counts of each class that has images or was answered."""
        return class_scores(self.confusion, self._names)

    @property
    def remark(self) -> str | None:
        """A sentence where the most frequent class explains the accuracy, else None."""
        return remark_on_majority(self.confusion, self._names)

    @property
    def _names(self) -> Sequence[str]:
        if self.classes is not None:
            return self.classes
        return [f"class {number}" for number in range(self.probabilities.shape[1])]


def align_labels(images: ImageSet, model_labels: Sequence[str]) -> np.ndarray:
    """Return the images' labels in the model's numbering, matched by class name.

    For ImageNet they are also matched by WordNet id.

    Args:
        images: The images, with their own classes.
        model_labels: The names of the model's classes, in its order.

    Returns:
        (n,) int64.

    Raises:
        UserError: The model does not know some of the classes, which the error names.
    """
    images.need_one_label("a comparison with one class per image")
    return align_classes(images, model_labels)[images.labels]


def align_classes(images: ImageSet, model_labels: Sequence[str]) -> np.ndarray:
    """Return the images' classes in the model's numbering, one number a class.

    Arguments and errors as of `align_labels`.
    """
    classes = images.classes
    if isinstance(images, Benchmark) and images.protocol.numbered:
        # Folders of ImageNet-V2 are class numbers, which look like names of digits.
        synsets = wordnet_ids("imagenet1k")
        classes = tuple(synsets[int(place)] for place in classes)
    if classes == tuple(model_labels):
        return np.arange(len(classes))
    numbers = class_numbers(model_labels)
    foreign = [name for name in classes if name not in numbers]
    if foreign:
        raise UserError(
            f"this checkpoint is for other classes: the data has {_listed(foreign)}, the "
            f"model knows {_listed(model_labels)}; use a model trained on these classes"
        )
    return np.array([numbers[name] for name in classes], dtype=np.int64)


def _listed(names: Sequence[str]) -> str:
    return listed([repr(name) for name in names], _MOST_NAMES, ", ")


def _channels(count: int) -> str:
    return f"{count} channel" + ("s" if count > 1 else "")


def evaluate(
    model: nn.Module,
    images: ImageSet,
    preprocess: Preprocess,
    *,
    labels: np.ndarray | LabelSets | None = None,
    among: np.ndarray | None = None,
    batch_size: int = 256,
    workers: int | None = None,
    device: torch.device | None = None,
    tta: Tta = "none",
    head: str = "softmax",
    compute: Callable[[Tensor], Tensor] | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Run the model over all images, each exactly once, in evaluation mode.

    Afterwards the model is in the mode that it had.

    Args:
        model: From images (B, C, H, W) to logits (B, K); it stays on its device.
        images: What to evaluate on.
        preprocess: How the model wants its images.
        labels: (n,) true classes in the model's numbering, or several for each image, if
            they differ from the image set's.
        among: The classes that may be answered, the others' probability is 0; all by
            default.
        batch_size: Images in a forward pass.
        workers: Processes that read images; by default what the images need.
        device: Where the model is; by default where its first parameter is.
        tta: Test-time augmentation, views of each image whose logits are averaged:
            "flip" adds its mirror image, "shift" also both of them moved by a pixel up
            and left, and down and right.
        head: How logits become scores: a key of `SCORES`.
        compute: From images to logits; the model itself by default, in the precision of
            its weights.
        progress: Is told how many images are done.

    Returns:
        What was measured; the same in every process.

    Raises:
        UserError: An image cannot be read, or the images have other channels than the
            model takes.
    """
    if labels is None:
        images.need_one_label("accuracy")
    logits = outputs(
        model,
        over_views(compute or model, tta),
        images,
        preprocess,
        batch_size=batch_size,
        workers=workers,
        device=device,
        progress=progress,
    )
    if among is not None:
        barred = torch.ones(logits.shape[1], dtype=torch.bool)
        barred[torch.from_numpy(among)] = False
        logits = logits.masked_fill(barred, -torch.inf)
    labels = images.labels if labels is None else labels
    if not isinstance(labels, np.ndarray):
        labels = best_labels(logits, labels)
    return score(logits, torch.from_numpy(labels), head)


@torch.inference_mode()
def outputs(
    model: nn.Module,
    compute: Callable[[Tensor], Tensor],
    images: ImageSet,
    preprocess: Preprocess,
    *,
    batch_size: int = 256,
    workers: int | None = None,
    device: torch.device | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """Return what `compute` gives for each image, with the model in evaluation mode.

    Several processes share the batches and compute equally many: a sharded network needs
    all of them at once.

    Args:
        model: The network whose mode is set and restored.
        compute: From normalised images (B, C, H, W) to results (B, ...).
        images: As for `evaluate`, like the rest.
        preprocess: How the model wants its images.
        batch_size: Images in a forward pass.
        workers: Processes that read images.
        device: Where the model is.
        progress: Is told how many images are done, of all processes together.

    Returns:
        (n, ...) float32 on the CPU, every image once and in order, in every process.

    Raises:
        UserError: As for `evaluate`.
    """
    if images.channels != preprocess.channels:
        raise UserError(
            f"the images have {_channels(images.channels)}, the model takes "
            f"{_channels(preprocess.channels)}; evaluate it on images of the kind it was "
            "trained on"
        )
    device = device or next(model.parameters()).device
    processes = world_size()
    # A small set is spread over all processes rather than computed by the first alone.
    share = max(1, -(-len(images) // processes))
    batches = EvalBatches(images, preprocess, min(batch_size, share))
    # Process r takes batches r, r + processes, ...; one that runs out of batches computes
    # the last one again.
    rounds = -(-len(batches) // processes)
    last = len(batches) - 1
    mine = [min(k * processes + rank(), last) for k in range(rounds)]
    workers = auto_workers(images) if workers is None else workers
    found: list[tuple[int, Tensor]] = []
    with _evaluation_mode(model):
        for number, batch in zip(
            mine, stream(batches, mine, workers=workers), strict=True
        ):
            x_BCHW = preprocess.normalize(batch.to(device).images)
            found.append((number, compute(x_BCHW).float().cpu()))
            if progress is not None:
                done = len(found) * processes * batches.batch_size
                progress(min(done, len(images)), len(images))
    by_number: dict[int, Tensor] = {}
    for pairs in all_gather(found):
        by_number.update(pairs)
    return torch.cat([by_number[number] for number in range(len(batches))])


@contextmanager
def _evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode, and back into its own even after an error."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def over_views(
    model: Callable[[Tensor], Tensor], tta: Tta
) -> Callable[[Tensor], Tensor]:
    """Return a function from images (B, C, H, W) to the mean logits over their views.

    Args:
        model: From images to logits.
        tta: The views, as for `evaluate`.
    """
    if tta == "none":
        return model
    shifts = (0, -1, 1) if tta == "shift" else (0,)

    def mean_logits(x_BCHW: Tensor) -> Tensor:
        logits = []
        for pixels in shifts:
            moved = _moved(x_BCHW, pixels)
            logits.append(model(moved).float())
            logits.append(model(moved.flip(3)).float())
        return torch.stack(logits).mean(dim=0)

    return mean_logits


def _moved(x_BCHW: Tensor, pixels: int) -> Tensor:
    """Move images by at most one pixel down and right; what moves in repeats the edge."""
    if pixels == 0:
        return x_BCHW
    padded = F.pad(x_BCHW, (1, 1, 1, 1), mode="replicate")
    return padded.roll((pixels, pixels), (2, 3))[:, :, 1:-1, 1:-1]


def best_labels(logits: Tensor, label_sets: LabelSets) -> np.ndarray:
    """Return of each image's right answers the one that the model likes best.

    Everything else is then as with a single label.

    Args:
        logits: (n, K).
        label_sets: The right answers of each image.

    Returns:
        (n,) int64.
    """
    # As `score` ranks them, ties included: a right answer that it sees among the five
    # must not lose to an equal one that it does not see.
    ranked = logits.topk(min(5, logits.shape[1]), dim=1).indices.tolist()
    best = []
    for top, own, row in zip(ranked, label_sets, logits.numpy(), strict=True):
        right = [label for label in top if label in own]
        best.append(right[0] if right else max(own, key=row.__getitem__))
    return np.array(best, dtype=np.int64)


def score(logits: Tensor, labels: Tensor, head: str = "softmax") -> Evaluation:
    """Count how often the logits are right.

    Args:
        logits: (n, K) on the CPU.
        labels: (n,) true classes.
        head: As for `evaluate`.
    """
    top5 = logits.topk(min(5, logits.shape[1]), dim=1).indices
    hits = top5 == labels[:, None]
    return Evaluation(
        n=len(labels),
        top1=hits[:, 0].double().mean().item(),
        top5=hits.any(dim=1).double().mean().item(),
        loss=F.cross_entropy(logits, labels).item(),
        labels=labels.numpy(),
        probabilities=logits.softmax(dim=1).numpy(),
        scores=SCORES[head](logits).amax(dim=1).numpy(),
    )
