"""Make one file of the answers of all parts: the file that one process writes."""

from __future__ import annotations

import csv
import heapq
import itertools
import json
import re
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import PathLike, refusing
from .answers import Written, unfinished_path
from .formats import PART_COLUMNS, Columns, Row, check_out, write_rows

_TAG = re.compile(r"([0-9]{1,6})/([0-9]{1,6}) ([0-9a-f]{8})")
_MOST_NAMED = 10  # parts in an error
_ROWS_AT_A_TIME = 4096  # of Parquet


@dataclass
class _Part:
    """One file, read as it is needed."""

    path: Path
    columns: Columns
    rows: Iterator[Row]
    first: Row | None

    @property
    def tag(self) -> str:
        """Return what its rows say of the part, "" of a file without rows."""
        return "" if self.first is None else self.first["part"]


def join_answers(
    out: PathLike, parts: Iterable[PathLike], *, overwrite: bool = False
) -> Written:
    """Join the answers of all parts, in the order of the pictures.

    The file is the one that a single process would have written. Of each part only some
    rows are in memory.

    Args:
        out: A .csv, .json, .jsonl or .parquet file.
        parts: The files that `predict_to_file` wrote, one for each part, in any order
            and in the format of `out`.
        overwrite: Replace an older file of answers.

    Returns:
        How many pictures there are in all, and how many of them failed.

    Raises:
        UserError: A part is missing, damaged, unfinished or given twice, the parts are
            answers of different weights, settings or pictures, or `out` cannot be
            written.
    """
    path = Path(out)
    files = [Path(part) for part in parts]
    check_out(path, replace=overwrite)
    _check_names(path, files)
    with ExitStack() as stack:
        opened = [_open(file, stack) for file in files]
        _check_parts(opened)
        # Every part is in the order of the pictures, so all need one look ahead.
        merged = heapq.merge(*map(_checked, opened), key=lambda row: row["position"])
        counted = _Counted(_in_turn(merged))
        # A part without pictures knows no columns where only rows do.
        write_rows(path, opened[0].columns, counted)
    return Written(path, counted.pictures, counted.failed, counted.unknown)


class _Counted:
    """Passes rows on, without what they say of parts, and counts them."""

    def __init__(self, rows: Iterator[Row]) -> None:
        self.rows = rows
        self.pictures = 0
        self.failed = 0
        self.unknown = 0

    def __iter__(self) -> Iterator[Row]:
        """Yield the rows."""
        for row in self.rows:
            self.pictures += 1
            if row.get("error"):
                self.failed += 1
            elif row.get("pred_label") in (None, ""):
                self.unknown += 1
            yield {name: row[name] for name in row if name not in PART_COLUMNS}


def _check_names(out: Path, files: list[Path]) -> None:
    """Refuse what is wrong with the names alone."""
    if not files:
        raise UserError("there are no parts to join; name the file of each part")
    for file in files:
        if file.suffix.lower() != out.suffix.lower():
            raise UserError(
                f"cannot join {str(file)!r} into {str(out)!r}: expected parts that end in "
                f"{out.suffix}, as the whole does"
            )
        if not file.exists():
            begun = unfinished_path(file).exists()
            advice = (
                "it has not ended: go on with --resume" if begun else "check the path"
            )
            raise UserError(f"there is no part {str(file)!r}; {advice}")


def _check_parts(parts: list[_Part]) -> None:
    """Refuse parts that are not the parts of one whole."""
    numbers: dict[int, Path] = {}
    known: dict[str, Path] = {}
    count = len(parts)
    for part in parts:
        # A part that got no pictures does not say which one it is.
        if part.first is None:
            continue
        found = _TAG.fullmatch(part.tag)
        assert found is not None  # _row has checked it
        number = int(found[1])
        count = int(found[2])
        known.setdefault(f"{count} {found[3]} {list(part.columns)}", part.path)
        if len(known) > 1:
            one, other = list(map(str, known.values()))[:2]
            raise UserError(
                f"{one!r} and {other!r} are no parts of one whole: their weights, "
                "settings or numbers of parts differ"
            )
        if number in numbers:
            raise UserError(
                f"{str(numbers[number])!r} and {str(part.path)!r} are both part {number} "
                f"of {count}; give each part once"
            )
        numbers[number] = part.path
    empty = len(parts) - len(numbers)
    missing = [n for n in range(1, count + 1) if n not in numbers]
    if len(missing) > empty:
        shown = ", ".join(map(str, missing[:_MOST_NAMED]))
        more = ", ..." if len(missing) > _MOST_NAMED else ""
        raise UserError(
            f"parts are missing: {len(parts)} of {count} were given, without {shown}{more}"
        )
    if len(missing) < empty:
        raise UserError(
            f"{len(parts)} files were given for {count} parts; give each part once"
        )


