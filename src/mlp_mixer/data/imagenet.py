"""Test sets for classifiers of ImageNet: V2, A, R, Sketch, C and ReaL.

Checkpoints are evaluated on them and never trained on them.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, final

from ..errors import UserError
from ..files import path_of, read_json
from ..images.decode import Pixels
from .folder import read_folder
from .image_set import FileSet, ImageSet, Indices
from .names import is_image_name

_WNID = re.compile(r"n\d{8}")
_VAL_IMAGE = re.compile(r"ILSVRC2012_val_(\d{8})")
_CLASSES = 1000
_PLACES = tuple(map(str, range(_CLASSES)))

# ImageNet-C is <group>/<corruption>/<severity>.
_MOST_LEVELS = 3


@dataclass(frozen=True)
class Protocol:
    """How the authors of a test set score a model.

    Attributes:
        name: Of the test set.
        among: Whether only the classes of the test set may be answered; the model's
            other outputs are left out then.
        numbered: Whether the classes are named by their places among ImageNet's 1000
            ("0" ... "999") instead of by WordNet ids.
        as_is: Whether a network takes the images as they are, if they have its size.
    """

    name: str
    among: bool = False
    numbered: bool = False
    as_is: bool = False


V2 = Protocol("imagenet_v2", numbered=True)  # Recht et al., arXiv 1902.10811
A = Protocol("imagenet_a", among=True)  # Hendrycks et al., arXiv 1907.07174
R = Protocol("imagenet_r", among=True)  # Hendrycks et al., arXiv 2006.16241
SKETCH = Protocol("imagenet_sketch")  # Wang et al., arXiv 1905.13549
C = Protocol("imagenet_c", as_is=True)  # Hendrycks & Dietterich, arXiv 1903.12261
REAL = Protocol("imagenet_real", numbered=True)  # Beyer et al., arXiv 2006.07159


@final
class Benchmark(ImageSet):
    """The images of a test set, with its protocol.

    Args:
        images: The images.
        protocol: How a model is scored on them.
        label_sets: The right answers of each image in the numbering of `classes`, where
            there are several; `labels` holds the first of each.
    """

    def __init__(
        self,
        images: ImageSet,
        protocol: Protocol,
        label_sets: Sequence[Sequence[int]] | None = None,
    ) -> None:
        super().__init__(images.labels, images.classes, images.channels, images.size)
        self.protocol = protocol
        self.label_sets: tuple[tuple[int, ...], ...] | None = None
        if label_sets is not None:
            self.label_sets = tuple(tuple(answers) for answers in label_sets)
        self._images = images

    def image(self, index: int) -> Pixels:
        """Return an image; see `ImageSet`."""
        return self._images.image(index)

    def key(self, index: int) -> int:
        """Return the identity of an image; see `ImageSet`."""
        return self._images.key(index)

    def name(self, index: int) -> str:
        """Return the name of an image; see `ImageSet`."""
        return self._images.name(index)

    def subset(self, indices: Indices) -> Benchmark:
        """Return some of the images with the same protocol; see `ImageSet`."""
        chosen = None
        if self.label_sets is not None:
            chosen = [self.label_sets[index] for index in indices]
        return Benchmark(self._images.subset(indices), self.protocol, chosen)


@final
class _NotForTraining(ImageSet):
    """Stand in for the training split of a test set, and refuse every use."""

    def __init__(self, test: Benchmark) -> None:
        # The parent's constructor would set the labels, which are refused below.
        self.classes = test.classes
        self.channels = test.channels
        self.size = test.size
        self._of = test.protocol.name

    def __len__(self) -> int:
        # A dataset without training images counts as empty; this one is not.
        return 1

    def _refuse(self, *_: object) -> NoReturn:
        raise UserError(
            f"{self._of} is a test set without images to learn from; imagenet:PATH has "
            "them"
        )

    image: Any = _refuse
    key: Any = _refuse
    name: Any = _refuse
    subset: Any = _refuse
    labels: Any = property(_refuse)


def _splits(test: Benchmark) -> dict[str, ImageSet]:
    return {"train": _NotForTraining(test), "test": test}


def _read(protocol: Protocol, path: Path) -> dict[str, ImageSet]:
    """Return the test set in path/<class>/*.

    Raises:
        UserError: A folder does not have the name of a class of ImageNet.
    """
    splits = read_folder(path)
    classes = splits["train"].classes if "train" in splits else ()
    if protocol.numbered:
        wanted = "0/* ... 999/*"
        good = bool(classes) and all(name in _PLACES for name in classes)
    else:
        wanted = "<WordNet id>/*, such as n01440764/*,"
        good = bool(classes) and all(_WNID.fullmatch(name) for name in classes)
    # ImageNet itself has train and val, and must not be taken for a test set.
    if len(splits) > 1 or not good:
        raise UserError(
            f"{protocol.name} expects {wanted} in {str(path)!r}, and nothing else"
        )
    return _splits(Benchmark(splits["train"], protocol))


read_v2 = functools.partial(_read, V2)
read_a = functools.partial(_read, A)
read_r = functools.partial(_read, R)
read_sketch = functools.partial(_read, SKETCH)


def read_c(path: Path) -> dict[str, ImageSet]:
    """Return ImageNet-C at one severity of one corruption.

    Args:
        path: The folder of the severity, with <WordNet id>/*.

    Raises:
        UserError: The folder has several severities, or other classes.
    """
    found = _conditions(path)
    if found and found != [path]:
        raise UserError(
            f"{str(path)!r} holds {len(found)} conditions: open them one by one, as "
            f"{str(found[0])!r}"
        )
    return _read(C, path)


def conditions(spec: str) -> list[str]:
    """Return the specs that a spec is evaluated as, one by one.

    Args:
        spec: Of any dataset.

    Returns:
        Each <corruption>/<severity> below PATH for `imagenet_c:PATH`, else the spec.
    """
    name, _, path = spec.partition(":")
    if name != C.name or not path:
        return [spec]
    found = _conditions(path_of(path))
    return [f"{C.name}:{folder}" for folder in found] or [spec]


def _conditions(root: Path) -> list[Path]:
    """Return the folders that hold folders of classes, sorted by name."""
    found = []
    for folder, below, _ in os.walk(root, followlinks=True):
        # os.walk goes where `below` says, in its order; links may lead in a circle.
        below.sort()
        depth = len(Path(folder).relative_to(root).parts)
        has_classes = any(_WNID.fullmatch(name) for name in below)
        if has_classes:
            found.append(Path(folder))
        if has_classes or depth == _MOST_LEVELS:
            below.clear()
    return found


def read_real(path: Path) -> dict[str, ImageSet]:
    """Return ImageNet's validation images with the labels of ReaL.

    Images without a label of ReaL are left out, as its authors do.

    Args:
        path: `VALFOLDER,REAL.json`, or the folder alone with real.json inside or beside
            it. The images have names such as ILSVRC2012_val_00000001.JPEG, and lie flat
            or in folders of classes: the number is the place in real.json.

    Raises:
        UserError: The labels or the images are missing, or do not fit.
    """
    folder, file = _real_places(path)
    answers = _read_answers(file)
    numbered = _val_images(folder)
    for number, name in numbered.items():
        if not 1 <= number <= len(answers):
            raise UserError(
                f"{str(file)!r} has labels for {len(answers)} images, and none for "
                f"{name!r}"
            )
    chosen = [number for number in sorted(numbered) if answers[number - 1]]
    if not chosen:
        raise UserError(
            f"{str(folder)!r} has no labelled images such as "
            "ILSVRC2012_val_00000002.JPEG, flat or in folders"
        )
    names = [numbered[number] for number in chosen]
    label_sets = [answers[number - 1] for number in chosen]
    labels = [answers_of_one[0] for answers_of_one in label_sets]
    files = FileSet(folder, names, labels, _PLACES)
    return _splits(Benchmark(files, REAL, label_sets))


def _real_places(path: Path) -> tuple[Path, Path]:
    """Return the folder of the images and the file of the labels."""
    # A folder may have a comma in its name.
    if not path.is_dir() and "," in str(path):
        folder, file = str(path).rsplit(",", 1)
        return path_of(folder), path_of(file)
    inside = path / "real.json"
    if inside.is_file():
        return path, inside
    return path, path.parent / "real.json"


def _val_images(folder: Path) -> dict[int, str]:
    """Return the names of the validation images by their numbers."""
    numbered: dict[int, str] = {}
    for pattern in ("ILSVRC2012_val_*", "*/ILSVRC2012_val_*"):
        for image in folder.glob(pattern):
            match = _VAL_IMAGE.fullmatch(image.stem)
            # The archive of bounding boxes has .xml files of the same names.
            if match and is_image_name(image.name):
                numbered[int(match[1])] = image.relative_to(folder).as_posix()
    return numbered


def _read_answers(file: Path) -> list[list[int]]:
    """Return the right answers of each validation image, in the order of the numbers."""
    advice = (
        "write imagenet_real:VALFOLDER,REAL.json "
        "(github.com/google-research/reassessed-imagenet)"
    )
    answers = read_json(file, "labels of ReaL", advice)
    legal = isinstance(answers, list) and all(map(_are_classes, answers))
    if not legal:
        raise UserError(
            f"{str(file)!r} does not hold the labels of ReaL: expected a list of classes "
            "0 to 999 per image"
        )
    return answers


def _are_classes(answers: Any) -> bool:
    """Whether a value is a list of classes; `type`, as True is an int too."""
    if not isinstance(answers, list):
        return False
    return all(type(k) is int and 0 <= k < _CLASSES for k in answers)
