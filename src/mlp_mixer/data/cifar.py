"""CIFAR-10 and CIFAR-100 (https://www.cs.toronto.edu/~kriz/cifar.html) in their binary,
Python and image layouts.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from .folder import read_folder
from .image_set import ArraySet, ImageSet
from .pickles import read_pickle
from .sheets import has_sheets, read_sheets
from .torchvision_sets import download_folder

_PIXELS = 3 * 32 * 32


@dataclass(frozen=True)
class Cifar:
    """One of the two sets.

    Args:
        spec: its name among the sources.
        torchvision_name: the class that downloads it.
        subfolders: that the official archives unpack to, (binary, Python).
        train, test: the files' names without ending.
        label_key: of the labels in the Python layout.
        label_bytes: before the pixels of a binary record; the last one is the label.
        classes: the names in the official order.
    """

    spec: str
    torchvision_name: str
    subfolders: tuple[str, str]
    train: tuple[str, ...]
    test: str
    label_key: bytes
    label_bytes: int
    classes: tuple[str, ...]

    def __call__(self, path: Path | None) -> dict[str, ImageSet]:
        """Read whichever layout is in `path`, or download."""
        folder = path or download_folder(
            self.torchvision_name, self._is_in, f"{self.spec}:PATH"
        )
        if binary := self._find(folder, self.subfolders[0], f"{self.test}.bin"):
            return self._splits(binary, ".bin", self._read_binary)
        if python := self._find(folder, self.subfolders[1], self.test):
            return self._splits(python, "", self._read_python)
        if has_sheets(folder):
            return read_sheets(folder, self.classes)
        if (folder / "train").is_dir():
            return self._read_images(folder)
        raise UserError(
            f"there is no {self.spec} in {str(folder)!r}: expected {self.test}.bin (binary layout), {self.test} "
            "(Python layout) or train/<class>/*.png"
        )

    def _is_in(self, folder: Path) -> bool:
        return self._find(folder, self.subfolders[1], self.test) is not None

    def _find(self, folder: Path, subfolder: str, name: str) -> Path | None:
        return next(
            (
                place
                for place in (folder, folder / subfolder)
                if (place / name).is_file()
            ),
            None,
        )

    def _splits(self, folder: Path, ending: str, read: Any) -> dict[str, ImageSet]:
        splits: dict[str, ImageSet] = {}
        for split, stems in (("train", self.train), ("test", (self.test,))):
            parts = [read(folder / (stem + ending)) for stem in stems]
            planes, labels = (
                np.concatenate(arrays) for arrays in zip(*parts, strict=True)
            )
            images = np.ascontiguousarray(
                planes.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
            )
            splits[split] = ArraySet(images, labels, self.classes, origin=split)
        return splits

    def _read_binary(self, path: Path) -> tuple[Any, Any]:
        """Pixels (N, 3072) and labels (N,) of one .bin file."""
        record = self.label_bytes + _PIXELS
        try:
            data = np.fromfile(path, dtype=np.uint8)
        except OSError as error:
            raise UserError(
                f"cannot read {str(path)!r}: {error.strerror}; unpack the whole archive"
            ) from error
        if len(data) == 0 or len(data) % record:
            raise UserError(
                f"{str(path)!r} has {len(data)} bytes: expected a multiple of {record}; download it again"
            )
        records = data.reshape(-1, record)
        return records[:, self.label_bytes :], self._checked(
            records[:, self.label_bytes - 1], path
        )

    def _read_python(self, path: Path) -> tuple[Any, Any]:
        """Pixels (N, 3072) and labels (N,) of one pickled file."""
        batch = read_pickle(path)
        try:
            pixels = batch[b"data"]
            labels = np.array(batch[self.label_key], dtype=np.int64)
            fits = pixels.dtype == np.uint8 and pixels.shape == (len(labels), _PIXELS)
        except (
            KeyError,
            TypeError,
            ValueError,
            AttributeError,
            OverflowError,
        ) as error:
            raise UserError(
                f"{str(path)!r} is not a batch of {self.spec}; download it again"
            ) from error
        if not fits:
            raise UserError(
                f"{str(path)!r} has other than {_PIXELS} uint8 values per label; download it again"
            )
        return pixels, self._checked(labels, path)

    def _checked(self, labels: Any, path: Path) -> Any:
        if labels.size and not 0 <= labels.min() <= labels.max() < len(self.classes):
            raise UserError(
                f"{str(path)!r} has the label {labels.max()}: {self.spec} has {len(self.classes)} classes; "
                "download it again"
            )
        return labels

    def _read_images(self, folder: Path) -> dict[str, ImageSet]:
        splits = read_folder(folder)
        found = splits["train"].classes
        if found != tuple(sorted(self.classes)):
            raise UserError(
                f"{str(folder)!r} has {len(found)} classes of other names than {self.spec}: use folder:PATH"
            )
        return splits


CIFAR10 = Cifar(
    "cifar10",
    "CIFAR10",
    ("cifar-10-batches-bin", "cifar-10-batches-py"),
    ("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5"),
    "test_batch",
    b"labels",
    1,
    (
        "airplane",
        "automobile",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    ),
)

_CIFAR100_CLASSES = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can
castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin
elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard
lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear
pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark
shrew skunk skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone
television tiger tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm
"""

# The official order of both is alphabetical, as is that of folders.
CIFAR100 = Cifar(
    "cifar100",
    "CIFAR100",
    ("cifar-100-binary", "cifar-100-python"),
    ("train",),
    "test",
    b"fine_labels",
    2,
    tuple(_CIFAR100_CLASSES.split()),
)
