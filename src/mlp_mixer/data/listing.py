"""A list of labelled files: CSV or JSON lines with path, label and, if wanted, split.

With several labels per image there is `labels` in the place of `label`: in CSV they are
separated by ";", in JSON lines they are a list. The list may be empty.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import UserError, unknown
from .folder import LabelledFile, labelled_files, natural
from .image_set import FileSet, ImageSet
from .names import SPLIT_NAMES
from .targets import SEPARATOR, table

# What programs write where they mean several labels; "[unknown]" is a name.
_LIST = re.compile(r"""\[\s*(['"].*['"]|\d[\d\s,]*)?\s*\]""")

Lines = Iterator[tuple[int, Mapping[str, Any]]]
"""The number of each line in its file, and its fields."""


def read_listing(path: Path) -> dict[str, ImageSet]:
    """Return the splits of a list of files.

    Args:
        path: A .csv or .jsonl file; the paths in it are relative to its folder.

    Raises:
        UserError: The list cannot be read, or a line lacks a field or names an unknown
            split or a missing file.
    """
    readers = {".csv": _csv_lines, ".jsonl": _json_lines}
    read = readers.get(path.suffix.lower())
    if read is None:
        raise UserError(
            f"cannot read the list {str(path)!r}: expected a name that ends in .csv or "
            ".jsonl"
        )
    try:
        # Spreadsheets put a byte order mark before the first column's name.
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the list {str(path)!r}: {error}") from error
    found: dict[str, list[_Line]] = {}
    for number, record in read(text, path):
        where = f"{str(path)!r}, line {number}"
        split, line = _read_line(record, path.parent, where)
        found.setdefault(split, []).append(line)
    if "train" not in found:
        raise UserError(
            f"the list {str(path)!r} has no training images: expected rows of "
            "path,label[,split]"
        )
    # One line with a list of labels makes it a list of images with several labels.
    if any(line.several for lines in found.values() for line in lines):
        return _multi_labelled_files(path, found)
    files: dict[str, list[LabelledFile]] = {}
    for split, lines in found.items():
        files[split] = [(line.name, line.labels[0]) for line in lines]
    return labelled_files(path.parent, files)


class _Line(NamedTuple):
    """Holds the path of an image and its labels, and whether they were a list."""

    name: str
    labels: tuple[str, ...]
    several: bool


def _multi_labelled_files(
    path: Path, found: Mapping[str, Sequence[_Line]]
) -> dict[str, ImageSet]:
    """Return image sets whose images have any number of labels each."""
    names = {label for line in found["train"] for label in line.labels}
    classes = sorted(names, key=natural)
    if not classes:
        raise UserError(
            f"the list {str(path)!r} has no training image with a label: expected some"
        )
    number = {label: k for k, label in enumerate(classes)}
    splits: dict[str, ImageSet] = {}
    for split, lines in found.items():
        labels = []
        for line in lines:
            foreign = set(line.labels) - number.keys()
            if foreign:
                raise UserError(
                    f"{split} of {str(path)!r} has the class {min(foreign)!r}, which "
                    "train does not have"
                )
            labels.append([number[label] for label in line.labels])
        targets = table(labels, len(classes))
        files = [line.name for line in lines]
        splits[split] = FileSet(path.parent, files, None, classes, targets=targets)
    return splits


def _csv_lines(text: str, path: Path) -> Lines:
    reader = csv.DictReader(text.splitlines(), skipinitialspace=True)
    try:
        columns = reader.fieldnames or []
        label = "labels" if "labels" in columns else "label"
        for column in ("path", label):
            if column not in columns:
                raise UserError(
                    f"{str(path)!r}, line 1: there is no column {column!r}, only "
                    f"{', '.join(columns) or 'none'}"
                )
        for record in reader:
            # DictReader puts what is left over under the key None.
            if record.get(None):
                raise UserError(
                    f"{str(path)!r}, line {reader.line_num}: there are more fields than "
                    "the first line names; put quotes around a text with a comma"
                )
            yield reader.line_num, record
    except csv.Error as error:
        raise UserError(f"{str(path)!r}, line {reader.line_num}: {error}") from error


def _json_lines(text: str, path: Path) -> Lines:
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        where = f"{str(path)!r}, line {number}"
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{where}: not JSON ({error})") from error
        if not isinstance(record, dict):
            raise UserError(f'{where}: expected {{"path": ..., "label": ...}}')
        yield number, record


def _read_line(record: Mapping[str, Any], root: Path, where: str) -> tuple[str, _Line]:
    """Return the split and the image of a line, if it has all it needs."""
    name = _text(record.get("path"))
    split = _text(record.get("split"))
    if not name:
        raise UserError(f"{where}: there is no path")
    labels, several = _labels(record, where)
    # An empty field in a column of splits is a mistake; a list without it is all train.
    if "split" in record and split.lower() not in SPLIT_NAMES:
        raise UserError(f"{where}: {unknown('split', split, SPLIT_NAMES)}")
    if not (root / name).is_file():
        raise UserError(
            f"{where}: there is no file {str(root / name)!r}; paths are relative to the "
            "list's folder"
        )
    return SPLIT_NAMES[split.lower() or "train"], _Line(name, labels, several)


def _labels(record: Mapping[str, Any], where: str) -> tuple[tuple[str, ...], bool]:
    """Return the labels of a line, and whether they were given as a list."""
    if "labels" in record:
        if _text(record.get("label")):
            raise UserError(
                f"{where}: there are both a label and labels: keep one of them"
            )
        value = record["labels"]
        if isinstance(value, str):
            parts = [part.strip() for part in value.split(SEPARATOR)]
            value = [part for part in parts if part]
        if not isinstance(value, list):
            raise UserError(
                f"{where}: the labels are {json.dumps(value)}: expected a list such as "
                f'["cat", "pet"], or in CSV cat{SEPARATOR}pet'
            )
    else:
        value = record.get("label")
        if not isinstance(value, list):
            return (_label(value, where),), False
    labels = [_label(one, where) for one in value]
    for label in labels:
        if SEPARATOR in label:
            raise UserError(
                f"{where}: the label {label!r} has a {SEPARATOR!r}, which separates "
                "labels: rename it"
            )
    return tuple(dict.fromkeys(labels)), True


def _label(value: Any, where: str) -> str:
    """Return one label, which is a text or a whole number."""
    # A boolean is an integer in Python, and no class in a list.
    known = isinstance(value, str) or type(value) is int
    if value is not None and not known:
        raise UserError(
            f"{where}: the label is {json.dumps(value)[:80]}: expected a text or a whole "
            "number, or a list of them for several labels per image"
        )
    label = _text(value)
    if not label:
        raise UserError(f"{where}: there is no label")
    if _LIST.fullmatch(label):
        raise UserError(
            f"{where}: the label {label[:80]!r} looks like a list: several labels per "
            f"image go into a column 'labels', as cat{SEPARATOR}pet"
        )
    return label


def _text(value: Any) -> str:
    return "" if value is None else str(value).strip()
