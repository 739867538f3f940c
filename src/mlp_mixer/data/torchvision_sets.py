"""Datasets that torchvision downloads.

torchvision is imported only here and only when asked for: an installation that does not
fit torch harms nobody else.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from ..files import cache_folder, make_folder
from .image_set import ArraySet, FileSet, ImageSet

_STL10_CLASSES = (
    "airplane", "bird", "car", "cat", "deer",
    "dog", "horse", "monkey", "ship", "truck",
)  # fmt: skip


def download_folder(name: str, is_in: Callable[[Path], bool], alternative: str) -> Path:
    """Return the cache folder that holds a dataset, after downloading it if needed.

    Args:
        name: The class of torchvision that downloads it.
        is_in: Says whether a folder holds it already.
        alternative: What a user can write instead, for errors.

    Raises:
        UserError: The download fails.
    """
    root = cache_folder("data")
    if not is_in(root):
        _construct(name, alternative, make_folder(root), download=True)
    return root


def read_svhn(path: Path | None) -> dict[str, ImageSet]:
    """Return Street View House Numbers, digits of 32 x 32: 73,257 + 26,032.

    Args:
        path: The folder; None to download.

    Raises:
        UserError: torchvision cannot open it.
    """
    classes = tuple("0123456789")
    return {
        "train": _planes("SVHN", path, "train", classes),
        "test": _planes("SVHN", path, "test", classes),
    }


def read_stl10(path: Path | None) -> dict[str, ImageSet]:
    """Return STL-10, 96 x 96: 5,000 + 8,000 labelled images.

    Args:
        path: The folder; None to download.

    Raises:
        UserError: torchvision cannot open it.
    """
    return {
        "train": _planes("STL10", path, "train", _STL10_CLASSES),
        "test": _planes("STL10", path, "test", _STL10_CLASSES),
    }


def read_flowers102(path: Path | None) -> dict[str, ImageSet]:
    """Return Oxford Flowers-102, photos: 1,020 + 1,020 (validation) + 6,149.

    The classes are "1" ... "102", as in the authors' files.

    Args:
        path: The folder; None to download.

    Raises:
        UserError: torchvision cannot open it.
    """
    classes = [str(number) for number in range(1, 103)]
    splits: dict[str, ImageSet] = {}
    for split in ("train", "val", "test"):
        opened = _open("Flowers102", "flowers102", path, split)
        splits[split] = _files(opened, opened._image_files, classes)
    return splits


def read_oxford_pets(path: Path | None) -> dict[str, ImageSet]:
    """Return Oxford-IIIT Pets, photos of 37 breeds: 3,680 + 3,669.

    Args:
        path: The folder; None to download.

    Raises:
        UserError: torchvision cannot open it.
    """
    splits: dict[str, ImageSet] = {}
    for split, theirs in (("train", "trainval"), ("test", "test")):
        opened = _open("OxfordIIITPet", "oxford_pets", path, theirs)
        splits[split] = _files(opened, opened._images, opened.classes)
    return splits


def _planes(
    name: str, path: Path | None, split: str, classes: tuple[str, ...]
) -> ArraySet:
    """Return a dataset that torchvision keeps as uint8 (N, C, H, W) in memory."""
    opened = _open(name, name.lower(), path, split)
    images = np.ascontiguousarray(opened.data.transpose(0, 2, 3, 1))
    return ArraySet(images, opened.labels, classes, origin=split)


def _files(opened: Any, paths: list[Path], classes: list[str]) -> FileSet:
    """Return a dataset of photos."""
    root = Path(opened.root)
    names = [Path(path).relative_to(root).as_posix() for path in paths]
    # Its private lists: the public way to a label decodes the photo.
    return FileSet(root, names, opened._labels, classes)


def _open(name: str, spec: str, path: Path | None, split: str) -> Any:
    """Open one split in a user's folder, or download it into the cache."""
    if path is None:
        root = make_folder(cache_folder("data"))
        return _construct(name, f"{spec}:PATH", root, split=split, download=True)
    return _construct(name, f"{spec}:PATH", path, split=split, download=False)


def _construct(
    name: str, alternative: str, root: Path, *, download: bool, **arguments: Any
) -> Any:
    """Call a class of torchvision; whatever it raises becomes one sentence."""
    try:
        from torchvision import datasets
    # An installation for another torch raises RuntimeError from inside.
    except Exception as error:
        raise UserError(
            f"torchvision cannot be imported ({error}): install the one made for your "
            f"torch, or give {alternative}"
        ) from error
    try:
        kind = getattr(datasets, name)
        return kind(root=str(root), download=download, **arguments)
    # No network, no disk, a server's error page, a damaged archive, a missing scipy.
    except Exception as error:
        doing = "download" if download else "open"
        # Its messages have several lines.
        reason = " ".join(str(error).split())
        raise UserError(
            f"cannot {doing} {name} in {str(root)!r}: {reason}; or give {alternative}"
        ) from error
