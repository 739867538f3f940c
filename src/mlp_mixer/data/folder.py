"""A folder of images with one sub folder per class.

It is <class>/*, or train/<class>/* beside val/<class>/* and test/<class>/*.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
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
"""An image's path relative to the root, with forward slashes, and its class's name."""


def read_folder(path: Path) -> dict[str, ImageSet]:
    """Return the splits of a folder of images.

    Hidden files and files without an image's ending are passed over.

    Args:
        path: A folder with a sub folder per class, or with the splits.

    Raises:
        UserError: The folder is missing or empty, images lie outside of a class, a
            class is empty or has sub folders, there are fewer than two classes, or val
            or test has a class that train has not.
    """
    if not path.is_dir():
        raise UserError(
            f"there is no folder {str(path)!r}: expected one with a sub folder of "
            "images per class"
        )
    names = [entry.name for entry in _entries(path) if _is_folder(entry)]
    found: dict[str, list[LabelledFile]] = {}
    for name in names:
        split = SPLIT_NAMES.get(name.lower())
        if split is None:
            continue
        if split in found:
            raise UserError(
                f"{str(path)!r} has two folders for the split {split!r}: keep one of "
                "them"
            )
        found[split] = _files_of_split(path, f"{name}/")
    if not found:
        return labelled_files(path, {"train": _files_of_split(path, "")})
    if "train" not in found:
        raise UserError(
            f"{str(path)!r} has {' and '.join(found)} but no train: expected "
            "train/<class>/*"
        )
    return labelled_files(path, found)


def labelled_files(
    root: Path, found: Mapping[str, Sequence[LabelledFile]]
) -> dict[str, ImageSet]:
    """Return image sets of labelled files; the classes are those of train.

    Args:
        root: The folder that the files' paths are relative to.
        found: The files of each split; "train" is among them.

    Raises:
        UserError: There are fewer than two classes, or a split has a class that train
            has not.
    """
    classes = sorted({label for _, label in found["train"]}, key=natural)
    if len(classes) < 2:
        raise UserError(
            f"{str(root)!r} has {len(classes)} class(es) of training images: expected at "
            "least two"
        )
    number = {label: k for k, label in enumerate(classes)}
    splits: dict[str, ImageSet] = {}
    for split, files in found.items():
        unknown = {label for _, label in files} - number.keys()
        if unknown:
            raise UserError(
                f"{split} of {str(root)!r} has the class {min(unknown)!r}, which train "
                "does not have"
            )
        names = [name for name, _ in files]
        labels = [number[label] for _, label in files]
        splits[split] = FileSet(root, names, labels, classes)
    return splits


def is_image_name(name: str) -> bool:
    """Return whether a file has the ending of an image that can be decoded.

    Args:
        name: The file's name or path.
    """
    # A Path is slow for a million names.
    ending = os.path.splitext(name)[1]  # noqa: PTH122
    return ending.lower() in image_extensions()


def natural(label: str) -> tuple[bool, int, str]:
    """Return the key that sorts numbers by value and before names: 9 before 10.

    Args:
        label: The name of a class.
    """
    # Only ASCII digits: int() also reads others, and "³".isdigit() is true.
    if label.isascii() and label.isdigit():
        return False, int(label), label
    return True, 0, label


def _files_of_split(root: Path, prefix: str) -> list[LabelledFile]:
    """Return the images of root/prefix, which has a folder per class."""
    folder = root / prefix
    files: list[LabelledFile] = []
    for entry in _entries(folder):
        if _is_folder(entry):
            label = entry.name
            for name in _images_of_class(folder / label):
                files.append((f"{prefix}{label}/{name}", label))
        # A lost image is a mistake; a README beside the classes is none.
        elif is_image_name(entry.name):
            raise UserError(
                f"{entry.name!r} lies directly in {str(folder)!r}: put it into the "
                "folder of its class"
            )
    if not files:
        raise UserError(
            f"there are no images in {str(folder)!r}: expected a sub folder of images "
            "per class"
        )
    return files


def _images_of_class(folder: Path) -> list[str]:
    """Return the names of a class's images."""
    names = []
    for entry in _entries(folder):
        if _is_folder(entry):
            raise UserError(
                f"the class {str(folder)!r} has a sub folder {entry.name!r}: move its "
                "images up to the class"
            )
        if is_image_name(entry.name):
            names.append(entry.name)
    if not names:
        endings = ", ".join(sorted(image_extensions()))
        raise UserError(f"the class {str(folder)!r} has no images ({endings})")
    return names


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    # A link to itself.
    except OSError:
        return False


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """Return what is in a folder, by name, without what systems leave behind."""
    try:
        with os.scandir(folder) as entries:
            seen = list(entries)
    except OSError as error:
        raise UserError(
            f"cannot look into {str(folder)!r}: {error.strerror}"
        ) from error
    # The order of a folder differs between file systems; a split must not.
    seen.sort(key=lambda entry: entry.name)
    return [entry for entry in seen if not entry.name.startswith((".", "__MACOSX"))]
