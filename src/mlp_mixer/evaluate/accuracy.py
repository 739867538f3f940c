"""Top-1 and top-5 accuracy, loss and confusion of a classifier over an image set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ..data.image_set import ImageSet
from ..data.loader import EvalBatches, auto_workers, stream
from ..errors import UserError
from ..images.preprocess import Preprocess
from ..weights.labels import class_numbers


@dataclass(frozen=True)
class Evaluation:
    """What was measured: fractions in [0, 1], the mean cross-entropy in nats, and every answer."""

    n: int
    top1: float
    top5: float  # with fewer than five classes: any of them, hence 1
    loss: float
    labels: np.ndarray  # (n,) true classes, in the model's numbering
    probabilities: np.ndarray  # (n, K) float32, softmax of the logits

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
    """(n,) the images' labels in the model's numbering, matched by class name (for ImageNet also by WordNet id).

    Raises `UserError` naming the classes that the model does not know.
    """
    if tuple(images.classes) == tuple(model_labels):
        return np.asarray(images.labels, dtype=np.int64)
    numbers = class_numbers(model_labels)
    foreign = [name for name in images.classes if name not in numbers]
    if foreign:
        raise UserError(
            f"this checkpoint is for other classes: the data has {_list(foreign)}, the model knows "
            f"{_list(model_labels)}; use a model trained on these classes"
        )
    return np.array([numbers[name] for name in images.classes], dtype=np.int64)[images.labels]


def _list(names: Sequence[str]) -> str:
    return ", ".join(repr(name) for name in names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _channels(count: int) -> str:
    return f"{count} channel" + ("s" if count > 1 else "")


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    images: ImageSet,
    preprocess: Preprocess,
    *,
    labels: np.ndarray | None = None,
    batch_size: int = 256,
    workers: int | None = None,
    device: torch.device | None = None,
) -> Evaluation:
    """Run the model over all images, each exactly once, in fp32 and evaluation mode (the mode is restored).

    labels: (n,) true classes in the model's numbering, if that differs from the image set's.
    Raises `UserError` for an unreadable image, or for images with other channels than the model takes.
    """
    if images.channels != preprocess.channels:
        raise UserError(
            f"the images have {_channels(images.channels)}, the model takes {_channels(preprocess.channels)}; "
            "evaluate it on images of the kind it was trained on"
        )
    device = device or next(model.parameters()).device
    batches = EvalBatches(images, preprocess, batch_size)
    workers = auto_workers(images) if workers is None else workers
    was_training = model.training
    model.eval()
    logits = torch.cat(
        [
            model(preprocess.normalize(batch.to(device).images)).float().cpu()
            for batch in stream(batches, range(len(batches)), workers=workers)
        ]
    )
    model.train(was_training)
    return score(logits, torch.from_numpy(images.labels if labels is None else labels))


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
