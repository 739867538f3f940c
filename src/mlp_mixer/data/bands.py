"""How many channels the images of a folder or a list have: as many as the first file."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from ..images.planes import channels_of_npy
from ..images.tiff import bands_of

Files = TypeVar("Files")

_PICTURE = 3


def channels_of(root: Path, names: Iterable[str]) -> int:
    """Return the channels of images in files.

    Args:
        root: The folder that the names are relative to.
        names: Of the files.

    Returns:
        The bands of the first file that can be read: 3 of a picture, be it gray or RGB;
        another number of a TIFF or an .npy file that holds other bands.
    """
    for name in names:
        try:
            return _channels(os.path.join(root, name))  # noqa: PTH118
        # Whoever needs its pixels will say that it cannot be read.
        except (OSError, ValueError):
            continue
    return _PICTURE


def _channels(path: str) -> int:
    if path.lower().endswith(".npy"):
        bands = channels_of_npy(Path(path))
    else:
        with open(path, "rb") as file:  # noqa: PTH123 - a Path takes 20 microseconds
            bands = bands_of(file, repr(path)).number
    # Gray files are decoded to RGB, as all pictures are.
    return bands if bands > 1 else _PICTURE


def learnt_first(splits: Mapping[str, Sequence[Files]]) -> Iterator[Files]:
    """Yield the files of all splits, those to learn from first.

    Args:
        splits: The files of each split.
    """
    for split in sorted(splits, key=lambda split: split != "train"):
        yield from splits[split]
