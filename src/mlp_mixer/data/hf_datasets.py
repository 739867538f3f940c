"""Data sets of the Hugging Face `datasets` library, from the hub or as `save_to_disk`
left them.

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
from ..web import offline
from .folder import SPLIT_NAMES
from .image_set import ImageSet, Indices
from .shards import EncodedSet

_OPTIONS = ("split", "image", "label")


@final
class HfSet(EncodedSet):
    """The rows of a table: `image` is the name of a column whose cells have `bytes` or
    the `path` of an image file.
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
        try:
            cell = self._table[int(self._rows[index])][self._image]
            data: bytes = (
                cell["bytes"]
                if cell["bytes"] is not None
                else Path(cell["path"]).read_bytes()
            )
        except Exception as error:  # the library's, Arrow's or the disk's
            raise UserError(
                f"cannot read the image {self.name(index)!r}: {_reason(error)}"
            ) from error
        return data

    def name(self, index: int) -> str:
        return f"{self._origin}/{self._rows[index]}"

    def subset(self, indices: Indices) -> HfSet:
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
    """The splits of `NAME[:CONFIG]` or of a folder, with `,split=...` (train),
    `,image=...` and `,label=...` (columns).

    Test splits without labels (-1, as in competitions) are passed over.

    Raises:
        UserError: the library is missing or refuses, or there is no column of images,
            or none of classes.
    """
    place, *pairs = address.split(",")
    options = dict(pair.partition("=")[::2] for pair in pairs)
    if strangers := options.keys() - set(_OPTIONS):
        raise unknown("option of hf", min(strangers), _OPTIONS)
    tables = _load(place, options.get("split"))
    found: dict[str, ImageSet] = {}
    for theirs, table in tables.items():
        ours = SPLIT_NAMES.get(str(theirs).lower())
        if ours in found:
            raise UserError(
                f"hf:{address} has two splits for {ours}: choose with ,split="
            )
        if (
            ours is not None
            and (images := _image_set(table, ours, options, address)) is not None
        ):
            found[ours] = images
    if "train" not in found:
        raise UserError(
            f"hf:{address} has the splits {', '.join(map(str, tables))}, and none is train: choose with ,split="
        )
    return found


def _load(place: str, split: str | None) -> Mapping[str, Any]:
    """The tables by split; one that was chosen is train."""
    try:
        datasets = importlib.import_module("datasets")
    except Exception as error:  # one built for another pyarrow fails with what it likes
        raise UserError(
            f"hf: needs the library datasets ({error}): pip install 'mlp-mixer[datasets]'"
        ) from error
    path = Path(place).expanduser()
    try:
        if any((path / name).is_file() for name in ("dataset_dict.json", "state.json")):
            tables: Any = datasets.load_from_disk(str(path))
            if split is not None:
                tables = tables[split]
        else:
            name, _, config = (
                (str(path), "", "") if path.is_dir() else place.partition(":")
            )
            if offline() and not (path.is_dir() or datasets.config.HF_HUB_OFFLINE):
                hint = "set HF_HUB_OFFLINE=1, too, to use what the library has"
                raise UserError(
                    f"cannot open hf:{place}: the network is switched off; {hint}"
                )
            tables = datasets.load_dataset(name, config or None, split=split)
    except UserError:
        raise
    except Exception as error:  # theirs share no base class
        raise UserError(f"cannot open hf:{place}: {_reason(error)}") from error
    return tables if isinstance(tables, Mapping) else {"train": tables}


def _image_set(
    table: Any, split: str, options: Mapping[str, str], address: str
) -> HfSet | None:
    """One split, or None where its labels are kept secret."""
    datasets = importlib.import_module("datasets")
    image = _column(
        table, datasets.Image, options.get("image"), ("image", "img"), address
    )
    label = _column(
        table,
        datasets.ClassLabel,
        options.get("label"),
        ("label", "fine_label"),
        address,
    )
    classes = table.features[label].names
    try:
        labels = np.asarray(
            table.select_columns([label]).with_format("numpy")[:][label]
        )
        if split != "train" and len(labels) and (labels == -1).all():
            return None
        images = table.select_columns([image]).cast_column(
            image, datasets.Image(decode=False)
        )
        return HfSet(images, image, labels, classes, split)
    except UserError as error:
        raise UserError(f"cannot use {split} of hf:{address}: {error}") from error
    except Exception as error:
        raise UserError(
            f"cannot read {split} of hf:{address}: {_reason(error)}"
        ) from error


def _column(
    table: Any, kind: Any, chosen: str | None, usual: Sequence[str], address: str
) -> str:
    there = [
        name for name, feature in table.features.items() if isinstance(feature, kind)
    ]
    what = kind.__name__
    if chosen is not None and chosen not in there:
        raise unknown(f"{what} column of hf:{address}", chosen, there)
    wanted = [
        name for name in ((chosen,) if chosen else usual) if name in there
    ] or there
    if len(wanted) == 0 or (len(wanted) > 1 and wanted is there):
        option = "image" if usual[0] == "image" else "label"
        advice = (
            f"choose with ,{option}=" if there else "it is not for image classification"
        )
        raise UserError(
            f"hf:{address} has the {what} columns {', '.join(there) or '(none)'}: {advice}"
        )
    return str(wanted[0])


def _reason(error: Exception) -> str:
    """What a foreign error says, in one line."""
    return " ".join(f"{type(error).__name__}, {error}".split())[:300]
