"""A list of labelled files: CSV or JSON lines with path, label and, if wanted, split.

With several labels per image there is `labels` in the place of `label`: in CSV they are
separated by ";", in JSON lines they are a list. The list may be empty.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import os
import re
import stat
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import UserError, unknown
from ..files import path_of
from ..untrusted.sizes import read_bytes
from ..untrusted.text import MOST_JSON, parse_json
from .bands import channels_of, learnt_first
from .folder import LabelledFile, labelled_files, natural
from .image_set import FileSet, ImageSet
from .names import SPLIT_NAMES, is_text
from .targets import SEPARATOR, table

# What programs write where they mean several labels; "[unknown]" is a name.
_LIST = re.compile(r"""\[\s*(['"].*['"]|\d[\d\s,]*)?\s*\]""")
_DECIMAL = re.compile(r"[+-]?\d*\.\d+([eE][+-]?\d+)?")
# What spreadsheets of different languages put between two fields.
_DELIMITERS = ",;\t"
# ImageNet-21k's 14 million lines have some 800 MB.
_MOST_BYTES = 2**31
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)

Lines = Iterator[tuple[int, Mapping[str, Any]]]
"""The number of each line in its file, and its fields."""


def read_listing(path: Path) -> dict[str, ImageSet]:
    """Return the splits of a list of files.

    Args:
        path: A .csv or .jsonl file; the paths in it are relative to its folder, or, in
            the split.csv of a run, to the folder of the run's images.

    Raises:
        UserError: The list cannot be read, or a line lacks a field or names an unknown
            split or a missing file, or one file has two labels or is in two splits.
    """
    readers = {".csv": _csv_lines, ".jsonl": _json_lines}
    read = readers.get(path.suffix.lower())
    if read is None:
        raise UserError(
            f"cannot read the list {str(path)!r}: expected a name that ends in .csv or "
            ".jsonl"
        )
    root = _root(path)
    text = _decoded(path)
    found: dict[str, list[_Line]] = {}
    files: dict[tuple[int, int], tuple[int, str, _Line]] = {}
    for number, record in read(text, path):
        where = f"{str(path)!r}, line {number}"
        split, line = _read_line(record, where)
        identity, line = _found(root, line, where)
        first = files.setdefault(identity, (number, split, line))
        _check_same(first, split, line, where)
        found.setdefault(split, []).append(line)
    if not found:
        raise UserError(
            f"the list {str(path)!r} has no images: expected rows of path,label[,split]"
        )
    # One line with a list of labels makes it a list of images with several labels.
    if any(line.several for lines in found.values() for line in lines):
        return _multi_labelled_files(path, root, found)
    _refuse_measurements(path, found.get("train", []))
    labelled: dict[str, list[LabelledFile]] = {}
    for split, lines in found.items():
        labelled[split] = [(line.name, line.labels[0]) for line in lines]
    return labelled_files(root, labelled)


def _decoded(path: Path) -> str:
    """Return the text of a list; bytes that are not UTF-8 may be in a file's name."""
    try:
        data = read_bytes(path, _MOST_BYTES)
        if data.startswith(_UTF_16):
            return data.decode("utf-16")
    except OSError as error:
        raise UserError(
            f"cannot read the list {str(path)!r}: {error.strerror}; check the path"
        ) from error
    except UnicodeDecodeError as error:
        raise UserError(
            f"cannot read the list {str(path)!r}: its UTF-16 is damaged at byte "
            f"{error.start}; save it as UTF-8"
        ) from error
    except ValueError as error:
        raise UserError(f"cannot read the list {str(path)!r}: {error}") from error
    # Spreadsheets put a byte order mark before the first column's name.
    return data.decode("utf-8-sig", "surrogateescape")


def _root(path: Path) -> Path:
    """Return the folder of the images; a run's split.csv lies elsewhere."""
    if not _is_of_run(path):
        return path.parent
    try:
        text = read_bytes(path.parent / "config.json", MOST_JSON)
        source = parse_json(text)["config"]["data"]["source"]
    except (OSError, ValueError, LookupError, TypeError):
        return path.parent
    name, colon, place = str(source).partition(":")
    try:
        images = path_of(place if colon else name)
    except UserError:
        return path.parent
    # The images of a list lie beside that list.
    if images.suffix.lower() in (".csv", ".jsonl"):
        images = images.parent
    return images if images.is_dir() else path.parent


def _is_of_run(path: Path) -> bool:
    return path.name == "split.csv" and (path.parent / "config.json").is_file()


def _found(root: Path, line: _Line, where: str) -> tuple[tuple[int, int], _Line]:
    """Return what tells a file from others, whatever it is called, and its line.

    Raises:
        UserError: There is no such file.
    """
    # A name may begin or end with a space, but those of a careless list do not count.
    for name in dict.fromkeys((line.name, line.name.strip())):
        try:
            # A Path is slow for a million lines.
            status = os.stat(os.path.join(root, name))  # noqa: PTH116, PTH118
        # A name may be too long, or hold what no name can.
        except (OSError, ValueError):
            continue
        if stat.S_ISREG(status.st_mode):
            return (status.st_dev, status.st_ino), line._replace(name=name)
    advice = "" if is_text(line.name) else "; the list is not UTF-8: save it as UTF-8"
    raise UserError(
        f"{where}: there is no file {str(root / line.name)!r}; paths are relative to "
        f"the list's folder{advice}"
    )


def _check_same(
    first: tuple[int, str, _Line], split: str, line: _Line, where: str
) -> None:
    """Refuse a file that an earlier line names with another label or split."""
    number, first_split, first_line = first
    if split != first_split:
        raise UserError(
            f"{where}: {line.name!r} is in {split}, and by line {number} in "
            f"{first_split}: an image may be in one split only"
        )
    if set(line.labels) != set(first_line.labels):
        one, other = (", ".join(labels) for labels in (first_line.labels, line.labels))
        raise UserError(
            f"{where}: {line.name!r} is called {other!r}, and by line {number} {one!r}: "
            "keep one of them"
        )


def _refuse_measurements(path: Path, lines: Sequence[_Line]) -> None:
    """Refuse numbers to be estimated, which would become a class each."""
    labels = {line.labels[0] for line in lines}
    decimals = sum(_DECIMAL.fullmatch(label) is not None for label in labels)
    if 2 * decimals > len(labels) and 2 * len(labels) > len(lines):
        example = next(label for label in sorted(labels) if _DECIMAL.fullmatch(label))
        raise UserError(
            f"the labels of {str(path)!r} are measurements such as {example}, nearly "
            "each another one: expected the names or numbers of classes"
        )


class _Line(NamedTuple):
    """Holds the path of an image and its labels, and whether they were a list."""

    name: str
    labels: tuple[str, ...]
    several: bool


def _multi_labelled_files(
    path: Path, root: Path, found: Mapping[str, Sequence[_Line]]
) -> dict[str, ImageSet]:
    """Return image sets whose images have any number of labels each."""
    teachers = [found["train"]] if "train" in found else list(found.values())
    names = {label for lines in teachers for line in lines for label in line.labels}
    classes = sorted(names, key=natural)
    if not classes:
        what = "training image" if "train" in found else "image"
        raise UserError(
            f"the list {str(path)!r} has no {what} with a label: expected some"
        )
    number = {label: k for k, label in enumerate(classes)}
    channels = channels_of(root, (line.name for line in learnt_first(found)))
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
        splits[split] = FileSet(
            root, files, None, classes, channels=channels, targets=targets
        )
    return splits


def _csv_lines(text: str, path: Path) -> Lines:
    header = text.partition("\n")[0]
    delimiter = next((sign for sign in _DELIMITERS if sign in header), ",")
    # A class of a run may begin with a space; in other lists it is a careless one.
    ours = _is_of_run(path)
    careless = not ours and _has_spaces_for_the_eye(text, header, delimiter)
    # A text in quotes may have several lines, so nothing is split before.
    lines = io.StringIO(text, newline="")
    reader = csv.DictReader(lines, delimiter=delimiter, skipinitialspace=careless)
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
                    f"the first line names; put quotes around a text with {delimiter!r}"
                )
            for column, value in record.items():
                if value is not None and column != "path" and not ours:
                    record[column] = value.strip()
            yield reader.line_num, record
    except csv.Error as error:
        raise UserError(f"{str(path)!r}, line {reader.line_num}: {error}") from error


