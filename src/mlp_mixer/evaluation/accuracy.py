"""Top-1 and top-5 accuracy, loss and confusion of a classifier over an image set."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ..data.image_set import ImageSet
from ..data.imagenet import Benchmark
from ..data.loader import EvalBatches, auto_workers, stream
from ..distributed import all_gather, rank, world_size
from ..errors import UserError
from ..images.preprocess import Preprocess
from ..weights.labels import class_numbers, wordnet_ids

Tta = Literal["none", "flip", "shift"]
LabelSets = Sequence[Sequence[int]]
"""The right answers of each image, at least one: an answer counts if it is any of them.
"""


@dataclass(frozen=True)
class Evaluation:
    """What was measured: fractions in [0, 1], the mean cross-entropy in nats, and every
    answer.
    """

    n: int
    top1: float
    top5: float  # with fewer than five classes: any of them, hence 1
    loss: float
    # (n,) true classes in the model's numbering; of several right ones the likeliest
    labels: np.ndarray
    probabilities: np.ndarray  # (n, K) float32, softmax of the logits
    split: str = ""  # which images, in words, where a data set was evaluated

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


def align_labels(images: ImageSet, model_labels: Sequence[str]) -> np.ndarray:
    """(n,) the images' labels in the model's numbering, matched by class name (for
    ImageNet also by WordNet id).

    Raises `UserError` naming the classes that the model does not know.
    """
    return align_classes(images, model_labels)[images.labels]


def align_classes(images: ImageSet, model_labels: Sequence[str]) -> np.ndarray:
    """(classes,) the images' classes in the model's numbering; as `align_labels`."""
    classes = images.classes
    if isinstance(images, Benchmark) and images.protocol.numbered:
        classes = tuple(wordnet_ids("imagenet1k")[int(place)] for place in classes)
    if classes == tuple(model_labels):
        return np.arange(len(classes))
    numbers = class_numbers(model_labels)
    if foreign := [name for name in classes if name not in numbers]:
        raise UserError(
            f"this checkpoint is for other classes: the data has {_list(foreign)}, the model knows "
            f"{_list(model_labels)}; use a model trained on these classes"
        )
    return np.array([numbers[name] for name in classes], dtype=np.int64)


def _list(names: Sequence[str]) -> str:
    return ", ".join(repr(name) for name in names[:5]) + (
        f" and {len(names) - 5} more" if len(names) > 5 else ""
    )


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
) -> Evaluation:
    """Run the model over all images, each exactly once, in fp32 and evaluation mode
    (the mode is restored).

    labels: (n,) true classes in the model's numbering, or several for each image, if
        they differ from the image set's.
    among: the classes that may be answered, the others' probability is 0; all by
        default.
    tta: views of each image whose logits are averaged: "flip" adds its mirror image,
        "shift" also both of them moved by a pixel up and left, and down and right.
    Raises `UserError` for an unreadable image, or for images with other channels than
    the model takes.
    """
    logits = outputs(
        model,
        _over_views(model, tta),
        images,
        preprocess,
        batch_size=batch_size,
        workers=workers,
        device=device,
    )
    if among is not None:
        barred = torch.ones(logits.shape[1], dtype=torch.bool)
        barred[torch.from_numpy(among)] = False
        logits = logits.masked_fill(barred, -torch.inf)
    labels = images.labels if labels is None else labels
    if not isinstance(labels, np.ndarray):
        labels = best_labels(logits, labels)
    return score(logits, torch.from_numpy(labels))


@torch.inference_mode()
def outputs(
    model: nn.Module,
    compute: Callable[[torch.Tensor], torch.Tensor],
    images: ImageSet,
    preprocess: Preprocess,
    *,
    batch_size: int = 256,
    workers: int | None = None,
    device: torch.device | None = None,
) -> torch.Tensor:
    """(n, ...) float32 on the CPU: what `compute`, with the model in evaluation mode,
    gives for each image in order.

    Several processes share the batches, compute equally many (a sharded network needs
    all of them at once), and each gets the whole result, with every image once.
    """
    if images.channels != preprocess.channels:
        raise UserError(
            f"the images have {_channels(images.channels)}, the model takes {_channels(preprocess.channels)}; "
            "evaluate it on images of the kind it was trained on"
        )
    device = device or next(model.parameters()).device
    processes = world_size()
    batches = EvalBatches(
        images, preprocess, min(batch_size, max(1, -(-len(images) // processes)))
    )
    rounds = -(-len(batches) // processes)
    mine = [
        min(k * processes + rank(), len(batches) - 1) for k in range(rounds)
    ]  # too many: the last one again
    workers = auto_workers(images) if workers is None else workers
    was_training = model.training
    model.eval()
    found = [
        compute(preprocess.normalize(batch.to(device).images)).float().cpu()
        for batch in stream(batches, mine, workers=workers)
    ]
    model.train(was_training)
    numbered = {
        n: part
        for pairs in all_gather(list(zip(mine, found, strict=True)))
        for n, part in pairs
    }
    return torch.cat([numbered[number] for number in range(len(batches))])


def _over_views(model: nn.Module, tta: Tta) -> Callable[[torch.Tensor], torch.Tensor]:
    """Images (B, C, H, W) -> mean logits over their views."""

    def views(x: torch.Tensor) -> Iterator[torch.Tensor]:
        for moved in (0, -1, 1) if tta == "shift" else (0,):
            y = (
                F.pad(x, (1, 1, 1, 1), mode="replicate").roll((moved, moved), (2, 3))[
                    :, :, 1:-1, 1:-1
                ]
                if moved
                else x
            )
            yield from (y, y.flip(3))

    return (
        model
        if tta == "none"
        else lambda x: torch.stack([model(view).float() for view in views(x)]).mean(
            dim=0
        )
    )


def best_labels(logits: torch.Tensor, label_sets: LabelSets) -> np.ndarray:
    """(n,) of each image's right answers the one that the model likes best: the rest is
    as with a single label.
    """
    ranked = logits.topk(
        min(5, logits.shape[1]), dim=1
    ).indices.tolist()  # as `score` ranks them, ties included
    return np.array(
        [
            next((k for k in top if k in own), max(own, key=row.__getitem__))
            for top, own, row in zip(ranked, label_sets, logits.numpy(), strict=True)
        ],
        dtype=np.int64,
    )


def score(logits: torch.Tensor, labels: torch.Tensor) -> Evaluation:
    """Turn logits (n, K) and labels (n,) into an `Evaluation`."""
    top5 = logits.topk(min(5, logits.shape[1]), dim=1).indices
    hits = top5 == labels[:, None]
    return Evaluation(
        n=len(labels),
        top1=hits[:, 0].double().mean().item(),
        top5=hits.any(dim=1).double().mean().item(),
        loss=F.cross_entropy(logits, labels).item(),
        labels=labels.numpy(),
        probabilities=logits.softmax(dim=1).numpy(),
    )