def _in_turn(rows: Iterator[Row]) -> Iterator[Row]:
    """Yield rows as long as they are the answers to picture 0, 1, 2, ..."""
    for expected, row in enumerate(rows):
        if row["position"] != expected:
            raise UserError(
                f"the pictures have changed between the parts: expected number "
                f"{expected:,} of all, found number {row['position']:,} "
                f"({row['path']!r}); answer all parts again"
            )
        yield row


def _checked(part: _Part) -> Iterator[Row]:
    """Yield the rows of one part, all of which must say that they are."""
    last = -1
    for row in part.rows:
        if row["part"] != part.tag or row["position"] <= last:
            raise _damaged(part.path, "its rows are not in order")
        last = row["position"]
        yield row


def _open(path: Path, stack: ExitStack) -> _Part:
    """Open a part and look at its first row."""
    read = _READERS[path.suffix.lower()]
    with refusing("read", path):
        columns, rows = read(path, stack)
    rows = _rows(path, rows)
    first = next(rows, None)
    if first is not None:
        rows = itertools.chain([first], rows)
    return _Part(path, columns, rows, first)


def _rows(path: Path, rows: Iterator[Row]) -> Iterator[Row]:
    """Yield the rows of a file; whatever is wrong with it is one sentence."""
    try:
        for row in rows:
            yield _row(path, row)
    except UserError:
        raise
    except (OSError, ValueError, RecursionError, csv.Error) as error:
        raise _damaged(path, " ".join(str(error).split())) from error


def _row(path: Path, row: Any) -> Row:
    if not isinstance(row, dict) or not isinstance(row.get("path"), str):
        raise _damaged(path, "a row has no path")
    tag = row.get("part")
    if not isinstance(tag, str) or _TAG.fullmatch(tag) is None:
        raise _damaged(path, "its rows do not say which part they are")
    try:
        row["position"] = int(row["position"])
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(path, "a row has no position") from error
    return row


def _damaged(path: Path, reason: str) -> UserError:
    return UserError(
        f"{str(path)!r} is no part that `mlp-mixer predict --part` wrote: {reason}"
    )


def _read_csv(path: Path, stack: ExitStack) -> tuple[Columns, Iterator[Row]]:
    file = stack.enter_context(path.open(encoding="utf-8", newline=""))
    try:
        table = csv.DictReader(file, strict=True)
        names = table.fieldnames or ()
    except (ValueError, csv.Error) as error:
        raise _damaged(path, str(error)) from error
    if not PART_COLUMNS.keys() <= set(names):
        raise _damaged(path, "it has no columns position and part")
    return {name: "string" for name in names if name not in PART_COLUMNS}, table


def _read_jsonl(path: Path, stack: ExitStack) -> tuple[Columns, Iterator[Row]]:
    file = stack.enter_context(path.open(encoding="utf-8"))
    lines = (line.strip().removesuffix(",") for line in file)
    # Those of .json stand between brackets, one row a line as well.
    return {}, (json.loads(line) for line in lines if line not in ("", "[", "]"))


def _read_parquet(path: Path, stack: ExitStack) -> tuple[Columns, Iterator[Row]]:
    from pyarrow.parquet import ParquetFile

    try:
        file = stack.enter_context(ParquetFile(path))
    except (OSError, ValueError) as error:
        # What the system refuses has a number; what the library refuses has none.
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise _damaged(path, " ".join(str(error).split())) from error
    fields = {field.name: str(field.type) for field in file.schema_arrow}
    if not PART_COLUMNS.keys() <= fields.keys():
        raise _damaged(path, "it has no columns position and part")
    columns = {
        name: "float32" if kind == "float" else kind
        for name, kind in fields.items()
        if name not in PART_COLUMNS
    }
    groups = file.iter_batches(_ROWS_AT_A_TIME)
    return columns, itertools.chain.from_iterable(g.to_pylist() for g in groups)


_READERS = {
    ".csv": _read_csv,
    ".json": _read_jsonl,
    ".jsonl": _read_jsonl,
    ".parquet": _read_parquet,
}
