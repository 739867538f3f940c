"""A folder of images, one sub folder per class: <class>/*, or train/<class>/* beside
val/ and test/.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ..errors import UserError
from ..images.decode import image_extensions
from .image_set import FileSet, ImageSet

SPLIT_NAMES = {
    "train": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}
"""What people call the splits, in lower case, and what we call them."""

LabelledFile = tuple[str, str]
"""An image's path relative to the root, with forward slashes, and the name of its
class.
"""


def read_folder(path: Path) -> dict[str, ImageSet]:
    """The splits of a folder; other files than images and hidden ones are passed over.

    Raises:
        UserError: the folder is missing or empty, images lie outside of a class, a
            class is empty or has sub folders, there are fewer than two classes, or val
            or test has a class that train has not.
    """
    if not path.is_dir():
        raise UserError(
            f"there is no folder {str(path)!r}: expected one with a sub folder of images per class"
        )
    names = [entry.name for entry in _entries(path) if _is_folder(entry)]
    if not any(name.lower() in SPLIT_NAMES for name in names):
        return labelled_files(path, {"train": _rows(path, "")})
    found: dict[str, list[LabelledFile]] = {}
    for name in names:
        split = SPLIT_NAMES.get(name.lower())
        if split in found:
            raise UserError(
                f"{str(path)!r} has two folders for the split {split!r}: keep one of them"
            )
        if split is not None:
            found[split] = _rows(path, f"{name}/")
    if "train" not in found:
        raise UserError(
            f"{str(path)!r} has {' and '.join(found)} but no train: expected train/<class>/*"
        )
    return labelled_files(path, found)


def labelled_files(
    root: Path, found: Mapping[str, Sequence[LabelledFile]]
) -> dict[str, ImageSet]:
    """Splits of files under `root`, with the classes of train in natural order;
    `UserError` if they do not fit.
    """
    classes = sorted({label for _, label in found["train"]}, key=_natural)
    if len(classes) < 2:
        raise UserError(
            f"{str(root)!r} has {len(classes)} class(es) of training images: expected at least two"
        )
    number = {label: k for k, label in enumerate(classes)}
    for split, rows in found.items():
        if strangers := sorted({label for _, label in rows} - number.keys()):
            raise UserError(
                f"{split} of {str(root)!r} has the class {strangers[0]!r}, which train does not have"
            )
    return {
        split: FileSet(
            root,
            [name for name, _ in rows],
            [number[label] for _, label in rows],
            classes,
        )
        for split, rows in found.items()
    }


def _natural(label: str) -> tuple[bool, int, str]:
    """Sort numbers by value and before names: 9 comes before 10."""
    is_number = label.isascii() and label.isdigit()
    return not is_number, int(label) if is_number else 0, label


def _rows(root: Path, prefix: str) -> list[LabelledFile]:
    """The images of root/prefix, which has a folder per class."""
    folder = root / prefix
    rows: list[LabelledFile] = []
    for entry in _entries(folder):
        if _is_folder(entry):
            files = _images_of_class(folder / entry.name)
            rows += [(f"{prefix}{entry.name}/{name}", entry.name) for name in files]
        elif _is_image(entry.name):
            raise UserError(
                f"{entry.name!r} lies directly in {str(folder)!r}: put it into the folder of its class"
            )
    if not rows:
        raise UserError(
            f"there are no images in {str(folder)!r}: expected a sub folder of images per class"
        )
    return rows


def _images_of_class(folder: Path) -> list[str]:
    names = []
    for entry in _entries(folder):
        if _is_folder(entry):
            raise UserError(
                f"the class {str(folder)!r} has a sub folder {entry.name!r}: move its images up to the class"
            )
        if _is_image(entry.name):
            names.append(entry.name)
    if not names:
        raise UserError(
            f"the class {str(folder)!r} has no images ({', '.join(sorted(image_extensions()))})"
        )
    return names


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in image_extensions()  # noqa: PTH122 - Path is slow for a million names


def _entries(folder: Path) -> Iterable[os.DirEntry[str]]:
    """What is in a folder, by name, without what systems leave behind."""
    try:
        with os.scandir(folder) as entries:
            seen = [
                entry
                for entry in entries
                if not entry.name.startswith((".", "__MACOSX"))
            ]
    except OSError as error:
        raise UserError(
            f"cannot look into {str(folder)!r}: {error.strerror}"
        ) from error
    return sorted(seen, key=lambda entry: entry.name)
