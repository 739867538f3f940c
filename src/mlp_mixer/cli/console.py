"""Where verbs print: results on stdout, progress and notes on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table


def stderr() -> Console:
    """A console on stderr (made anew, so that a redirected stream is respected)."""
    return Console(stderr=True, highlight=False)


def print_json(value: Any) -> None:
    """JSON on stdout for programs, one value, non-ASCII kept."""
    json.dump(value, sys.stdout, indent=2, ensure_ascii=False)
    sys.stdout.write("\n")


def print_table(headings: dict[str, str], rows: Sequence[tuple[str, ...]]) -> None:
    """A table on stdout; headings map a title to its justification, "left" or "right".
    Only the last column wraps.
    """
    table = Table(box=None, header_style="bold", pad_edge=False)
    for position, (title, justify) in enumerate(headings.items(), start=1):
        wraps = position == len(headings) and justify == "left"
        table.add_column(
            title, justify="right" if justify == "right" else "left", no_wrap=not wraps
        )
    for row in rows:
        table.add_row(*row)
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = 160
    console.print(table)


def percent(fraction: float) -> str:
    """0.98765 -> 98.77 %."""
    return f"{100 * fraction:.2f} %"
