"""Datasets by name: `NAME`, `NAME:PATH` or `NAME:ADDRESS`.

A new dataset is a reader and a line in a table.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from ..errors import UserError, unknown
from ..files import PathLike, path_of
from . import imagenet
from .arrays import read_digits, read_npz
from .cifar import CIFAR10, CIFAR100
from .dataset import Dataset, SplitBy
from .folder import read_folder
from .hf_datasets import read_hf
from .idx import FASHION_MNIST, MNIST
from .image_set import FileSet, ImageSet
from .layout import looks_like_classes
from .listing import read_listing
from .pictures import read_pictures
from .shard_index import DESCRIPTION, UNFINISHED
from .shards import read_shards
from .torchvision_sets import read_flowers102, read_oxford_pets, read_stl10, read_svhn

Reader = Callable[[Path | None], Mapping[str, ImageSet]]
"""From the PATH of a spec to "train", and "val" and "test" where they are.

`Dataset.from_splits` decides what the rest means.
"""


def _local(
    name: str, what: str, read: Callable[[Path], Mapping[str, ImageSet]]
) -> Reader:
    """Return a reader that refuses a spec without a path, and says what it needs."""

    def checked(path: Path | None) -> Mapping[str, ImageSet]:
        if path is None:
            raise UserError(f"the dataset {name} needs {what}: write {name}:PATH")
        return read(path)

    return checked


_WNIDS = "its folder, with <wnid>/*"

DATASETS: dict[str, Reader] = {
    "digits": read_digits,
    "mnist": MNIST,
    "fashion_mnist": FASHION_MNIST,
    "cifar10": CIFAR10,
    "cifar100": CIFAR100,
    "svhn": read_svhn,
    "stl10": read_stl10,
    "flowers102": read_flowers102,
    "flowers": read_flowers102,
    "oxford_pets": read_oxford_pets,
    "pets": read_oxford_pets,
    "imagenet": _local(
        "imagenet", "your own copy with train/<wnid>/* and val/<wnid>/*", read_folder
    ),
    "imagenet_v2": _local(
        "imagenet_v2", "one of its folders, with 0/* ... 999/*", imagenet.read_v2
    ),
    "imagenet_a": _local("imagenet_a", _WNIDS, imagenet.read_a),
    "imagenet_r": _local("imagenet_r", _WNIDS, imagenet.read_r),
    "imagenet_sketch": _local("imagenet_sketch", _WNIDS, imagenet.read_sketch),
    "imagenet_c": _local(
        "imagenet_c", "<corruption>/<severity>, with <wnid>/*", imagenet.read_c
    ),
    "imagenet_real": _local(
        "imagenet_real", "the validation images and real.json", imagenet.read_real
    ),
    "folder": _local(
        "folder", "a folder with a sub folder of images per class", read_folder
    ),
    "list": _local("list", "a .csv or .jsonl file", read_listing),
    "npz": _local("npz", "an .npz file", read_npz),
}
"""The readers of datasets that have a name alone, or a path."""

ADDRESSED: dict[str, Callable[[str], Mapping[str, ImageSet]]] = {
    "hf": read_hf,
    "shards": read_shards,
}
"""The readers of datasets whose place need not be a path: `NAME:ADDRESS`."""

# Where a dataset has its training images.
_TRAINING_IMAGES = {
    "folder": "train/<class>/*",
    "imagenet": "train/<wnid>/*",
    "list": "rows of path,label[,split]",
    "npz": "x_train and y_train",
    "hf": "a split of that name, or one chosen with ,split=",
    "shards": "tars with train in their names, or without any such word",
}

_MOST_ABOVE = 5  # folders in which data are looked for

_BY_ENDING = {".csv": "list", ".jsonl": "list", ".npz": "npz"}


def open_dataset(
    spec: str | Dataset,
    *,
    split_seed: int = 0,
    test_fraction: float = 0.2,
    split_by: SplitBy = "image",
    to_learn: bool = True,
) -> Dataset:
    """Open a dataset.

    Args:
        spec: `NAME`, `NAME:PATH`, or the bare path of a folder, a list or an .npz file;
            a `Dataset` is returned as it is.
        split_seed: Of the choice of a test split, where the dataset has none.
        test_fraction: The share of each class that such a test split takes.
        split_by: What decides which images it takes; "position": as in 0.1.0.
        to_learn: Whether there must be training images, and in folders and lists two
            classes of them. To evaluate, a test set alone is enough.

    Returns:
        The dataset; its images are decoded when they are asked for. Where a test split
        is held out by image, some kilobytes of each file are read now.

    Raises:
        UserError: The name is unknown, or the dataset at the path is missing or broken.
    """
    if isinstance(spec, Dataset):
        return spec
    splits = read_splits(spec)
    if to_learn:
        _check_training_images(spec, splits)
    elif "train" not in splits:
        return Dataset.without_training_images(spec, splits)
    return Dataset.from_splits(
        spec,
        splits,
        split_seed=split_seed,
        test_fraction=test_fraction,
        split_by=split_by,
    )


def read_splits(spec: str) -> Mapping[str, ImageSet]:
    """Return the splits that a dataset comes with; nothing is held out.

    Args:
        spec: As for `open_dataset`.

    Raises:
        UserError: As for `open_dataset`.
    """
    name, place = _parse(spec)
    if name in ADDRESSED:
        return ADDRESSED[name](place or "")
    return DATASETS[name](path_of(place) if place else None)


def check_place(spec: str | Dataset, beside: PathLike, *, alone: bool = False) -> None:
    """Refuse a dataset that is not here, but where a run or its folder is.

    Who trains with `--data photos` in one folder often looks at the run from another.

    Args:
        spec: As for `open_dataset`.
        beside: The folder of the run, or a file in it; whatever else it may be is no
            place to look for data.
        alone: Whether another file or folder of this name, above the run's, is refused
            where there is one here.

    Raises:
        UserError: There is no file or folder of this name here, and there is one in a
            folder above the run's; it says which. Or there are two.
    """
    if isinstance(spec, Dataset) or "://" in spec:
        return
    name, colon, place = spec.partition(":")
    if name not in DATASETS and name not in ADDRESSED:
        name, colon, place = "", "", spec
    is_here = os.path.exists(place)  # noqa: PTH110
    if not place or os.path.isabs(place) or (is_here and not alone):  # noqa: PTH117
        return
    start = os.path.abspath(beside)  # noqa: PTH100
    if not os.path.exists(start):  # noqa: PTH110
        return
    for folder in [Path(start), *Path(start).parents][:_MOST_ABOVE]:
        there = os.path.join(folder, place)  # noqa: PTH118
        # As in `locate`: these two do not raise for names that no file can have.
        if not os.path.exists(there):  # noqa: PTH110
            continue
        near = f"--data {name}{colon}{os.path.relpath(there)}"
        run = os.fsdecode(beside)
        if not is_here:
            raise UserError(
                f"there is no {place!r} here; did you mean {near}, which lies beside "
                f"{run!r}?"
            )
        if os.path.samefile(there, place):  # noqa: PTH121
            return
        raise UserError(
            f"there is a {place!r} here and another one beside {run!r}: give {near} for "
            f"that one, or --data {name}{colon}{place} for the one here"
        )


def _check_training_images(spec: str, splits: Mapping[str, ImageSet]) -> None:
    """Refuse a test set alone, and a folder or list of a single class."""
    train = splits.get("train")
    if train is None:
        name, place = _parse(spec)
        raise UserError(
            f"{place or spec!r} has {' and '.join(sorted(splits))} but no train: expected "
            f"{_TRAINING_IMAGES.get(name, 'images to learn from')}"
        )
    one_label = isinstance(train, FileSet) and train.targets is None
    if one_label and len(train.classes) < 2:
        _, place = _parse(spec)
        raise UserError(
            f"{place or spec!r} has {len(train.classes)} class of training images: "
            "expected at least two"
        )


def folder_of(spec: str) -> Path | None:
    """Return the folder of images that is meant, None if it is another dataset.

    Args:
        spec: As for `open_dataset`.

    Raises:
        UserError: There is no such dataset.
    """
    name, place = _parse(spec)
    if name not in ("folder", "imagenet") or place is None:
        return None
    return path_of(place)


def open_pictures(
    spec: str,
    *,
    split_seed: int = 0,
    test_fraction: float = 0.2,
    split_by: SplitBy = "image",
) -> tuple[Dataset, str]:
    """Open images to learn from without labels: a dataset, or any folder of pictures.

    A dataset with labels is split as `open_dataset` does, so that its test images can
    still be held back. Where a folder has no classes, all its pictures are read, at any
    depth; of a folder with `train/`, only those in there.

    Args:
        spec: As for `open_dataset`.
        split_seed: As for `open_dataset`.
        test_fraction: As for `open_dataset`.
        split_by: As for `open_dataset`.

    Returns:
        The dataset, and a sentence if it has no labels: what was read, and why. Its
        images are then of a single class.

    Raises:
        UserError: As for `open_dataset`, or the folder holds no pictures.
    """
    name, place = _parse(spec)
    try:
        dataset = open_dataset(
            spec,
            split_seed=split_seed,
            test_fraction=test_fraction,
            split_by=split_by,
        )
    except UserError as error:
        if name != "folder" or place is None:
            raise
        images, where = read_pictures(path_of(place))
        reason = str(error).split(": expected")[0]
        note = f"all {len(images):,} pictures in {where} are learnt from ({reason})"
        return Dataset(spec, images), note
    return dataset, ""


def _parse(spec: str) -> tuple[str, str | None]:
    """Return the dataset's name and its place."""
    name, colon, place = spec.partition(":")
    # A name wins over a path that happens to have it: recipes must mean the same in
    # every working directory.
    if name in DATASETS or name in ADDRESSED:
        if not place and (colon or name in ADDRESSED):
            raise UserError(
                f"there is no path after the colon of {spec!r}: expected {name}:PATH"
            )
        if not colon:
            _refuse_namesake(name)
        return name, place or None
    path = path_of(spec)
    if spec and path.is_dir():
        return _kind_of_folder(path), spec
    ending = path.suffix.lower()
    if path.is_file() and ending in _BY_ENDING:
        return _BY_ENDING[ending], spec
    if "/" in spec or "\\" in spec:
        raise UserError(
            f"there is no dataset at {spec!r}: expected a folder, a list, or NAME:PATH "
            "with a known NAME"
        )
    raise unknown("dataset", name, [*DATASETS, *ADDRESSED])


def _refuse_namesake(name: str) -> None:
    """Refuse the name of a dataset where it is that of pictures here as well."""
    path = Path(name)
    if path.is_dir() and looks_like_classes(path):
        raise UserError(
            f"{name!r} is the name of a dataset and of a folder of pictures here: write "
            f"folder:{name} for the folder, or go to another folder for the dataset"
        )


def _kind_of_folder(path: Path) -> str:
    """Return the name of the reader for a folder without a name."""
    # An unfinished set is no folder of images: its reader says how to finish it.
    if (path / DESCRIPTION).is_file() or (path / UNFINISHED).is_dir():
        return "shards"
    return "folder"
