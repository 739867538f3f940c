"""The idx files of MNIST and its family (format: http://yann.lecun.com/exdb/mnist),
gzipped or not.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from .image_set import ArraySet, ImageSet
from .torchvision_sets import download_folder

_GZIP_MAGIC = b"\x1f\x8b"


@dataclass(frozen=True)
class IdxSet:
    """A data set of four idx files.

    Args:
        spec: its name among the sources.
        torchvision_name: the class that downloads it, and the folder that this class
            makes.
        classes: ten names.
    """

    spec: str
    torchvision_name: str
    classes: tuple[str, ...]

    def __call__(self, path: Path | None) -> dict[str, ImageSet]:
        """Read the files in `path` (or its <name>/raw), or download them."""
        folder = path or download_folder(
            self.torchvision_name, self._is_in, f"{self.spec}:PATH"
        )
        return {
            split: self._split(folder, split, stem)
            for split, stem in (("train", "train"), ("test", "t10k"))
        }

    def _is_in(self, folder: Path) -> bool:
        return all(_find(folder, self.torchvision_name, name) for name in _FILES)

    def _split(self, folder: Path, split: str, stem: str) -> ImageSet:
        parts = [f"{stem}-images-idx3-ubyte", f"{stem}-labels-idx1-ubyte"]
        paths = [_find(folder, self.torchvision_name, part) for part in parts]
        images, labels = (
            read_idx(_present(path, part, folder), n)
            for path, part, n in zip(paths, parts, (3, 1), strict=True)
        )
        try:
            return ArraySet(images, labels, self.classes, origin=split)
        except UserError as error:
            raise UserError(
                f"the {split} files in {str(folder)!r} do not fit together: {error}"
            ) from error


_FILES = [
    f"{stem}-{kind}-ubyte"
    for stem in ("train", "t10k")
    for kind in ("images-idx3", "labels-idx1")
]

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
    """The uint8 array of an idx file; `UserError` if it is not one, is cut short, or
    has other dimensions.
    """
    data = _bytes(path)
    header = 4 + 4 * dimensions
    if len(data) < header or data[:4] != bytes([0, 0, 8, dimensions]):
        raise UserError(
            f"{str(path)!r} is not an idx file of {dimensions}-dimensional uint8; download it again"
        )
    shape = struct.unpack(f">{dimensions}I", data[4:header])
    if len(data) - header != math.prod(shape):
        came = f"has {len(data) - header} bytes after its header"
        raise UserError(
            f"{str(path)!r} {came}: expected {math.prod(shape)} for {shape}; download it again"
        )
    return np.frombuffer(data, dtype=np.uint8, offset=header).reshape(shape)


def _bytes(path: Path) -> bytes:
    try:
        data = path.read_bytes()
        return gzip.decompress(data) if data.startswith(_GZIP_MAGIC) else data
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(
            f"cannot read {str(path)!r}: {error}; download it again"
        ) from error


def _find(folder: Path, torchvision_name: str, name: str) -> Path | None:
    places = (folder, folder / "raw", folder / torchvision_name / "raw")
    candidates = [place / (name + ending) for place in places for ending in ("", ".gz")]
    return next((path for path in candidates if path.is_file()), None)


def _present(path: Path | None, name: str, folder: Path) -> Path:
    if path is None:
        raise UserError(
            f"there is no {name} or {name}.gz in {str(folder)!r}: put the four idx files there"
        )
    return path
