"""Datasets that are arrays already: scikit-learn's digits and .npz files."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from .image_set import ArraySet, ImageSet, numbered_classes

_SPLITS = ("train", "val", "test")


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


def read_npz(path: Path) -> dict[str, ImageSet]:
    """Return the splits of an .npz file.

    Args:
        path: A file with the arrays x_train and y_train, and x_val, y_val, x_test,
            y_test and classes, each if wanted.

    Raises:
        UserError: It is no such file, or its arrays do not fit.
    """
    arrays = _load(path)
    try:
        return _splits(arrays)
    except UserError as error:
        raise UserError(f"cannot use {str(path)!r}: {error}") from error


def _splits(arrays: dict[str, np.ndarray[Any, Any]]) -> dict[str, ImageSet]:
    found = [split for split in _SPLITS if f"x_{split}" in arrays]
    if not found:
        names = ", ".join(arrays) or "none"
        raise UserError(f"it has the arrays {names}: expected x_train and y_train")
    for split in found:
        if f"y_{split}" not in arrays:
            raise UserError(f"it has x_{split} but no y_{split}")
    if "classes" in arrays:
        classes = [str(name) for name in arrays["classes"].tolist()]
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


def _load(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    """Return all arrays of an .npz file by name."""
    try:
        with path.open("rb") as file:
            # numpy.load also opens .npy files and pickles, and says other things then.
            if not zipfile.is_zipfile(file):
                raise UserError(
                    f"{str(path)!r} is not an .npz file, or is cut short: expected what "
                    "numpy.savez writes"
                )
            file.seek(0)
            # A pickle could run any program.
            with np.load(file, allow_pickle=False) as archive:
                return {name: archive[name] for name in archive.files}
    except UserError:
        raise
    except (
        OSError,
        ValueError,
        EOFError,
        KeyError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise UserError(
            f"cannot read {str(path)!r} as an .npz file: {error}"
        ) from error
