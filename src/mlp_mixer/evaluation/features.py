"""What the head of a network reads of images: the pooled features."""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np
import torch

from ..data.image_set import ImageSet
from ..devices import pick_device
from ..images.preprocess import Preprocess
from ..models import IsotropicMlp
from ..models.as_built import plain_network
from ..weights import Checkpoint
from .accuracy import Progress, outputs


def pooled_features(
    model: IsotropicMlp,
    images: ImageSet,
    preprocess: Preprocess,
    batch_size: int = 256,
    progress: Progress | None = None,
) -> np.ndarray:
    """Return what the head reads, for each image in order.

    Args:
        model: With or without a head.
        images: The images.
        preprocess: How the model wants them.
        batch_size: Images in a forward pass.
        progress: Is told how many images are done.

    Returns:
        (n, C) float32.
    """

    def pooled(x: torch.Tensor) -> torch.Tensor:
        return model.forward_head(model.forward_features(x), pre_logits=True)

    features = outputs(
        model, pooled, images, preprocess, batch_size=batch_size, progress=progress
    )
    return features.numpy()


def split_features(
    checkpoint: Checkpoint,
    train: ImageSet,
    test: ImageSet,
    *,
    used: np.ndarray,
    resize: Literal["resmall", "resize"] | None = None,
    batch_size: int = 256,
    device: torch.device | str | None = "auto",
    progress: Progress | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Compute the pooled features of images to learn from and of images to evaluate on.

    Args:
        checkpoint: The network, with or without a head, and its preprocessing.
        train: The images to learn from.
        test: The images to evaluate on.
        used: Places of the images in `train` that are computed, in rising order.
        resize: As in `Preprocess`, the checkpoint's own by default.
        batch_size: Images in a forward pass.
        device: Where to compute, a name for `pick_device` or torch's. None: where the
            model is.
        progress: Is told how many images of both sets are done.

    Returns:
        (N, C) and (n, C) float32; rows of `train` that are not in `used` are 0.
    """
    # The caller's model keeps its mode and its device.
    place = None if device is None else pick_device(device)
    model = plain_network(checkpoint.model, place)
    preprocess = checkpoint.preprocess
    if resize is not None:
        preprocess = dataclasses.replace(preprocess, resize=resize)
    told = progress or (lambda done, total: None)
    total = len(used) + len(test)

    def features(images: ImageSet, before: int) -> np.ndarray:
        """Both sets are one piece of work to a person who waits."""

        def add(done: int, _: int) -> None:
            told(before + done, total)

        return pooled_features(model, images, preprocess, batch_size, progress=add)

    # Memory is taken for the rows that are written, not for all.
    x_train = np.zeros((len(train), model.num_features), dtype=np.float32)
    x_train[used] = features(train.subset(used), 0)
    return x_train, features(test, len(used))
