"""Tar files in WebDataset's layout that others made: their headers are read once, and
the index is kept in the cache.

A sample is what shares a name up to its first dot: an image, and the number of its
    class in `.cls` or in the field
"label" (or "cls") of `.json`. Class names come from classes.txt beside the tars, one
per line, if it is there.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import tarfile
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..errors import UserError
from ..files import cache_folder, write_json
from ..images.decode import image_extensions
from .folder import SPLIT_NAMES
from .shards import DESCRIPTION, FORMAT_VERSION, INDEX, write_index

_MAX_TEXT = 2**20  # bytes of a .cls or .json, or of a name
_MAX_CLASSES = 1_000_000

Part = tuple[str, int, int]
"""A file in a tar: its name, and the offset and size of its bytes."""


def index_tars(path: Path) -> tuple[Path, Path]:
    """Index the tars of a folder, or one tar, unless that has been done.

    The splits are sub folders (train, val, test), or words in the names
    (imagenet-train-0017.tar); else all is train.

    Returns:
        The folder of the tars, and the folder in the cache with their dataset.json and
        indices.

    Raises:
        UserError: there are none, one is no tar or cut short, or an image has no label.
    """
    root = path if path.is_dir() else path.parent
    try:
        splits = _splits(path)
        names = root / "classes.txt"
        files = [file for tars in splits.values() for file in tars] + (
            [names] if names.is_file() else []
        )
        facts = [
            (str(file.absolute()), file.stat().st_size, file.stat().st_mtime_ns)
            for file in files
        ]
        key = hashlib.sha256(json.dumps([FORMAT_VERSION, facts]).encode()).hexdigest()
        folder = cache_folder("shards", f"indexed-{key[:32]}")
        if not (folder / DESCRIPTION).is_file():
            records = {}
            most = 0
            for split, tars in splits.items():
                records[split], largest = _index(root, tars, folder / split / INDEX)
                most = max(most, largest)
            classes = (
                names.read_text("utf-8").split("\n")
                if names.is_file()
                else [str(k) for k in range(most + 1)]
            )
            described = {
                "classes": [name.strip() for name in classes if name.strip()],
                "splits": records,
            }
            write_json(
                folder / DESCRIPTION, {"format_version": FORMAT_VERSION} | described
            )
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the shards in {str(path)!r}: {error}") from error
    return root, folder


def _splits(path: Path) -> dict[str, list[Path]]:
    tars = (
        [path]
        if path.is_file() and path.suffix.lower() == ".tar"
        else sorted(path.glob("[!.]*.tar"))
    )
    found: dict[str, list[Path]] = {}
    for tar in tars or sorted(path.glob("*/[!.]*.tar")):
        words = (
            re.split(r"[-_.]", tar.name.lower()) if tars else [tar.parent.name.lower()]
        )
        split = next(
            (SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES),
            "train" if tars else None,
        )
        if split is not None:
            found.setdefault(split, []).append(tar)
    if "train" not in found:
        raise UserError(
            f"there are no shards to train on in {str(path)!r}: expected dataset.json, or .tar files"
        )
    return found


def _index(root: Path, tars: list[Path], index: Path) -> tuple[dict[str, Any], int]:
    """Write the index of a split; its record in dataset.json, and the largest label."""
    columns = {
        "offset": array("Q"),
        "size": array("I"),
        "shard": array("I"),
        "label": array("I"),
    }
    names: list[str] = []
    shards = []
    for number, path in enumerate(tars):
        before = len(names)
        for name, *values in _samples(path):
            names.append(f"{path.stem}/{name}")
            for column, value in zip(
                columns, (*values[:2], number, values[2]), strict=True
            ):
                columns[column].append(value)
        name = path.relative_to(root).as_posix()
        size = path.stat().st_size
        shards.append({"name": name, "bytes": size, "images": len(names) - before})
    if not names:
        raise UserError(f"there is no image in {str(tars[0])!r} and its neighbours")
    write_index(index, columns, names)
    listed = {"name": f"{index.parent.name}/{INDEX}", "bytes": index.stat().st_size}
    record = {
        "images": len(names),
        "channels": 3,
        "size": None,
        "index": listed,
        "shards": shards,
    }
    return record, int(np.max(columns["label"]))


def _samples(path: Path) -> Iterator[tuple[str, int, int, int]]:
    """Name, offset, size and label of each image of a tar."""
    with path.open("rb") as file:
        # of the sample under way, by ending
        before = ""
        parts = dict[str, Part]()
        for part in itertools.chain(_members(file, path), [("", 0, 0)]):
            folder, _, base = part[0].rpartition("/")
            stem, _, ending = base.partition(".")
            if (key := f"{folder}/{stem}") != before:
                yield from _sample(file, path, parts)
                before = key
                parts = {}
            if stem:
                parts[ending.lower()] = part


def _sample(
    file: BinaryIO, path: Path, parts: dict[str, Part]
) -> Iterator[tuple[str, int, int, int]]:
    images = [
        part for ending, part in parts.items() if f".{ending}" in image_extensions()
    ]
    if not images:
        return
    where = f"{images[0][0][:200]!r} in {str(path)!r}"
    if len(images) > 1 or images[0][2] >= 2**32:
        raise UserError(
            f"{where} shares its name with another image, or has 4 GB: expected one image of each name"
        )
    kind = next((kind for kind in ("cls", "json") if kind in parts), None)
    if kind is None:
        raise UserError(
            f"{where} has no label: expected a file of the same name that ends in .cls or .json"
        )
    text = _read(file, parts[kind], where)
    try:
        record = json.loads(text)
        label = record.get("label", record.get("cls")) if kind == "json" else record
        fits = type(label) is int and 0 <= label < _MAX_CLASSES
    except (ValueError, AttributeError, RecursionError):
        fits = False
    if not fits:
        raise UserError(
            f"{where} has the label {text[:50]!r}: expected the number of a class, 0 to {_MAX_CLASSES - 1}"
        )
    yield *images[0], label


def _members(file: BinaryIO, path: Path) -> Iterator[Part]:
    """The regular files of a tar; `tarfile` keeps an object of each, and its older
    versions can be led in circles.
    """
    end = path.stat().st_size
    offset = 0
    long_name = ""
    while block := file.read(512):
        if block == bytes(512):
            return
        try:
            header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except (tarfile.TarError, ValueError) as error:
            raise UserError(
                f"{str(path)!r} is no plain tar file, or is damaged at byte {offset}: {error}"
            ) from error
        part = long_name or header.name, offset + 512, header.size
        if not 0 <= part[2] <= end - part[1]:
            raise UserError(
                f"{str(path)!r} is cut short: {part[0][:200]!r} claims {part[2]} bytes; copy it again"
            )
        long_name = ""
        if header.type in (tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME):
            text = _read(file, part, str(path)).decode("utf-8", "surrogateescape")
            of_pax = re.search(r"(?:^|\n)\d+ path=([^\n]*)\n", text)
            long_name = (
                text.rstrip("\0")
                if header.type == tarfile.GNUTYPE_LONGNAME
                else of_pax[1]
                if of_pax
                else ""
            )
        elif header.type in (tarfile.REGTYPE, tarfile.AREGTYPE):
            yield part
        offset = part[1] + -(-part[2] // 512) * 512
        file.seek(offset)
    raise UserError(f"{str(path)!r} has no end mark: it is cut short; copy it again")


def _read(file: BinaryIO, part: Part, where: str) -> bytes:
    _, offset, size = part
    if size > _MAX_TEXT:
        raise UserError(
            f"{where} has a label or name of {size} bytes: expected at most {_MAX_TEXT}"
        )
    file.seek(offset)
    return file.read(size)
