"""The journal of a run: one JSON object a line in `metrics.jsonl`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import write_text

JournalRow = dict[str, Any]
"""What was measured at one step: "kind", "step", "epoch" and the numbers by name."""

Report = Callable[[JournalRow], None]
"""Is called with every row of the journal while a run is in progress."""

NAME = "metrics.jsonl"


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
    """Appends rows to the journal; each is a whole line on the disk before the next."""

    def __init__(self, out: Path, *, from_step: int) -> None:
        """Open the journal and forget the rows after the step it is opened at.

        Args:
            out: The folder of the run.
            from_step: The step that the run continues from; 0 empties the journal.
        """
        self.path = out / NAME
        kept = []
        if from_step:
            kept = [row for row in read_journal(out) if row.get("step", 0) <= from_step]
        write_text(self.path, "".join(json.dumps(row) + "\n" for row in kept))

    def append(self, row: JournalRow) -> None:
        """Add one row.

        Args:
            row: JSON values by name.

        Raises:
            UserError: The disk refuses.
        """
        try:
            with self.path.open("a", encoding="utf-8") as file:
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
    """
    path = out / NAME
    if not path.is_file():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            # A crash cut the last line short. Its step is not in a saved state either.
            break
    return rows
