"""Contact sheets: <split>/<class>/sheet_NN.webp, each 10 x 10 tiles of 32 x 32 pixels,
row by row.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from ..images.decode import decode_image
from .image_set import ArraySet, ImageSet

_SIDE = 32
_TILES = 10


def has_sheets(folder: Path) -> bool:
    """Whether the classes of folder/train consist of contact sheets."""
    return any(folder.glob("train/*/sheet_*.webp"))


def read_sheets(folder: Path, classes: Sequence[str]) -> dict[str, ImageSet]:
    """The train and test split, class after class, or in the order of
    <split>_labels.txt where that file is there.
    """
    return {split: _read_split(folder, split, classes) for split in ("train", "test")}


def _read_split(folder: Path, split: str, classes: Sequence[str]) -> ImageSet:
    sheets = [sorted((folder / split / name).glob("sheet_*.webp")) for name in classes]
    for name, found in zip(classes, sheets, strict=True):
        if not found:
            raise UserError(
                f"there is no sheet_*.webp in {str(folder / split / name)!r}: every class needs one"
            )
    with ThreadPoolExecutor(
        max_workers=4
    ) as pool:  # Pillow lets go of the interpreter lock while it decodes
        images = np.concatenate(
            list(pool.map(_cut, [path for found in sheets for path in found]))
        )
    labels = np.repeat(
        np.arange(len(classes)), [len(found) * _TILES**2 for found in sheets]
    )
    order = folder / f"{split}_labels.txt"
    if order.is_file():
        images, labels = _reordered(images, labels, order)
    return ArraySet(images, labels, classes, origin=split)


def _cut(path: Path) -> np.ndarray[Any, Any]:
    """One sheet as its tiles, uint8 (100, 32, 32, 3)."""
    sheet = decode_image(path)
    whole = _SIDE * _TILES
    if sheet.shape[:2] != (whole, whole):
        raise UserError(
            f"{str(path)!r} is {sheet.shape[1]} x {sheet.shape[0]}: expected a sheet of {whole} x {whole}"
        )
    tiles = sheet.reshape(_TILES, _SIDE, _TILES, _SIDE, 3).swapaxes(1, 2)
    return tiles.reshape(_TILES**2, _SIDE, _SIDE, 3)


def _reordered(images: Any, labels: Any, order: Path) -> tuple[Any, Any]:
    """Deal the images of each class, in their order, to the places that the label file
    gives to that class.
    """
    try:
        wanted = np.array(order.read_text().split(), dtype=np.int64)
    except ValueError as error:
        raise UserError(
            f"{str(order)!r} holds more than class numbers: {error}"
        ) from error
    if not np.array_equal(np.sort(wanted), labels):
        raise UserError(
            f"{str(order)!r} does not list every image: expected {len(labels)} class numbers like the sheets'"
        )
    dealt = np.empty_like(images)
    dealt[np.argsort(wanted, kind="stable")] = images
    return dealt, wanted
