"""The idx files of MNIST and its family, gzipped or not.

The format is described at http://yann.lecun.com/exdb/mnist.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from .image_set import ArraySet, ImageSet
from .official_files import find_file, read_file
from .torchvision_sets import download_folder

_IMAGES = "images-idx3-ubyte"
_LABELS = "labels-idx1-ubyte"
_STEMS = {"train": "train", "test": "t10k"}


@dataclass(frozen=True)
class IdxSet:
    """A dataset of four idx files.

    torchvision reads them as well, but demands the official MD5 sums, and its errors do
    not say what to do.

    Attributes:
        spec: Its name among the datasets.
        torchvision_name: The class that downloads it, and the folder that this class
            makes.
        classes: Ten names.
    """

    spec: str
    torchvision_name: str
    classes: tuple[str, ...]

    def __call__(self, path: Path | None) -> dict[str, ImageSet]:
        """Read the files in a folder or in its <name>/raw, or download them.

        Args:
            path: The folder; None for the cache.

        Returns:
            The splits "train" and "test".

        Raises:
            UserError: The download fails, or a file is missing or damaged.
        """
        folder = path or download_folder(
            self.torchvision_name, self._is_in, f"{self.spec}:PATH"
        )
        return {split: self._split(folder, split) for split in _STEMS}

    def _is_in(self, folder: Path) -> bool:
        """Whether all four files are there."""
        for stem in _STEMS.values():
            for kind in (_IMAGES, _LABELS):
                if self._find(folder, f"{stem}-{kind}") is None:
                    return False
        return True

    def _find(self, folder: Path, name: str) -> Path | None:
        subfolders = ("", "raw", f"{self.torchvision_name}/raw")
        return find_file(folder, subfolders, [name, f"{name}.gz"])

    def _split(self, folder: Path, split: str) -> ImageSet:
        images = self._read(folder, f"{_STEMS[split]}-{_IMAGES}", dimensions=3)
        labels = self._read(folder, f"{_STEMS[split]}-{_LABELS}", dimensions=1)
        try:
            return ArraySet(images, labels, self.classes, origin=split)
        except UserError as error:
            raise UserError(
                f"the {split} files in {str(folder)!r} do not fit together: {error}"
            ) from error

    def _read(
        self, folder: Path, name: str, dimensions: int
    ) -> np.ndarray[Any, np.dtype[np.uint8]]:
        path = self._find(folder, name)
        if path is None:
            raise UserError(
                f"there is no {name} or {name}.gz in {str(folder)!r}: put the four idx "
                "files there"
            )
        return read_idx(path, dimensions)


MNIST = IdxSet("mnist", "MNIST", tuple("0123456789"))
FASHION_MNIST = IdxSet(
    "fashion_mnist",
    "FashionMNIST",
    (
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    ),
)


def read_idx(path: Path, dimensions: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return the uint8 array of an idx file.

    Args:
        path: The file, gzipped or not.
        dimensions: How many the array must have.

    Raises:
        UserError: It is no such file, or its length does not fit its header.
    """
    data = read_file(path)
    # Two zeros, 8 for "unsigned byte", the number of dimensions, then each length.
    header = 4 + 4 * dimensions
    if len(data) < header or data[:4] != bytes([0, 0, 8, dimensions]):
        raise UserError(
            f"{str(path)!r} is not an idx file of {dimensions}-dimensional uint8; "
            "download it again"
        )
    shape = struct.unpack(f">{dimensions}I", data[4:header])
    length = len(data) - header
    # Beside a side of 0 the others may be anything.
    if length != math.prod(shape) or not length:
        raise UserError(
            f"{str(path)!r} has {length} bytes after its header: expected "
            f"{math.prod(shape)} for {shape}; download it again"
        )
    return np.frombuffer(data, dtype=np.uint8, offset=header).reshape(shape)
