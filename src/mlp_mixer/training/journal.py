"""The journal of a run: one JSON object a line in `metrics.jsonl`."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import no_link, write_text
from ..untrusted.sizes import read_bytes
from ..untrusted.text import parse_json

JournalRow = dict[str, Any]
"""What was measured at one step: "kind", "step", "epoch" and the numbers by name."""

Report = Callable[[JournalRow], None]
"""Is called with every row of the journal while a run is in progress."""

NAME = "metrics.jsonl"

# A row has some 200 bytes, and the longest run has a million of them.
_MOST_BYTES = 2**28
_MOST_ROWS = 2_000_000
# A row of hundreds of blocks has some 20 kB.
_MOST_LINE = 2**17
_MOST_MARKS = 10_000
_MOST_DEPTH = 4
_MOST_STEPS = 2**53
_LARGEST = 1e300
_NUMBERS = (
    "epoch",
    "loss",
    "grad_norm",
    "clipped",
    "lr",
    "top1",
    "top5",
    "train_top1",
    "balanced_top1",
    "map",
    "n",
    "seconds",
    "images_per_second",
    "data_wait",
    "memory_mib",
)


def ignore_row(row: JournalRow) -> None:
    """Report nothing."""


# What chooses a checkpoint; a row has the names that its run asked for.
_QUALITIES = ("map", "balanced_top1", "top1")


def quality(row: JournalRow) -> float:
    """Return the number of an evaluation row that chooses the best checkpoint.

    Args:
        row: Of kind "eval".

    Returns:
        A share in [0, 1], larger is better; 0 without validation images.
    """
    for name in _QUALITIES:
        if name in row:
            return float(row[name])
    return 0.0


class Journal:
    """Appends rows to the journal; each is a whole line on the disk before the next.

    Attributes:
        path: The file.
        damaged: How many lines of an earlier journal could not be read.
    """

    def __init__(self, out: Path, *, from_step: int) -> None:
        """Open the journal and forget the rows after the step it is opened at.

        Args:
            out: The folder of the run.
            from_step: The step that the run continues from; 0 empties the journal.
        """
        self.path = out / NAME
        kept = []
        self.damaged = 0
        if from_step:
            rows, self.damaged = read_rows(out)
            kept = [row for row in rows if row.get("step", 0) <= from_step]
        write_text(self.path, "".join(json.dumps(row) + "\n" for row in kept))

    def append(self, row: JournalRow) -> None:
        """Add one row.

        Args:
            row: JSON values by name.

        Raises:
            UserError: The disk refuses.
        """
        try:
            with open(self.path, "a", encoding="utf-8", opener=no_link) as file:
                file.write(json.dumps(row) + "\n")
        except OSError as error:
            raise UserError(
                f"cannot write {str(self.path)!r}: {error.strerror}; free some space and "
                "resume"
            ) from error


def read_journal(out: Path) -> list[JournalRow]:
    """Return the rows of a run's journal, none if there is no journal.

    Args:
        out: The folder of the run.

    Raises:
        UserError: As for `read_rows`.
    """
    return read_rows(out)[0]


def read_rows(out: Path) -> tuple[list[JournalRow], int]:
    """Return the rows of a run's journal, and how many lines are damaged.

    A bit may flip in any line: the others are kept. The last one may be cut short by a
    crash, and is not counted: its step is not in a saved state either.

    Args:
        out: The folder of the run.

    Raises:
        UserError: It cannot be read, or is larger than a journal can be.
    """
    path = out / NAME
    if not path.is_file():
        return [], 0
    try:
        data = read_bytes(path, _MOST_BYTES)
    except OSError as error:
        raise UserError(
            f"cannot read {str(path)!r}: {error.strerror}; make it readable"
        ) from error
    except ValueError as error:
        raise UserError(f"{str(path)!r} is no journal of a run: {error}") from error
    if data.count(b"\n") > _MOST_ROWS:
        raise UserError(
            f"{str(path)!r} is no journal of a run: it has more than {_MOST_ROWS:,} lines"
        )
    rows = []
    damaged = 0
    for line in io.BytesIO(data):
        row = _row(line)
        if row is not None:
            rows.append(row)
        elif line.endswith(b"\n"):
            damaged += 1
    return rows, damaged


def _row(line: bytes) -> JournalRow | None:
    """Return the row in a line, None if it is none that a run writes."""
    try:
        row = parse_json(line, most=_MOST_LINE, marks=_MOST_MARKS, depth=_MOST_DEPTH)
    except ValueError:
        return None
    if not isinstance(row, dict) or not isinstance(row.get("kind", ""), str):
        return None
    step = row.get("step", 0)
    if type(step) is not int or not 0 <= step < _MOST_STEPS:
        return None
    # What is drawn and compared is a number, wherever it stands.
    measured = [row[name] for name in _NUMBERS if name in row]
    if any(type(value) not in (int, float) for value in measured):
        return None
    counts = (row.get("n", 0), row.get("left_out", 0))
    if any(type(count) is not int for count in counts):
        return None
    # An integer of JSON may have no float.
    huge = any(type(value) is int and abs(value) > _LARGEST for value in measured)
    return None if huge else row
