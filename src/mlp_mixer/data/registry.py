"""Data sets by name: `NAME`, `NAME:PATH` or `NAME:ADDRESS` to splits. A new one is a
reader and a line in a table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from ..errors import UserError, unknown
from . import imagenet
from .arrays import read_digits, read_npz
from .cifar import CIFAR10, CIFAR100
from .dataset import Dataset
from .folder import read_folder
from .hf_datasets import read_hf
from .idx import FASHION_MNIST, MNIST
from .image_set import ImageSet
from .listing import read_listing
from .shards import DESCRIPTION, UNFINISHED, read_shards
from .torchvision_sets import read_flowers102, read_oxford_pets, read_stl10, read_svhn

Reader = Callable[[Path | None], Mapping[str, ImageSet]]
"""From the PATH of a spec to "train", and "val" and "test" where they are; sources.py
decides what the rest means.
"""


def _local(
    name: str, what: str, read: Callable[[Path], Mapping[str, ImageSet]]
) -> Reader:
    """A reader that needs a path."""

    def checked(path: Path | None) -> Mapping[str, ImageSet]:
        if path is None:
            raise UserError(f"the source {name} needs {what}: write {name}:PATH")
        return read(path)

    return checked


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
    "imagenet_a": _local("imagenet_a", "its folder, with <wnid>/*", imagenet.read_a),
    "imagenet_r": _local("imagenet_r", "its folder, with <wnid>/*", imagenet.read_r),
    "imagenet_sketch": _local(
        "imagenet_sketch", "its folder, with <wnid>/*", imagenet.read_sketch
    ),
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

ADDRESSED: dict[str, Callable[[str], Mapping[str, ImageSet]]] = {
    "hf": read_hf,
    "shards": read_shards,
}
"""Sources whose place need not be a path: `NAME:ADDRESS`."""

_BY_ENDING = {".csv": "list", ".jsonl": "list", ".npz": "npz"}


def open_dataset(
    spec: str | Dataset, *, split_seed: int = 0, test_fraction: float = 0.2
) -> Dataset:
    """Open a data set.

    Args:
        spec: `NAME`, `NAME:PATH`, or the bare path of a folder, a list or an .npz file;
            a `Dataset` is passed through.
        split_seed, test_fraction: how to hold out a test split where the source has
            none.

    Raises:
        UserError: the name is unknown, or what is at the path is missing or broken.
    """
    if isinstance(spec, Dataset):
        return spec
    name, place = _parse(spec)
    if name in ADDRESSED:
        splits = ADDRESSED[name](place or "")
    else:
        splits = DATASETS[name](Path(place).expanduser() if place else None)
    return Dataset.from_splits(
        spec, splits, split_seed=split_seed, test_fraction=test_fraction
    )


def _parse(spec: str) -> tuple[str, str | None]:
    """The source's name and its place; a name wins over a folder that happens to be
    called so.
    """
    name, colon, rest = spec.partition(":")
    if name in DATASETS or name in ADDRESSED:
        if not rest and (colon or name in ADDRESSED):
            raise UserError(
                f"there is no path after the colon of {spec!r}: expected {name}:PATH"
            )
        return name, rest or None
    path = Path(spec).expanduser()
    if spec and path.is_dir():
        return "shards" if (path / DESCRIPTION).is_file() or (
            path / UNFINISHED
        ).is_dir() else "folder", spec
    if path.is_file() and path.suffix.lower() in _BY_ENDING:
        return _BY_ENDING[path.suffix.lower()], spec
    if "/" in spec or "\\" in spec:
        raise UserError(
            f"there is no data set at {spec!r}: expected a folder, a list, or NAME:PATH with a known NAME"
        )
    raise unknown("data source", name, [*DATASETS, *ADDRESSED])
