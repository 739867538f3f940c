"""One split of a dataset: images and their labels, in memory or in files."""

from __future__ import annotations

import abc
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, final

import numpy as np

from ..errors import UserError
from ..images.decode import Part, Pixels, decode_image
from .class_numbers import checked_labels, numbered_classes
from .keys import Keys, key_of_bytes, key_of_file, key_of_name
from .names import checked_classes
from .targets import SEPARATOR, Targets, checked_targets, rarest_labels

Indices = Sequence[int] | np.ndarray[Any, Any]

_READERS = 8  # threads that read files for their keys


class ImageSet(abc.ABC):
    """Images with one label each, or with several.

    Attributes:
        classes: The K class names.
        labels: int64 (N,), each in 0 ... K - 1. Of images with several labels the
            rarest, by which they are split; whoever needs one label each asks
            `need_one_label`.
        targets: bool (N, K) where images have several labels each, or none; else None.
        channels: Of every image.
        size: (H, W) where all images share it, else None.
        passed_over: What their reader left out, in words; "" if nothing.
    """

    targets: Targets | None = None
    passed_over: str = ""

    def __init__(
        self,
        labels: Any,
        classes: Sequence[str],
        channels: int,
        size: tuple[int, int] | None,
        targets: Any | None = None,
    ) -> None:
        if targets is not None:
            self.targets = checked_targets(targets, len(targets), len(classes))
            labels = rarest_labels(self.targets)
        self.labels = checked_labels(labels, len(classes))
        self.classes = checked_classes(classes)
        self.channels = channels
        self.size = size

    # Keys that were asked for, and those that a subset was given.
    _keys: Keys | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @abc.abstractmethod
    def image(self, index: int) -> Pixels:
        """Return an image as uint8 (H, W, channels).

        Args:
            index: Which image, 0 ... N - 1.

        Raises:
            UserError: Its file is broken.
        """

    def part(self, index: int, part: Part) -> Pixels:
        """Return a part of an image; this may save decoding the rest.

        Args:
            index: Which image, 0 ... N - 1.
            part: Which part, and how finely it is needed.

        Raises:
            UserError: Its file is broken.
        """
        return part.of(self.image(index))

    @abc.abstractmethod
    def name(self, index: int) -> str:
        """Return what messages and reports call an image.

        Args:
            index: Which image, 0 ... N - 1.

        Returns:
            A relative path, or a split and a number such as train/17.
        """

    def key(self, index: int) -> int:
        """Return the identity of an image: 64 bits of its content.

        Args:
            index: Which image, 0 ... N - 1.
        """
        return key_of_name(self.name(index))

    def keys(self) -> Keys:
        """Return the identity of each image, uint64 (N,); computed once."""
        if self._keys is None:
            self._keys = np.array(self._find_keys(), dtype=np.uint64)
        return self._keys

    def _find_keys(self) -> list[int]:
        return [self.key(index) for index in range(len(self))]

    @abc.abstractmethod
    def subset(self, indices: Indices) -> ImageSet:
        """Return some of the images; they keep their names.

        Args:
            indices: Which images, in the order of the new set.
        """

    def take(self, indices: Indices) -> ImageSet:
        """Return some of the images as `subset` does, with the keys known so far.

        Args:
            indices: Which images, in the order of the new set.
        """
        chosen = np.asarray(indices, dtype=np.int64)
        taken = self.subset(chosen)
        if self._keys is not None:
            taken._keys = self._keys[chosen]
        return taken

    def answers(self, indices: Indices) -> np.ndarray[Any, Any]:
        """Return what a network should answer to some of the images.

        Args:
            indices: Which images (B,).

        Returns:
            int64 (B,), or float32 (B, K) of zeros and ones with several labels per image.
        """
        if self.targets is None:
            return self.labels[indices]
        return self.targets[indices].astype(np.float32)

    def label_text(self, index: int) -> str:
        """Return the name of an image's class; several are separated by ";".

        Args:
            index: Which image, 0 ... N - 1.
        """
        if self.targets is None:
            return self.classes[self.labels[index]]
        own = np.flatnonzero(self.targets[index])
        return SEPARATOR.join(self.classes[label] for label in own)

    def need_one_label(self, what: str) -> None:
        """Refuse images with several labels.

        Args:
            what: Needs one label per image, as the subject of a sentence.

        Raises:
            UserError: The images have several labels each.
        """
        if self.targets is not None:
            raise UserError(
                f"{what} needs one label per image, and these images have several each "
                "(docs/training.md, several labels per image)"
            )

    def _targets_of(self, chosen: Indices) -> Targets | None:
        return None if self.targets is None else self.targets[chosen]


