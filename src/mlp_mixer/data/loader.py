"""Batches on demand.

A training batch is a function of its step alone; worker processes only compute it
elsewhere. Batches hold uint8 images (B, C, H, W); the network's normalisation happens on
its device.
"""

from __future__ import annotations

import functools
import os
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from ..errors import UserError
from ..images.augment import FLIP, augment_batch, draws_needed, inception_crop
from ..images.preprocess import Preprocess
from ..images.settings import Augment
from ..randomness import ClassMembers, batch_positions, uniforms
from .image_set import ArraySet, ImageSet

_MOST_STORED_BYTES = 2**32
_MOST_WORKERS = 8


@dataclass(frozen=True)
class Batch:
    """Images with their labels.

    Attributes:
        images: uint8 (B, C, H, W).
        labels: int64 (B,), or float32 (B, K) with several labels per image.
        indices: int64 (B,), the images' places in the image set.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor

    def to(self, device: torch.device) -> Batch:
        """Return the batch on another device, without waiting for the copy.

        Args:
            device: Where to.
        """
        return Batch(
            self.images.to(device, non_blocking=True),
            self.labels.to(device, non_blocking=True),
            self.indices.to(device, non_blocking=True),
        )


@dataclass(frozen=True)
class TrainBatches(TorchDataset[Batch]):
    """The training batches: `self[step]` is the part of one process at that step.

    Attributes:
        images: The images to learn from.
        preprocess: How an image comes to the network's size.
        augment: How it is changed.
        batch_size: Of the global batch, over all processes; a multiple of `world_size`
            and of `repeats`.
        seed: Of the order and of the augmentation.
        rank: Of this process, 0 ... world_size - 1.
        world_size: The number of processes.
        repeats: How often each image is in a batch, augmented differently every time.
        store: All images as returned by `stored`; batches are made on its device then.
        members: The images of each class, where all classes come equally often.
    """

    images: ImageSet
    preprocess: Preprocess
    augment: Augment
    batch_size: int
    seed: int
    rank: int = 0
    world_size: int = 1
    repeats: int = 1
    store: Tensor | None = None
    members: ClassMembers | None = None

    def __post_init__(self) -> None:
        # What users may ask for is checked in training.parallel and the configuration.
        assert self.batch_size > 0
        assert self.batch_size % self.world_size == 0
        assert self.repeats > 0
        assert self.batch_size % self.repeats == 0

    def __getitem__(self, step: int) -> Batch:
        epochs, indices = self.positions(step)
        # Each process takes its slice of the same global batch, so the images of a step
        # do not depend on the number of processes.
        share = self.batch_size // self.world_size
        mine = slice(self.rank * share, (self.rank + 1) * share)
        epochs = epochs[mine]
        indices = indices[mine]
        labels = torch.from_numpy(self.images.answers(indices))
        return Batch(self.pixels(epochs, indices), labels, torch.from_numpy(indices))

    def positions(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Return epochs and image indices (B,) of the whole batch of a step.

        Args:
            step: Counted from 0.
        """
        return batch_positions(
            step,
            self.batch_size,
            len(self.images),
            self.seed,
            self.repeats,
            self.members,
        )

    def pixels(self, epochs: np.ndarray, indices: np.ndarray) -> Tensor:
        """Return images as training sees them, uint8 (B, C, H, W).

        Args:
            epochs: In which epoch each is seen, integers (B,).
            indices: Which images, integers (B,).
        """
        draws = uniforms(self.seed, epochs, indices, draws_needed(self.augment))
        if self.augment.alternate:
            draws[:, FLIP] = self._alternating_flips(epochs, indices)
        return augment_batch(
            self._cropped(indices, draws),
            torch.from_numpy(draws),
            self.augment,
            mean=self.preprocess.mean,
            std=self.preprocess.std,
        )

    def _alternating_flips(self, epochs: np.ndarray, indices: np.ndarray) -> np.ndarray:
        """Return draws that mirror each image in every other epoch."""
        # A draw u mirrors if and only if 1 - u does not. The draw of epoch 0 is repeated
        # in even epochs and turned around in odd ones (Keller Jordan's airbench).
        draws = uniforms(self.seed, np.zeros_like(epochs), indices, FLIP + 1)
        first = draws[:, FLIP]
        return np.where(epochs % 2 == 0, first, 1 - first)

    def _cropped(self, indices: np.ndarray, draws: np.ndarray) -> Tensor:
        """Return images at the network's size, before all other augmentation."""
        if self.augment.crop in ("inception", "inception_tf"):
            return self._inception_crops(indices, draws)
        if self.store is not None:
            return self.store[torch.from_numpy(indices).to(self.store.device)]
        return _fitted(self.images, self.preprocess, indices)

    def _inception_crops(self, indices: np.ndarray, draws: np.ndarray) -> Tensor:
        """Return random parts of images, each resized to the network's size."""
        size = self.preprocess.image_size
        shape = (len(indices), self.images.channels, *size)
        crops = torch.empty(shape, dtype=torch.uint8)
        for crop, index, own in zip(crops, indices, draws, strict=True):
            # The crop decides which part of the file is decoded.
            read = functools.partial(self.images.part, int(index))
            crop.copy_(inception_crop(read, own, size, self.augment))
        return crops


