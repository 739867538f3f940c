"""Files of answers: CSV, JSON, JSON lines or Parquet; features as NumPy's .npz."""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO, TypeAlias

import numpy as np

from ..errors import UserError
from ..files import atomic_file, refuse_to_replace
from .results import Features

Row: TypeAlias = "dict[str, Any]"
Columns: TypeAlias = "dict[str, str]"  # name -> type of Arrow

# How our own files begin; no other file is ever replaced, whatever was asked for.
_BEGINNING = {
    ".csv": b"path,pred_label",
    ".json": b'[\n{"path"',
    ".jsonl": b'{"path"',
    ".parquet": b"PAR1",
    ".npz": b"paths.npy",
}
PART_COLUMNS: Columns = {"position": "int64", "part": "string"}
"""What a part of all answers has besides: the place of its picture, and which part."""

_ROW_GROUP = 4096  # rows of Parquet in memory


def check_out(out: Path, *, features: bool = False, replace: bool = False) -> None:
    """Check, before any work, that a file can and may be written.

    Args:
        out: The file; its name ends in the format.
        features: Whether it is for features, and not for answers.
        replace: Whether an older file of ours may be replaced.

    Raises:
        UserError: The format is unknown or needs a package, or the name is taken.
    """
    what = "features" if features else "answers"
    suffix = out.suffix.lower()
    known = [".npz"] if features else [".csv", ".json", ".jsonl", ".parquet"]
    if suffix not in known:
        raise UserError(
            f"cannot write {what} to {str(out)!r}: expected a name that ends in "
            f"{' or '.join(known)}"
        )
    if out.is_dir():
        raise UserError(
            f"cannot write {what} to {str(out)!r}: it is a folder; give the name of a "
            "file in it"
        )
    # An empty file, such as one of mktemp, holds nothing that could be lost.
    if out.is_file() and out.stat().st_size:
        if not _is_ours(out, suffix):
            raise UserError(
                f"{str(out)!r} was not written by `mlp-mixer predict`; move it, or "
                "choose another name"
            )
        if not replace:
            refuse_to_replace(out)
    if suffix == ".parquet":
        try:
            import pyarrow.parquet  # noqa: F401
        except ImportError as error:
            raise UserError(
                f"{str(out)!r} needs pyarrow: pip install pyarrow"
            ) from error


def _is_ours(path: Path, suffix: str) -> bool:
    try:
        with path.open("rb") as file:
            # Not startswith: an .npz is a zip, whose header comes before the name.
            return _BEGINNING[suffix] in file.read(64)
    except OSError:
        return False


def write_answers(
    out: Path,
    rows: Iterable[Row],
    top: int,
    *,
    unknowns: bool = False,
    several: bool = False,
    part: bool = False,
) -> None:
    """Write answers to a file, which appears when it is complete.

    Args:
        out: The file; its name ends in the format.
        rows: Answers as `to_dict` returns them.
        top: How many candidates the columns of .csv and .parquet hold.
        unknowns: Whether answers may be unknown: the best candidate then has columns of
            its own.
        several: Whether pictures have several labels each, which then have columns.
        part: Whether the answers are one part of all, and say which.
    """
    columns = _columns(top, 1 if unknowns else 2, several)
    if part:
        columns |= PART_COLUMNS
    write_rows(out, columns, rows)


def write_rows(out: Path, columns: Columns, rows: Iterable[Row]) -> None:
    """Write rows to a file, which appears when it is complete.

    Args:
        out: The file; its name ends in the format.
        columns: Name and Arrow type of each column of .csv and .parquet.
        rows: Answers as `to_dict` returns them, or with their candidates in columns.
    """
    with atomic_file(out) as file:
        _WRITERS[out.suffix.lower()](file, columns, rows)


def write_features(out: Path, name: str, found: Sequence[Features]) -> None:
    """Write features to an .npz file.

    Args:
        out: The file.
        name: Of the feature, and of its array, float32 (N, ...); the array `paths` (N,)
            stands beside it.
        found: The features of N pictures.
    """
    arrays = [features.values[name] for features in found]
    stacked = np.stack(arrays) if arrays else np.empty((0,), np.float32)
    paths = np.array([features.path for features in found], dtype=np.str_)
    named: dict[str, Any] = {"paths": paths, name: stacked}
    with atomic_file(out) as file:
        # Without allow_pickle, which NumPy 2.0 takes for one more array.
        np.savez(file, **named)


