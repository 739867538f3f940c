"""Datasets of the Hugging Face `datasets` library, from the hub or from a folder.

The library (an extra, imported only when asked for) finds, downloads and maps its
tables; our own decoder decodes.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, final

import numpy as np

from ..errors import UserError, unknown
from ..files import path_of
from ..remote import offline
from ..untrusted.sizes import read_bytes
from .image_set import EncodedSet, ImageSet, Indices
from .names import SPLIT_NAMES

_MOST_BYTES = 2**30  # of an image file
_OPTIONS = ("split", "image", "label")

# What `save_to_disk` leaves in a folder, for all splits and for one.
_SAVED = ("dataset_dict.json", "state.json")


@final
class HfSet(EncodedSet):
    """The rows of a table.

    Args:
        table: A `datasets.Dataset` that does not decode its images.
        image: The name of a column whose cells have the `bytes` or the `path` of an
            image file.
        labels: N integers.
        classes: The class names.
        origin: The first part of the images' names.
        rows: Which rows of the table, (N,) integers; all if absent.
    """

    def __init__(
        self,
        table: Any,
        image: str,
        labels: Any,
        classes: Sequence[str],
        origin: str,
        rows: Any = None,
    ) -> None:
        super().__init__(labels, classes, 3, None)
        self._table = table
        self._image = image
        self._origin = origin
        self._rows = np.arange(len(labels)) if rows is None else rows

    def encoded(self, index: int) -> bytes:
        """Return the bytes of an image file; see `EncodedSet`."""
        try:
            cell = self._table[int(self._rows[index])][self._image]
            data: bytes | None = cell["bytes"]
            if data is None:
                # What a stranger's table names may be a device, which never ends.
                data = read_bytes(Path(cell["path"]), _MOST_BYTES)
        # It may be an error of the library, of Arrow or of the disk.
        except Exception as error:
            raise UserError(
                f"cannot read the image {self.name(index)!r}: {_reason(error)}"
            ) from error
        return data

    def name(self, index: int) -> str:
        """Return the split and the row of an image, such as train/17."""
        return f"{self._origin}/{self._rows[index]}"

    def subset(self, indices: Indices) -> HfSet:
        """Return some of the images; see `ImageSet`."""
        chosen = np.asarray(indices, dtype=np.int64)
        return HfSet(
            self._table,
            self._image,
            self.labels[chosen],
            self.classes,
            self._origin,
            self._rows[chosen],
        )


def read_hf(address: str) -> dict[str, ImageSet]:
    """Return the splits of a dataset of the library.

    Test splits without labels (-1, as in competitions) are passed over.

    Args:
        address: `NAME[:CONFIG]` or a folder, with `,split=...` (the split to use as
            train), `,image=...` and `,label=...` (columns) if wanted.

    Raises:
        UserError: The library is missing or refuses, or there is no column of images or
            of classes.
    """
    place, *pairs = address.split(",")
    options: dict[str, str] = {}
    for pair in pairs:
        option, _, value = pair.partition("=")
        if option not in _OPTIONS:
            raise unknown("option of hf", option, _OPTIONS)
        options[option] = value
    tables = _load(place, options.get("split"))
    found: dict[str, ImageSet] = {}
    passed_over = []
    for theirs, table in tables.items():
        split = SPLIT_NAMES.get(str(theirs).lower())
        if split is None:
            passed_over.append(f"split {str(theirs)!r}")
            continue
        if split in found:
            raise UserError(
                f"hf:{address} has two splits for {split}: choose with ,split="
            )
        images = _image_set(table, split, options, address)
        if images is not None:
            found[split] = images
    if not found:
        names = ", ".join(map(str, tables))
        raise UserError(
            f"hf:{address} has the splits {names}, and none is train: choose with "
            ",split="
        )
    for part in found.values():
        part.passed_over = ", ".join(passed_over)
    return found


def _load(place: str, split: str | None) -> Mapping[str, Any]:
    """Return the tables by split; a split that was chosen is train."""
    try:
        datasets = importlib.import_module("datasets")
    # A library built for another pyarrow fails with any error.
    except Exception as error:
        raise UserError(
            f"hf: needs the library datasets ({error}): pip install datasets"
        ) from error
    path = path_of(place)
    try:
        if any((path / name).is_file() for name in _SAVED):
            tables: Any = datasets.load_from_disk(str(path))
            if split is not None:
                tables = tables[split]
        elif path.is_dir():
            tables = datasets.load_dataset(str(path), None, split=split)
        else:
            _refuse_if_offline(place, datasets)
            name, _, config = place.partition(":")
            tables = datasets.load_dataset(name, config or None, split=split)
    except UserError:
        raise
    # The library's errors share no base class.
    except Exception as error:
        raise UserError(f"cannot open hf:{place}: {_reason(error)}") from error
    return tables if isinstance(tables, Mapping) else {"train": tables}


def _refuse_if_offline(place: str, datasets: Any) -> None:
    """Refuse to ask the hub if our switch is off and the library has not noticed."""
    # The library reads its own switch once, when it is imported.
    if offline() and not datasets.config.HF_HUB_OFFLINE:
        raise UserError(
            f"cannot open hf:{place}: the network is switched off; set HF_HUB_OFFLINE=1, "
            "too, to use what the library has"
        )


def _image_set(
    table: Any, split: str, options: Mapping[str, str], address: str
) -> HfSet | None:
    """Return one split, or None where its labels are kept secret."""
    datasets = importlib.import_module("datasets")
    image = _column(table, datasets.Image, "image", ("image", "img"), options, address)
    label = _column(
        table, datasets.ClassLabel, "label", ("label", "fine_label"), options, address
    )
    classes = table.features[label].names
    try:
        # As numpy: a list of a million Python integers takes seconds.
        column = table.select_columns([label]).with_format("numpy")
        labels = np.asarray(column[:][label])
        if split != "train" and len(labels) and (labels == -1).all():
            return None
        undecoded = datasets.Image(decode=False)
        images = table.select_columns([image]).cast_column(image, undecoded)
        return HfSet(images, image, labels, classes, split)
    except UserError as error:
        raise UserError(f"cannot use {split} of hf:{address}: {error}") from error
    except Exception as error:
        raise UserError(
            f"cannot read {split} of hf:{address}: {_reason(error)}"
        ) from error


def _column(
    table: Any,
    kind: Any,
    option: str,
    usual: Sequence[str],
    options: Mapping[str, str],
    address: str,
) -> str:
    """Return the column of a kind: the chosen one, a usual one, or the only one."""
    found = [
        str(name)
        for name, feature in table.features.items()
        if isinstance(feature, kind)
    ]
    what = kind.__name__
    chosen = options.get(option)
    if chosen is not None:
        if chosen not in found:
            raise unknown(f"{what} column of hf:{address}", chosen, found)
        return chosen
    for name in usual:
        if name in found:
            return name
    if len(found) == 1:
        return found[0]
    advice = "it is not for image classification"
    if found:
        advice = f"choose with ,{option}="
    raise UserError(
        f"hf:{address} has the {what} columns {', '.join(found) or '(none)'}: {advice}"
    )


def _reason(error: Exception) -> str:
    """Return what a foreign error says, in one line."""
    return " ".join(f"{type(error).__name__}, {error}".split())[:300]
