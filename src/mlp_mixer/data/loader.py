"""Batches on demand. A training batch is a pure function of its step; workers only
compute it elsewhere.

Batches hold uint8 images (B, C, H, W); the network's normalisation happens on its
device.
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
from ..randomness import batch_positions, uniforms
from .image_set import ArraySet, ImageSet


@dataclass(frozen=True)
class Batch:
    """Images (B, C, H, W) uint8, their labels (B,) int64, and their indices (B,) in the
    image set.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor

    def to(self, device: torch.device) -> Batch:
        """The batch on another device."""
        return Batch(
            *(
                part.to(device, non_blocking=True)
                for part in (self.images, self.labels, self.indices)
            )
        )


@dataclass(frozen=True)
class TrainBatches(TorchDataset[Batch]):
    """`self[step]` is the batch of that step: the slice of the global batch that
    belongs to `rank`.
    """

    images: ImageSet
    preprocess: Preprocess
    augment: Augment
    batch_size: int
    seed: int
    rank: int = 0
    world_size: int = 1
    repeats: int = 1  # of each image in a batch, every time augmented differently
    store: Tensor | None = (
        None  # what `stored` gives: batches are then made on its device
    )

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.batch_size % self.world_size:
            raise UserError(
                f"train.batch_size {self.batch_size} must be a positive multiple of the {self.world_size} processes"
            )
        if self.repeats < 1 or self.batch_size % self.repeats:
            raise UserError(
                f"train.batch_size {self.batch_size} must be a multiple of the {self.repeats} repeats of each image"
            )

    def __getitem__(self, step: int) -> Batch:
        epochs, indices = batch_positions(
            step, self.batch_size, len(self.images), self.seed, self.repeats
        )
        share = self.batch_size // self.world_size
        mine = slice(self.rank * share, (self.rank + 1) * share)
        epochs = epochs[mine]
        indices = indices[mine]
        labels = torch.from_numpy(self.images.labels[indices])
        return Batch(self.pixels(epochs, indices), labels, torch.from_numpy(indices))

    def pixels(self, epochs: np.ndarray, indices: np.ndarray) -> Tensor:
        """These images (B, C, H, W) as training sees them in these epochs (B,)."""
        draws = uniforms(self.seed, epochs, indices, draws_needed(self.augment))
        # mirrored in one epoch, not in the next, by a draw of its own for each image
        if self.augment.alternate:
            first = uniforms(self.seed, np.zeros_like(epochs), indices, FLIP + 1)[
                :, FLIP
            ]
            draws[:, FLIP] = np.where(epochs % 2 == 0, first, 1 - first)
        images = self._cropped(indices, draws)
        (mean, std) = (self.preprocess.mean, self.preprocess.std)
        return augment_batch(
            images, torch.from_numpy(draws), self.augment, mean=mean, std=std
        )

    def _cropped(self, indices: np.ndarray, draws: np.ndarray) -> Tensor:
        if self.store is not None and self.augment.crop != "inception":
            return self.store[torch.from_numpy(indices).to(self.store.device)]
        if self.augment.crop != "inception":
            return _fitted(self.images, self.preprocess, indices)
        size = self.preprocess.image_size
        crops = torch.empty(
            (len(indices), self.images.channels, *size), dtype=torch.uint8
        )
        for crop, index, own in zip(crops, indices, draws, strict=True):
            crop.copy_(
                inception_crop(
                    functools.partial(self.images.part, int(index)),
                    own,
                    size,
                    self.augment,
                )
            )
        return crops


@dataclass(frozen=True)
class EvalBatches(TorchDataset[Batch]):
    """`self[i]` is the i-th batch of an image set in order; the last may be smaller."""

    images: ImageSet
    preprocess: Preprocess
    batch_size: int

    def __len__(self) -> int:
        return -(-len(self.images) // self.batch_size)

    def __getitem__(self, number: int) -> Batch:
        if not 0 <= number < len(self):
            raise IndexError(f"batch {number} of {len(self)}")
        indices = np.arange(
            number * self.batch_size,
            min((number + 1) * self.batch_size, len(self.images)),
        )
        pixels = _fitted(self.images, self.preprocess, indices)
        return Batch(
            pixels,
            torch.from_numpy(self.images.labels[indices]),
            torch.from_numpy(indices),
        )


def stream(
    batches: TorchDataset[Batch], numbers: Sequence[int], *, workers: int
) -> Iterator[Batch]:
    """`batches[n]` for each n in order, computed here (`workers=0`) or by worker
    processes ahead of time.

    Raises `UserError` for an unreadable image, wherever it was met.
    """
    if workers == 0 or len(numbers) < 2:
        yield from (batches[number] for number in numbers)
        return
    loader = DataLoader(
        _Guarded(batches),
        batch_size=None,
        sampler=numbers,
        num_workers=min(workers, len(numbers)),
        worker_init_fn=_ignore_interrupt,
        generator=torch.Generator(),  # its own: DataLoader would draw from the global one
        pin_memory=torch.cuda.is_available(),
    )
    for batch in loader:
        if isinstance(batch, UserError):
            raise batch
        yield batch


def auto_workers(images: ImageSet) -> int:
    """Worker processes worth having: none for arrays in memory, else one per core up to
    eight.
    """
    if isinstance(images, ArraySet):
        return 0
    cores = (
        len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count() or 1
    )
    return min(8, cores)


class _Guarded(TorchDataset["Batch | UserError"]):
    """Hands a `UserError` over as a value: raised in a worker, torch would bury it in a
    traceback.
    """

    def __init__(self, batches: TorchDataset[Batch]) -> None:
        self.batches = batches

    def __getitem__(self, number: int) -> Batch | UserError:
        try:
            return self.batches[number]
        except UserError as error:
            return error


def _ignore_interrupt(worker: int) -> None:
    """Ctrl-C reaches the whole process group; only the main process decides what to do
    about it.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _fitted(images: ImageSet, preprocess: Preprocess, indices: np.ndarray) -> Tensor:
    """Images at the network's size without augmentation; arrays that have it already
    are only indexed.
    """
    if isinstance(images, ArraySet) and _is_ready(images, preprocess):
        return _to_tensor(images.images[indices])
    return _to_tensor(
        np.stack([preprocess.fit(images.image(int(index))) for index in indices])
    )


def _is_ready(images: ImageSet, preprocess: Preprocess) -> bool:
    """Whether the images have the network's size and channels already."""
    as_it_takes = (preprocess.image_size, preprocess.channels)
    return (images.size, images.channels) == as_it_takes and preprocess.crop_pct == 1


def stored(
    images: ImageSet, preprocess: Preprocess, device: torch.device
) -> Tensor | None:
    """All images (N, C, H, W) on the device, if they lie in memory, fit as they are,
    and are less than 4 GiB.
    """
    if (
        isinstance(images, ArraySet)
        and _is_ready(images, preprocess)
        and images.images.nbytes < 2**32
    ):
        return _to_tensor(images.images).to(device)
    return None


def _to_tensor(images: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