def _utf8(text: str) -> bytes:
    r"""Encode text; a byte of a file's name that is not UTF-8 becomes \udcff.

    JSON reads such an escape back.
    """
    return text.encode("utf-8", "backslashreplace")


def _columns(top: int, first: int, several: bool) -> Columns:
    """Return names and Arrow types of the columns.

    Those of the answer begin with pred_; candidates are numbered, and the first of them
    is left out where it always is the answer. Several labels are one text, separated as
    in `list:` files, and so are their scores.
    """
    columns = {
        "path": "string",
        "pred_label": "int64",
        "pred_class": "string",
        "pred_score": "float32",
        "score_kind": "string",
    }
    for rank in range(first, top + 1):
        columns[f"top{rank}_class"] = "string"
        columns[f"top{rank}_score"] = "float32"
    if several:
        columns["labels"] = "string"
        columns["label_scores"] = "string"
    columns["error"] = "string"
    return columns


def _flat(answer: Row, columns: Columns) -> Row:
    """Return an answer as one row of the columns."""
    row = dict(answer)
    candidates = row.pop("top", ())
    for rank, candidate in enumerate(candidates, start=1):
        row[f"top{rank}_class"] = candidate["name"]
        row[f"top{rank}_score"] = candidate["score"]
    labels = row.get("labels")
    # Those of a row that was read from a table are texts already.
    if isinstance(labels, (list, tuple)):
        row["labels"] = ";".join(label["name"] for label in labels)
        row["label_scores"] = ";".join(f"{label['score']:.6g}" for label in labels)
    return {name: row.get(name) for name in columns}


def _write_csv(file: BinaryIO, columns: Columns, rows: Iterable[Row]) -> None:
    # csv writes text, and TextIOWrapper would close the file below it.
    text = SimpleNamespace(write=lambda line: file.write(_utf8(line)))
    table = csv.DictWriter(text, list(columns), lineterminator="\n")
    table.writeheader()
    for row in rows:
        table.writerow(_flat(row, columns))


def _write_jsonl(file: BinaryIO, columns: Columns, rows: Iterable[Row]) -> None:
    _write_json_rows(file, rows, between=b"\n")


def _write_json(file: BinaryIO, columns: Columns, rows: Iterable[Row]) -> None:
    file.write(b"[\n")
    _write_json_rows(file, rows, between=b",\n")
    file.write(b"]\n")


def _write_json_rows(file: BinaryIO, rows: Iterable[Row], between: bytes) -> None:
    for position, row in enumerate(rows):
        if position:
            file.write(between)
        file.write(_utf8(json.dumps(row, ensure_ascii=False)))
    file.write(b"\n")


def _write_parquet(file: BinaryIO, columns: Columns, rows: Iterable[Row]) -> None:
    import pyarrow
    from pyarrow.parquet import ParquetWriter

    fields = [(name, getattr(pyarrow, kind)()) for name, kind in columns.items()]
    schema = pyarrow.schema(fields)
    waiting = _utf8_rows(rows, columns)
    with ParquetWriter(file, schema) as writer:
        # In groups: a table of a million rows would stand in memory twice.
        while group := list(itertools.islice(waiting, _ROW_GROUP)):
            writer.write_table(pyarrow.Table.from_pylist(group, schema=schema))


def _utf8_rows(rows: Iterable[Row], columns: Columns) -> Iterator[Row]:
    """Yield flat rows whose texts are valid UTF-8, as Arrow demands."""
    for answer in rows:
        row = _flat(answer, columns)
        for name, value in row.items():
            if isinstance(value, str):
                row[name] = _utf8(value).decode()
        yield row


_WRITERS: dict[str, Callable[[BinaryIO, Columns, Iterable[Row]], None]] = {
    ".csv": _write_csv,
    ".json": _write_json,
    ".jsonl": _write_jsonl,
    ".parquet": _write_parquet,
}
