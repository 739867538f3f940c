"""Data sets that torchvision downloads. It is imported only here and only when asked
for: a broken one harms nobody.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from ..files import cache_folder, make_folder
from .image_set import ArraySet, FileSet, ImageSet


def download_folder(name: str, is_in: Callable[[Path], bool], alternative: str) -> Path:
    """The cache folder that holds torchvision's data set `name` once `is_in` says so;
    downloads it if need be.
    """
    root = cache_folder("data")
    if not is_in(root):
        _construct(name, alternative, make_folder(root), download=True)
    return root


def read_svhn(path: Path | None) -> dict[str, ImageSet]:
    """Street View House Numbers, cropped digits of 32 x 32: 73,257 + 26,032."""
    return {
        split: _planes("SVHN", path, split, tuple("0123456789"))
        for split in ("train", "test")
    }


def read_stl10(path: Path | None) -> dict[str, ImageSet]:
    """STL-10, 96 x 96: 5,000 + 8,000 labelled images."""
    classes = (
        "airplane",
        "bird",
        "car",
        "cat",
        "deer",
        "dog",
        "horse",
        "monkey",
        "ship",
        "truck",
    )
    return {
        split: _planes("STL10", path, split, classes) for split in ("train", "test")
    }


def read_flowers102(path: Path | None) -> dict[str, ImageSet]:
    """Oxford Flowers-102, photos: 1,020 + 1,020 for validation + 6,149 for test. The
    classes are 1 ... 102.
    """
    splits = {
        split: _open("Flowers102", "flowers102", path, split)
        for split in ("train", "val", "test")
    }
    classes = [str(k) for k in range(1, 103)]
    return {
        split: _files(found, found._image_files, classes)
        for split, found in splits.items()
    }


def read_oxford_pets(path: Path | None) -> dict[str, ImageSet]:
    """Oxford-IIIT Pets, photos of 37 breeds: 3,680 + 3,669."""
    splits = {
        ours: _open("OxfordIIITPet", "oxford_pets", path, theirs)
        for ours, theirs in _PETS_SPLITS.items()
    }
    return {
        split: _files(found, found._images, found.classes)
        for split, found in splits.items()
    }


_PETS_SPLITS = {"train": "trainval", "test": "test"}


def _planes(
    name: str, path: Path | None, split: str, classes: tuple[str, ...]
) -> ArraySet:
    """A torchvision data set that keeps uint8 (N, C, H, W) in memory."""
    found = _open(name, name.lower(), path, split)
    return ArraySet(
        np.ascontiguousarray(found.data.transpose(0, 2, 3, 1)),
        found.labels,
        classes,
        origin=split,
    )


def _files(found: Any, paths: list[Path], classes: list[str]) -> FileSet:
    """A torchvision data set of photos; its private lists spare us to decode every
    photo for its label.
    """
    root = Path(found.root)
    return FileSet(
        root,
        [Path(path).relative_to(root).as_posix() for path in paths],
        found._labels,
        classes,
    )


def _open(name: str, spec: str, path: Path | None, split: str) -> Any:
    root = make_folder(cache_folder("data")) if path is None else path
    return _construct(name, f"{spec}:PATH", root, split=split, download=path is None)


def _construct(name: str, alternative: str, root: Path, **arguments: Any) -> Any:
    try:
        from torchvision import datasets
    except (
        Exception
    ) as error:  # one built for another torch raises RuntimeError from inside
        raise UserError(
            f"torchvision cannot be imported ({error}): install the one made for your torch, or give {alternative}"
        ) from error
    try:
        return getattr(datasets, name)(root=str(root), **arguments)
    # no network, no disk, a server's error page, a damaged archive, a missing scipy
    except Exception as error:
        doing = "download" if arguments["download"] else "open"
        reason = " ".join(str(error).split())  # torchvision's has lines
        raise UserError(
            f"cannot {doing} {name} in {str(root)!r}: {reason}; or give {alternative}"
        ) from error