@final
class ArraySet(ImageSet):
    """Images in memory.

    Args:
        images: uint8 (N, H, W, C) or (N, H, W); kept as `images`, (N, H, W, C), without
            a copy.
        labels: N integers.
        classes: The class names; "0", "1", ... if absent.
        origin: The first part of the images' names.
        numbers: The second part, (N,) integers; 0 ... N - 1 if absent.
        targets: Instead of the labels, 0 or 1 (N, K): several labels for each image.

    Raises:
        UserError: The shapes, types or labels do not fit.
    """

    def __init__(
        self,
        images: Any,
        labels: Any,
        classes: Sequence[str] | None = None,
        *,
        origin: str = "train",
        numbers: Indices | None = None,
        targets: Any | None = None,
    ) -> None:
        images = np.asarray(images)
        right = images.dtype == np.uint8 and images.ndim in (3, 4)
        if not right or 0 in images.shape[1:]:
            raise UserError(
                f"images are {images.dtype} {images.shape}: expected uint8 "
                "(N, H, W, C) or (N, H, W)"
            )
        given = labels if targets is None else targets
        if len(images) != len(given):
            raise UserError(
                f"there are {len(images)} images but {len(given)} labels: expected one "
                "label per image"
            )
        if classes is None and targets is None:
            classes = numbered_classes(labels)
        elif classes is None:
            count = np.asarray(targets).shape[-1]
            classes = [str(number) for number in range(count)]
        if numbers is None:
            numbers = np.arange(len(images))
        self.images = images[..., None] if images.ndim == 3 else images
        _, height, width, channels = self.images.shape
        super().__init__(labels, classes, channels, (height, width), targets)
        self._origin = origin
        self._numbers = np.asarray(numbers)

    def image(self, index: int) -> Pixels:
        """Return an image as uint8 (H, W, channels); see `ImageSet`."""
        pixels: Pixels = self.images[index]
        return pixels

    def key(self, index: int) -> int:
        """Return the identity of an image's pixels; see `ImageSet`."""
        return key_of_bytes(np.ascontiguousarray(self.images[index]))

    def name(self, index: int) -> str:
        """Return the origin and number of an image, such as train/17."""
        return f"{self._origin}/{self._numbers[index]}"

    def subset(self, indices: Indices) -> ArraySet:
        """Return some of the images, as a copy; see `ImageSet`."""
        chosen = np.asarray(indices, dtype=np.int64)
        return ArraySet(
            self.images[chosen],
            self.labels[chosen],
            self.classes,
            origin=self._origin,
            numbers=self._numbers[chosen],
            targets=self._targets_of(chosen),
        )


@final
class FileSet(ImageSet):
    """Image files, decoded on access.

    Args:
        root: The folder that the names are relative to; no part of the dataset's
            identity.
        names: N paths under root, with forward slashes (an absolute path is used as it
            is).
        labels: N integers.
        classes: The class names.
        channels: 1 to decode to gray, 3 to RGB, another number of bands as they are.
        targets: Instead of the labels, 0 or 1 (N, K): several labels for each image.
    """

    def __init__(
        self,
        root: Path,
        names: Sequence[str],
        labels: Any,
        classes: Sequence[str],
        *,
        channels: int = 3,
        targets: Any | None = None,
    ) -> None:
        super().__init__(labels, classes, channels, None, targets)
        assert len(names) == len(self.labels)
        self.root = root
        self._names = tuple(names)

    def path(self, index: int) -> Path:
        """Return where an image lies.

        Args:
            index: Which image, 0 ... N - 1.
        """
        return self.root / self._names[index]

    def image(self, index: int) -> Pixels:
        """Decode an image; see `ImageSet`."""
        return decode_image(self.path(index), channels=self.channels)

    def part(self, index: int, part: Part) -> Pixels:
        """Decode a part of an image; see `ImageSet`."""
        # A Path takes 20 microseconds to make: a tenth of decoding a small photo.
        path = os.path.join(self.root, self._names[index])  # noqa: PTH118
        return decode_image(path, channels=self.channels, part=part)

    def key(self, index: int) -> int:
        """Return the identity of an image's file; see `ImageSet`."""
        path = os.path.join(self.root, self._names[index])  # noqa: PTH118
        try:
            return key_of_file(path)
        # Whoever needs the picture will say that it cannot be read.
        except OSError:
            return super().key(index)

    def _find_keys(self) -> list[int]:
        # Threads: nearly all of the time is waiting for the disk.
        with ThreadPoolExecutor(_READERS) as readers:
            return list(readers.map(self.key, range(len(self))))

    def name(self, index: int) -> str:
        """Return the path of an image below the root."""
        return self._names[index]

    def subset(self, indices: Indices) -> FileSet:
        """Return some of the images; see `ImageSet`."""
        chosen = np.asarray(indices, dtype=np.int64)
        names = [self._names[index] for index in chosen]
        return FileSet(
            self.root,
            names,
            self.labels[chosen],
            self.classes,
            channels=self.channels,
            targets=self._targets_of(chosen),
        )


class EncodedSet(ImageSet):
    """Images that are kept as the bytes of image files."""

    @abc.abstractmethod
    def encoded(self, index: int) -> bytes:
        """Return the bytes of an image file.

        Args:
            index: Which image, 0 ... N - 1.

        Raises:
            UserError: The bytes cannot be read.
        """

    def key(self, index: int) -> int:
        """Return the identity of an image's file; see `ImageSet`."""
        try:
            return key_of_bytes(self.encoded(index))
        # Whoever needs the picture will say that it is broken.
        except UserError:
            return super().key(index)

    def image(self, index: int) -> Pixels:
        """Decode an image; see `ImageSet`."""
        return self._decoded(index, None)

    def part(self, index: int, part: Part) -> Pixels:
        """Decode a part of an image; see `ImageSet`."""
        return self._decoded(index, part)

    def _decoded(self, index: int, part: Part | None) -> Pixels:
        data = self.encoded(index)
        try:
            return decode_image(data, channels=self.channels, part=part)
        except UserError as error:
            # Bytes have no name; without it nobody finds the broken image.
            raise UserError(f"{self.name(index)!r}: {error}") from error
