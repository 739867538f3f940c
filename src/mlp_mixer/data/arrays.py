"""Data sets that are arrays already: scikit-learn's digits and .npz files."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from .image_set import ArraySet, ImageSet


def read_digits(path: Path | None) -> dict[str, ImageSet]:
    """The 1797 handwritten digits of 8 x 8 pixels that come with scikit-learn; needs no
    download.
    """
    if path is not None:
        raise UserError(
            f"digits comes with scikit-learn and takes no path, got {str(path)!r}: write digits"
        )
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.round(digits.images * 255 / 16).astype(np.uint8)
    return {"train": ArraySet(images, digits.target, origin="digits")}


def read_npz(path: Path) -> dict[str, ImageSet]:
    """x_train, y_train and, if there, x_val, y_val, x_test, y_test and classes of an
    .npz file.
    """
    arrays = _load(path)
    try:
        if not {"x_train", "y_train"} <= arrays.keys():
            raise UserError(
                f"it has the arrays {', '.join(arrays) or 'none'}: expected x_train and y_train"
            )
        classes = _classes(arrays)
        splits = [split for split in ("train", "val", "test") if f"x_{split}" in arrays]
        if lonely := [split for split in splits if f"y_{split}" not in arrays]:
            raise UserError(f"it has x_{lonely[0]} but no y_{lonely[0]}")
        return {
            split: ArraySet(
                arrays[f"x_{split}"], arrays[f"y_{split}"], classes, origin=split
            )
            for split in splits
        }
    except UserError as error:
        raise UserError(f"cannot use {str(path)!r}: {error}") from error


def _load(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    try:
        with path.open("rb") as file:
            if not zipfile.is_zipfile(file):
                raise UserError(
                    f"{str(path)!r} is not an .npz file, or is cut short: expected what numpy.savez writes"
                )
            file.seek(0)
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


def _classes(arrays: dict[str, np.ndarray[Any, Any]]) -> list[str]:
    if "classes" in arrays:
        return [str(name) for name in arrays["classes"].tolist()]
    return [str(k) for k in range(int(np.max(arrays["y_train"], initial=0)) + 1)]
