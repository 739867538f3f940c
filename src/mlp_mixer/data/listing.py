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


def read_listing(path: Path) -> dict[str, ImageSet]:
    """The splits of a .csv or .jsonl file, whose paths are relative to its folder.

    Raises:
        UserError: the list cannot be read, a line lacks a field or names an unknown
            split or a missing file.
    """
    readers = {".csv": _csv_lines, ".jsonl": _json_lines}
    if path.suffix.lower() not in readers:
        raise UserError(
            f"cannot read the list {str(path)!r}: expected a name that ends in .csv or .jsonl"
        )
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the list {str(path)!r}: {error}") from error
    found: dict[str, list[LabelledFile]] = {}
    for line, record in readers[path.suffix.lower()](text, path):
        split, row = _row(record, path.parent, f"{str(path)!r}, line {line}")
        found.setdefault(split, []).append(row)
    if "train" not in found:
        raise UserError(
            f"the list {str(path)!r} has no training images: expected rows of path,label[,split]"
        )
    return labelled_files(path.parent, found)


def _csv_lines(text: str, path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    reader = csv.DictReader(text.splitlines(), skipinitialspace=True)
    try:
        columns = reader.fieldnames or []
        if missing := [column for column in ("path", "label") if column not in columns]:
            raise UserError(
                f"{str(path)!r}, line 1: there is no column {missing[0]!r}, only {', '.join(columns) or 'none'}"
            )
        for record in reader:
            yield reader.line_num, record
    except csv.Error as error:
        raise UserError(f"{str(path)!r}, line {reader.line_num}: {error}") from error


def _json_lines(text: str, path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(
                f"{str(path)!r}, line {number}: not JSON ({error})"
            ) from error
        if not isinstance(record, dict):
            raise UserError(
                f'{str(path)!r}, line {number}: expected {{"path": ..., "label": ...}}'
            )
        yield number, record


def _row(record: Mapping[str, Any], root: Path, where: str) -> tuple[str, LabelledFile]:
    name, label, split = (_text(record.get(key)) for key in ("path", "label", "split"))
    if not name or not label:
        raise UserError(f"{where}: there is no {'label' if name else 'path'}")
    if "split" in record and split.lower() not in SPLIT_NAMES:
        raise UserError(f"{where}: {unknown('split', split, SPLIT_NAMES)}")
    if not (root / name).is_file():
        raise UserError(
            f"{where}: there is no file {str(root / name)!r}; paths are relative to the list's folder"
        )
    return SPLIT_NAMES[split.lower() or "train"], (name, label)


def _text(value: Any) -> str:
    return "" if value is None else str(value).strip()
