"""Test sets for classifiers of ImageNet: V2, A, R, Sketch, C and ReaL. They judge, and
nothing learns from them.
"""

from __future__ import annotations

import functools
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, final

from ..errors import UserError
from ..images.decode import Pixels, image_extensions
from .folder import read_folder
from .image_set import FileSet, ImageSet, Indices

_WNID = re.compile(r"n\d{8}")
_VAL_IMAGE = re.compile(r"ILSVRC2012_val_(\d{8})")
_CLASSES = 1000
_PLACES = tuple(map(str, range(_CLASSES)))


@dataclass(frozen=True)
class Protocol:
    """How the authors of a test set score a model.

    Args:
        name: of the source.
        among: only the classes of the data may be answered; the model's other outputs
            are left out.
        numbered: the classes are named by their places among ImageNet's 1000 ("0" ...
            "999"), not by WordNet ids.
    """

    name: str
    among: bool = False
    numbered: bool = False


V2 = Protocol("imagenet_v2", numbered=True)  # Recht et al., arXiv 1902.10811
A = Protocol("imagenet_a", among=True)  # Hendrycks et al., arXiv 1907.07174
R = Protocol("imagenet_r", among=True)  # Hendrycks et al., arXiv 2006.16241
SKETCH = Protocol("imagenet_sketch")  # Wang et al., arXiv 1905.13549
C = Protocol("imagenet_c")  # Hendrycks & Dietterich, arXiv 1903.12261
REAL = Protocol("imagenet_real", numbered=True)  # Beyer et al., arXiv 2006.07159


@final
class Benchmark(ImageSet):
    """The images of a test set, with its protocol.

    label_sets: the right answers of each image in the numbering of `classes`, where
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
        self.label_sets = None if label_sets is None else tuple(map(tuple, label_sets))
        self._images = images

    def image(self, index: int) -> Pixels:
        return self._images.image(index)

    def name(self, index: int) -> str:
        return self._images.name(index)

    def subset(self, indices: Indices) -> Benchmark:
        chosen = (
            None
            if self.label_sets is None
            else [self.label_sets[index] for index in indices]
        )
        return Benchmark(self._images.subset(indices), self.protocol, chosen)


@final
class _NotForTraining(ImageSet):
    """Stands where a source keeps its images to learn from, and says that there are
    none.
    """

    def __init__(self, test: Benchmark) -> None:
        self.classes = test.classes
        self.channels = test.channels
        self.size = test.size
        self._of = test.protocol.name

    def __len__(self) -> int:
        return 1  # a source is not empty because it only judges

    def _refuse(self, *_: object) -> NoReturn:
        raise UserError(
            f"{self._of} is a test set without images to learn from; imagenet:PATH has these"
        )

    image: Any = _refuse
    name: Any = _refuse
    subset: Any = _refuse
    labels: Any = property(_refuse)


def _splits(test: Benchmark) -> dict[str, ImageSet]:
    return {"train": _NotForTraining(test), "test": test}


def _read(protocol: Protocol, path: Path) -> dict[str, ImageSet]:
    """The test set in path/<class>/*; `UserError` if a folder is not named after a
    class of ImageNet.
    """
    found = read_folder(path)
    for name in found["train"].classes:
        good = name in _PLACES if protocol.numbered else _WNID.fullmatch(name)
        if len(found) > 1 or not good:
            wanted = (
                "0/* ... 999/*"
                if protocol.numbered
                else "<WordNet id>/*, such as n01440764/*,"
            )
            raise UserError(
                f"{protocol.name} expects {wanted} in {str(path)!r}, and nothing else"
            )
    return _splits(Benchmark(found["train"], protocol))


read_v2, read_a, read_r, read_sketch = (
    functools.partial(_read, protocol) for protocol in (V2, A, R, SKETCH)
)


def read_c(path: Path) -> dict[str, ImageSet]:
    """One corruption at one severity, path/<WordNet id>/*; `UserError` for a folder of
    several.
    """
    if (found := _conditions(path)) and found != [path]:
        raise UserError(
            f"{str(path)!r} holds {len(found)} conditions: open them one by one, as {str(found[0])!r}"
        )
    return _read(C, path)


def conditions(spec: str) -> list[str]:
    """The specs to evaluate one by one: of `imagenet_c:PATH` each
    <corruption>/<severity> below PATH, else itself.
    """
    name, _, path = spec.partition(":")
    found = _conditions(Path(path).expanduser()) if name == C.name and path else []
    return [f"{C.name}:{folder}" for folder in found] or [spec]


def _conditions(root: Path) -> list[Path]:
    """The folders that hold folders of classes, by name: `root`, or what is up to three
    folders below.
    """
    found = []
    for folder, below, _ in os.walk(root, followlinks=True):
        below.sort()
        if any(map(_WNID.fullmatch, below)):
            found.append(Path(folder))
            below.clear()
        elif (
            len(Path(folder).relative_to(root).parts) == 3
        ):  # group/corruption/severity; links may lead in a circle
            below.clear()
    return found


def read_real(path: Path) -> dict[str, ImageSet]:
    """ImageNet's validation images with ReaL's labels; those to which its raters gave
    none are left out.

    path: `VALFOLDER,REAL.json`, or the folder alone with real.json inside or beside it.
        The images are called
    ILSVRC2012_val_00000001.JPEG and so on, flat or in folders of classes: the number is
    the place in real.json.
    """
    folder = path
    file = path / "real.json"
    if not path.is_dir() and "," in str(path):
        folder, file = (Path(part).expanduser() for part in str(path).rsplit(",", 1))
    elif not file.is_file():
        file = path.parent / "real.json"
    answers = _read_answers(file)
    numbered: dict[int, str] = {}
    for image in (*folder.glob("ILSVRC2012_val_*"), *folder.glob("*/ILSVRC2012_val_*")):
        match = _VAL_IMAGE.fullmatch(image.stem)
        if match and image.suffix.lower() in image_extensions():
            number = int(match[1])
            name = image.relative_to(folder).as_posix()
            if not 1 <= number <= len(answers):
                raise UserError(
                    f"{str(file)!r} has labels for {len(answers)} images, and none for {name!r}"
                )
            numbered[number] = name
    chosen = [number for number in sorted(numbered) if answers[number - 1]]
    if not chosen:
        raise UserError(
            f"{str(folder)!r} has no labelled images such as ILSVRC2012_val_00000002.JPEG, flat or in folders"
        )
    label_sets = [answers[number - 1] for number in chosen]
    names = [numbered[number] for number in chosen]
    labels = [own[0] for own in label_sets]
    files = FileSet(folder, names, labels, _PLACES)
    return _splits(Benchmark(files, REAL, label_sets))


def _read_answers(file: Path) -> list[list[int]]:
    try:
        answers = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        hint = "write imagenet_real:VALFOLDER,REAL.json (github.com/google-research/reassessed-imagenet)"
        raise UserError(
            f"cannot read ReaL's labels from {str(file)!r} ({error}); {hint}"
        ) from error
    legal = isinstance(answers, list) and all(
        isinstance(own, list) and all(type(k) is int and 0 <= k < _CLASSES for k in own)
        for own in answers
    )
    if not legal:
        raise UserError(
            f"{str(file)!r} does not hold ReaL's labels: expected a list of classes 0 to 999 per image"
        )
    return answers
