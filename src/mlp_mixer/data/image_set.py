"""One split of a data set: images and their labels, in memory or in files."""

from __future__ import annotations

import abc
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, final

import numpy as np

from ..errors import UserError
from ..images.decode import Part, Pixels, decode_image

Labels = np.ndarray[tuple[int], np.dtype[np.int64]]
Indices = Sequence[int] | np.ndarray[Any, Any]


class ImageSet(abc.ABC):
    """Images with one label each.

    Attributes:
        classes: the K class names.
        labels: int64 (N,), each in 0 ... K - 1.
        channels: of every image.
        size: (H, W) where all images share it, else None.
    """

    def __init__(
        self,
        labels: Any,
        classes: Sequence[str],
        channels: int,
        size: tuple[int, int] | None,
    ) -> None:
        self.labels = _checked_labels(labels, len(classes))
        self.classes = tuple(classes)
        self.channels = channels
        self.size = size

    def __len__(self) -> int:
        return len(self.labels)

    @abc.abstractmethod
    def image(self, index: int) -> Pixels:
        """Image `index` as uint8 (H, W, channels); `UserError` if its file is broken."""

    def part(self, index: int, part: Part) -> Pixels:
        """A part of image `index`, which may save decoding the rest; as finely as
        `Part` says, else as `image`.
        """
        return part.of(self.image(index))

    @abc.abstractmethod
    def name(self, index: int) -> str:
        """What to call image `index` in messages and reports: a relative path, or such
        as train/17.
        """

    @abc.abstractmethod
    def subset(self, indices: Indices) -> ImageSet:
        """The images at `indices`, in that order; they keep their names."""


@final
class ArraySet(ImageSet):
    """Images in memory.

    Args:
        images: uint8 (N, H, W, C) or (N, H, W); kept as `images`, (N, H, W, C), without
            a copy.
        labels: N integers.
        classes: the class names; "0", "1", ... if absent.
        origin: the first part of the images' names.
        numbers: the second part, (N,) integers; 0 ... N - 1 if absent.

    Raises:
        UserError: the shapes, types or labels do not fit.
    """

    def __init__(
        self,
        images: Any,
        labels: Any,
        classes: Sequence[str] | None = None,
        *,
        origin: str = "train",
        numbers: Indices | None = None,
    ) -> None:
        images = np.asarray(images)
        if images.dtype != np.uint8 or images.ndim not in (3, 4):
            raise UserError(
                f"images are {images.dtype} {images.shape}: expected uint8 (N, H, W, C) or (N, H, W)"
            )
        self.images = images[..., None] if images.ndim == 3 else images
        if len(images) != len(labels):
            raise UserError(
                f"there are {len(images)} images but {len(labels)} labels: expected one label per image"
            )
        if classes is None:
            classes = [str(k) for k in range(int(np.max(labels, initial=0)) + 1)]
        _, height, width, channels = self.images.shape
        super().__init__(labels, classes, channels, (height, width))
        self._origin = origin
        self._numbers = (
            np.arange(len(images)) if numbers is None else np.asarray(numbers)
        )

    def image(self, index: int) -> Pixels:
        pixels: Pixels = self.images[index]
        return pixels

    def name(self, index: int) -> str:
        return f"{self._origin}/{self._numbers[index]}"

    def subset(self, indices: Indices) -> ArraySet:
        chosen = np.asarray(indices, dtype=np.int64)
        return ArraySet(
            self.images[chosen],
            self.labels[chosen],
            self.classes,
            origin=self._origin,
            numbers=self._numbers[chosen],
        )


@final
class FileSet(ImageSet):
    """Image files, decoded on access.

    Args:
        root: the folder that the names are relative to; no part of the data set's
            identity.
        names: N paths under root, with forward slashes (an absolute one stands for
            itself).
        labels: N integers.
        classes: the class names.
        channels: 1 to decode to gray, 3 to RGB.
    """

    def __init__(
        self,
        root: Path,
        names: Sequence[str],
        labels: Any,
        classes: Sequence[str],
        *,
        channels: int = 3,
    ) -> None:
        assert len(names) == len(labels)
        super().__init__(labels, classes, channels, None)
        self.root = root
        self._names = tuple(names)

    def path(self, index: int) -> Path:
        """Where image `index` lies."""
        return self.root / self._names[index]

    def image(self, index: int) -> Pixels:
        return decode_image(self.path(index), channels=self.channels)

    def part(self, index: int, part: Part) -> Pixels:
        path = os.path.join(self.root, self._names[index])  # noqa: PTH118 - a Path takes 20 microseconds to make
        return decode_image(path, channels=self.channels, part=part)

    def name(self, index: int) -> str:
        return self._names[index]

    def subset(self, indices: Indices) -> FileSet:
        chosen = np.asarray(indices, dtype=np.int64)
        names = [self._names[index] for index in chosen]
        return FileSet(
            self.root, names, self.labels[chosen], self.classes, channels=self.channels
        )


def _checked_labels(labels: Any, number_of_classes: int) -> Labels:
    array = np.asarray(labels)
    if array.ndim != 1 or (array.size and not np.issubdtype(array.dtype, np.integer)):
        raise UserError(
            f"labels are {array.dtype} {array.shape}: expected integers (N,)"
        )
    if array.size and not 0 <= array.min() <= array.max() < number_of_classes:
        raise UserError(
            f"labels go from {array.min()} to {array.max()} but there are {number_of_classes} classes: "
            f"expected 0 to {number_of_classes - 1}"
        )
    return array.astype(np.int64)