@dataclass(frozen=True)
class EvalBatches(TorchDataset[Batch]):
    """An image set in its order: `self[i]` is batch i; the last may be smaller.

    Attributes:
        images: The images.
        preprocess: How an image comes to the network's size.
        batch_size: How many images a batch has.
    """

    images: ImageSet
    preprocess: Preprocess
    batch_size: int

    def __len__(self) -> int:
        return -(-len(self.images) // self.batch_size)

    def __getitem__(self, number: int) -> Batch:
        if not 0 <= number < len(self):
            raise IndexError(f"batch {number} of {len(self)}")
        start = number * self.batch_size
        stop = min(start + self.batch_size, len(self.images))
        indices = np.arange(start, stop)
        pixels = _fitted(self.images, self.preprocess, indices)
        labels = torch.from_numpy(self.images.answers(indices))
        return Batch(pixels, labels, torch.from_numpy(indices))


def stream(
    batches: TorchDataset[Batch], numbers: Sequence[int], *, workers: int
) -> Iterator[Batch]:
    """Yield batches by number, computed here or ahead of time by worker processes.

    Args:
        batches: The batches.
        numbers: Which of them, in order.
        workers: The number of processes; 0 computes here.

    Yields:
        `batches[number]` for each number.

    Raises:
        UserError: An image cannot be read, in whichever process.
    """
    if workers == 0 or len(numbers) < 2:
        for number in numbers:
            yield batches[number]
        return
    loader = DataLoader(
        _Guarded(batches),
        batch_size=None,
        sampler=numbers,
        num_workers=min(workers, len(numbers)),
        worker_init_fn=_ignore_interrupt,
        # DataLoader would draw from the global generator, and a run with workers would
        # differ from one without.
        generator=torch.Generator(),
        pin_memory=torch.cuda.is_available(),
    )
    for batch in loader:
        if isinstance(batch, UserError):
            raise batch
        yield batch


def auto_workers(images: ImageSet) -> int:
    """Return how many worker processes are worth having.

    Args:
        images: What they would read.

    Returns:
        0 for arrays in memory, else one per core, up to eight.
    """
    # Indexing an array is faster than sending its batches between processes.
    if isinstance(images, ArraySet):
        return 0
    return min(_MOST_WORKERS, _cores())


def _cores() -> int:
    """Return how many cores this process may use."""
    # In a container or under a batch system, fewer cores are ours than there are.
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class _Guarded(TorchDataset["Batch | UserError"]):
    """Batches that return a `UserError` as a value.

    torch would bury an error that is raised in a worker in a traceback.
    """

    def __init__(self, batches: TorchDataset[Batch]) -> None:
        self.batches = batches

    def __getitem__(self, number: int) -> Batch | UserError:
        try:
            return self.batches[number]
        except UserError as error:
            return error


def _ignore_interrupt(worker: int) -> None:
    """Ignore Ctrl-C in a worker."""
    # It reaches the whole process group; the main process alone decides what to do.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _fitted(images: ImageSet, preprocess: Preprocess, indices: np.ndarray) -> Tensor:
    """Return images at the network's size without augmentation."""
    # Arrays of the right size are indexed at once instead of image by image.
    if isinstance(images, ArraySet) and _is_ready(images, preprocess):
        return _to_tensor(images.images[indices])
    fitted = [preprocess.fit(images.image(int(index))) for index in indices]
    return _to_tensor(np.stack(fitted))


def _is_ready(images: ImageSet, preprocess: Preprocess) -> bool:
    """Whether the images have the network's size and channels already."""
    return (
        images.size == preprocess.image_size
        and images.channels == preprocess.channels
        and preprocess.crop_pct == 1
    )


def stored(
    images: ImageSet, preprocess: Preprocess, device: torch.device
) -> Tensor | None:
    """Return all images on a device, if they are small and fit as they are.

    Args:
        images: The images.
        preprocess: What the network expects.
        device: Where to.

    Returns:
        uint8 (N, C, H, W); None if they do not lie in memory, would have to be resized,
        or have 4 GiB or more.
    """
    if not isinstance(images, ArraySet) or not _is_ready(images, preprocess):
        return None
    if images.images.nbytes >= _MOST_STORED_BYTES:
        return None
    return _to_tensor(images.images).to(device)


def _to_tensor(images: np.ndarray) -> Tensor:
    """Turn (N, H, W, C) into a tensor (N, C, H, W)."""
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