def _has_spaces_for_the_eye(text: str, header: str, delimiter: str) -> bool:
    """Tell whether spaces behind delimiters are no part of the fields.

    They are where a space stands before a quote, which would be a part of a name else,
    or between the names of the columns. In other lists a name may begin with a space.
    """
    return f"{delimiter} " in header or f'{delimiter} "' in text or '\n "' in text


def _json_lines(text: str, path: Path) -> Lines:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        where = f"{str(path)!r}, line {number}"
        try:
            record = parse_json(line)
        except ValueError as error:
            raise UserError(f"{where}: not JSON ({error})") from error
        if not isinstance(record, dict):
            raise UserError(f'{where}: expected {{"path": ..., "label": ...}}')
        yield number, record


def _path(value: Any, where: str) -> str:
    """Return a path as it is, since names may begin or end with a space."""
    if value is None or isinstance(value, str):
        return value or ""
    raise UserError(f"{where}: the path is {json.dumps(value)[:80]}: expected a text")


def _read_line(record: Mapping[str, Any], where: str) -> tuple[str, _Line]:
    """Return the split and the image of a line, if it has all it needs."""
    name = _path(record.get("path"), where)
    split = _text(record.get("split")).strip()
    if not name:
        raise UserError(f"{where}: there is no path")
    labels, several = _labels(record, where)
    # An empty field in a column of splits is a mistake; a list without it is all train.
    if "split" in record and split.lower() not in SPLIT_NAMES:
        raise UserError(f"{where}: {unknown('split', split, SPLIT_NAMES)}")
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
    # macOS spells an accent as a letter of its own.
    label = unicodedata.normalize("NFC", _text(value))
    if not label.strip():
        raise UserError(f"{where}: there is no label")
    if _LIST.fullmatch(label):
        raise UserError(
            f"{where}: the label {label[:80]!r} looks like a list: several labels per "
            f"image go into a column 'labels', as cat{SEPARATOR}pet"
        )
    return label


def _text(value: Any) -> str:
    return "" if value is None else str(value)
