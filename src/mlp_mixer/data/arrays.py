"""Datasets that are arrays already: scikit-learn's digits and .npz files."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError, listed
from ..untrusted.arrays import read_npy
from ..untrusted.sizes import check_unpacked, opened
from ..untrusted.zips import UNREADABLE, claimed_bytes, open_zip
from .class_numbers import numbered_classes
from .image_set import ArraySet, ImageSet

_SPLITS = ("train", "val", "test")
_ARRAYS = (*(f"{kind}_{split}" for split in _SPLITS for kind in "xy"), "classes")
_MOST_NAMES = 12  # in a message


def read_digits(path: Path | None) -> dict[str, ImageSet]:
    """Return the 1797 digits that come with scikit-learn, uint8 8 x 8; no download.

    Args:
        path: None; the digits have no place.

    Raises:
        UserError: A path was given.
    """
    if path is not None:
        raise UserError(
            f"digits comes with scikit-learn and takes no path, got {str(path)!r}: "
            "write digits"
        )
    from sklearn.datasets import load_digits

    digits = load_digits()
    # Its pixels are 0 ... 16; an image set has 0 ... 255.
    images = np.round(digits.images * 255 / 16).astype(np.uint8)
    return {"train": ArraySet(images, digits.target, origin="digits")}


def _splits(
    arrays: Mapping[str, NDArray[Any]], given: Sequence[str]
) -> dict[str, ImageSet]:
    found = [split for split in _SPLITS if f"x_{split}" in arrays]
    if not found:
        names = listed(given, _MOST_NAMES, ", ") or "(none)"
        raise UserError(f"it has the arrays {names}: expected x_train and y_train")
    for split in found:
        if f"y_{split}" not in arrays:
            raise UserError(f"it has x_{split} but no y_{split}")
    if "classes" in arrays:
        classes = _class_names(arrays["classes"])
    else:
        teachers = found[:1] if "train" in found else found
        classes = numbered_classes(
            np.concatenate([np.ravel(arrays[f"y_{split}"]) for split in teachers])
        )
    splits: dict[str, ImageSet] = {}
    for split in found:
        images = arrays[f"x_{split}"]
        labels = arrays[f"y_{split}"]
        splits[split] = ArraySet(images, labels, classes, origin=split)
    return splits


def _class_names(names: NDArray[Any]) -> list[str]:
    if names.ndim != 1:
        raise UserError(
            f"its classes are {names.dtype} {names.shape}: expected a list of names"
        )
    return [str(name) for name in names.tolist()]


def read_npz(path: Path) -> dict[str, ImageSet]:
    """Return the splits of an .npz file.

    Args:
        path: A file with the arrays x_train and y_train, and x_val, y_val, x_test,
            y_test and classes, each if wanted.

    Raises:
        UserError: It is no such file, it claims other sizes than it has, or its arrays
            do not fit.
    """
    arrays, names = _load(path)
    try:
        return _splits(arrays, names)
    except UserError as error:
        raise UserError(f"cannot use {str(path)!r}: {error}") from error


def _load(path: Path) -> tuple[dict[str, NDArray[Any]], list[str]]:
    """Return the arrays of an .npz file that a dataset has, and the names of all."""
    try:
        with opened(path) as (file, size):
            # The archive's own error does not say what else the file is.
            if not zipfile.is_zipfile(file):
                raise UserError(
                    f"{str(path)!r} is not an .npz file, or is cut short: expected what "
                    "numpy.savez writes"
                )
            archive = open_zip(file)
            members = {}
            for member in archive.infolist():
                members[member.filename.removesuffix(".npy")] = member
            # What is not read costs nothing, but a file that lies is not believed.
            claimed = claimed_bytes(members.values())
            check_unpacked(claimed, size)
            arrays = {}
            for name in _ARRAYS:
                if name in members:
                    arrays[name] = _array(archive, members[name])
            return arrays, list(members)
    except UserError:
        raise
    except (*UNREADABLE, MemoryError) as error:
        raise UserError(
            f"cannot read {str(path)!r} as an .npz file: {error}"
        ) from error


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> NDArray[Any]:
    try:
        with archive.open(member) as file:
            return read_npy(cast("BinaryIO", file), member.file_size)
    except UNREADABLE as error:
        raise ValueError(f"{member.filename[:80]!r}: {error}") from error
