"""CIFAR-10 and CIFAR-100 in their binary, Python and image layouts.

The layouts are described at https://www.cs.toronto.edu/~kriz/cifar.html.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from .folder import read_folder
from .image_set import ArraySet, ImageSet
from .official_files import find_file, read_file
from .pickles import read_arrays
from .torchvision_sets import download_folder

_PIXELS = 3 * 32 * 32

Rows = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]
"""Pixels (N, 3072), the red plane first, and labels (N,) of one file."""


@dataclass(frozen=True)
class Cifar:
    """One of the two datasets.

    torchvision reads the Python layout as well, but demands the official MD5 sums, and
    its errors do not say what to do.

    Attributes:
        spec: Its name among the datasets.
        torchvision_name: The class that downloads it.
        binary_folder: The folder that the official binary archive unpacks to.
        python_folder: The folder that the official Python archive unpacks to.
        train: The names of the training files without their endings.
        test: The name of the test file without its ending.
        label_key: The key of the labels in the Python layout.
        label_bytes: How many bytes stand before the pixels of a binary record; the last
            one is the label.
        classes: The names in the official order.
    """

    spec: str
    torchvision_name: str
    binary_folder: str
    python_folder: str
    train: tuple[str, ...]
    test: str
    label_key: str
    label_bytes: int
    classes: tuple[str, ...]

    def __call__(self, path: Path | None) -> dict[str, ImageSet]:
        """Read whichever layout is in a folder, or download the Python layout.

        Args:
            path: The folder, or the one above; None for the cache.

        Returns:
            The splits "train" and "test".

        Raises:
            UserError: The download fails, or no layout is complete and sound.
        """
        folder = path or download_folder(
            self.torchvision_name, self._is_in, f"{self.spec}:PATH"
        )
        binary = find_file(folder, ("", self.binary_folder), [f"{self.test}.bin"])
        if binary is not None:
            return self._splits(binary.parent, ".bin", self._read_binary)
        python = self._python_file(folder)
        if python is not None:
            return self._splits(python.parent, "", self._read_python)
        if (folder / "train").is_dir():
            return self._read_images(folder)
        raise UserError(
            f"there is no {self.spec} in {str(folder)!r}: expected {self.test}.bin "
            f"(binary layout), {self.test} (Python layout) or train/<class>/*.png"
        )

    def _python_file(self, folder: Path) -> Path | None:
        return find_file(folder, ("", self.python_folder), [self.test])

    def _is_in(self, folder: Path) -> bool:
        return self._python_file(folder) is not None

    def _splits(
        self, folder: Path, ending: str, read: Callable[[Path], Rows]
    ) -> dict[str, ImageSet]:
        """Read the files of both splits."""
        splits: dict[str, ImageSet] = {}
        for split, stems in (("train", self.train), ("test", (self.test,))):
            parts = [read(folder / f"{stem}{ending}") for stem in stems]
            planes = np.concatenate([pixels for pixels, _ in parts])
            labels = np.concatenate([labels for _, labels in parts])
            # The files hold three planes of colour, an image set holds pixels.
            images = planes.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
            images = np.ascontiguousarray(images)
            splits[split] = ArraySet(images, labels, self.classes, origin=split)
        return splits

    def _read_binary(self, path: Path) -> Rows:
        """Read one .bin file: records of labels and pixels, nothing else."""
        data = np.frombuffer(read_file(path), dtype=np.uint8)
        record = self.label_bytes + _PIXELS
        if len(data) == 0 or len(data) % record:
            raise UserError(
                f"{str(path)!r} has {len(data)} bytes: expected a multiple of {record}; "
                "download it again"
            )
        records = data.reshape(-1, record)
        labels = records[:, self.label_bytes - 1]
        self._check(labels, path)
        return records[:, self.label_bytes :], labels

    def _read_python(self, path: Path) -> Rows:
        """Read one pickled file."""
        pixels, labels = read_arrays(path, ["data", self.label_key])
        if pixels.dtype != np.uint8 or pixels.shape != (len(labels), _PIXELS):
            raise UserError(
                f"{str(path)!r} has pixels of {pixels.dtype} {pixels.shape}: expected "
                f"uint8 ({len(labels)}, {_PIXELS}); download it again"
            )
        self._check(labels, path)
        return pixels, labels

    def _check(self, labels: np.ndarray[Any, Any], path: Path) -> None:
        """Refuse labels beyond the classes, naming the file they are in."""
        wrong = labels[(labels < 0) | (labels >= len(self.classes))]
        if wrong.size:
            raise UserError(
                f"{str(path)!r} has the label {wrong[0]}: {self.spec} has "
                f"{len(self.classes)} classes; download it again"
            )

    def _read_images(self, folder: Path) -> dict[str, ImageSet]:
        """Read train/<class>/* and test/<class>/*."""
        splits = read_folder(folder)
        found = splits["train"].classes if "train" in splits else ()
        # Folders are sorted by name; so are the official classes of both datasets.
        if found != tuple(sorted(self.classes)):
            raise UserError(
                f"{str(folder)!r} has {len(found)} classes of other names than "
                f"{self.spec}: use folder:PATH"
            )
        return splits


# The official order of both datasets is alphabetical, as is the order of folders.
_CIFAR10_CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer",
    "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip

CIFAR10 = Cifar(
    spec="cifar10",
    torchvision_name="CIFAR10",
    binary_folder="cifar-10-batches-bin",
    python_folder="cifar-10-batches-py",
    train=tuple(f"data_batch_{number}" for number in range(1, 6)),
    test="test_batch",
    label_key="labels",
    label_bytes=1,
    classes=_CIFAR10_CLASSES,
)

_CIFAR100_CLASSES = """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle
    bowl boy bridge bus butterfly camel can castle caterpillar cattle
    chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur
    dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard
    lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle mountain
    mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree
    plain plate poppy porcupine possum rabbit raccoon ray road rocket
    rose sea seal shark shrew skunk skyscraper snail snake spider
    squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor
    train trout tulip turtle wardrobe whale willow_tree wolf woman worm
"""

CIFAR100 = Cifar(
    spec="cifar100",
    torchvision_name="CIFAR100",
    binary_folder="cifar-100-binary",
    python_folder="cifar-100-python",
    train=("train",),
    test="test",
    label_key="fine_labels",
    label_bytes=2,
    classes=tuple(_CIFAR100_CLASSES.split()),
)
