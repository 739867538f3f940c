"""A list of labelled files: CSV or JSON lines with path, label and, if wanted, split."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..errors import UserError, unknown
from .folder import SPLIT_NAMES, LabelledFile, labelled_files
from .image_set import ImageSet

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
    found: dict[str, list[LabelledFile]] = {}
    for number, record in read(text, path):
        where = f"{str(path)!r}, line {number}"
        split, file = _labelled_file(record, path.parent, where)
        found.setdefault(split, []).append(file)
    if "train" not in found:
        raise UserError(
            f"the list {str(path)!r} has no training images: expected rows of "
            "path,label[,split]"
        )
    return labelled_files(path.parent, found)


def _csv_lines(text: str, path: Path) -> Lines:
    reader = csv.DictReader(text.splitlines(), skipinitialspace=True)
    try:
        columns = reader.fieldnames or []
        for column in ("path", "label"):
            if column not in columns:
                raise UserError(
                    f"{str(path)!r}, line 1: there is no column {column!r}, only "
                    f"{', '.join(columns) or 'none'}"
                )
        for record in reader:
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


def _labelled_file(
    record: Mapping[str, Any], root: Path, where: str
) -> tuple[str, LabelledFile]:
    """Return the split and the file of a line, if it has all it needs."""
    name = _text(record.get("path"))
    label = _text(record.get("label"))
    split = _text(record.get("split"))
    if not name or not label:
        raise UserError(f"{where}: there is no {'label' if name else 'path'}")
    # An empty field in a column of splits is a mistake; a list without it is all train.
    if "split" in record and split.lower() not in SPLIT_NAMES:
        raise UserError(f"{where}: {unknown('split', split, SPLIT_NAMES)}")
    if not (root / name).is_file():
        raise UserError(
            f"{where}: there is no file {str(root / name)!r}; paths are relative to the "
            "list's folder"
        )
    return SPLIT_NAMES[split.lower() or "train"], (name, label)


def _text(value: Any) -> str:
    return "" if value is None else str(value).strip()
