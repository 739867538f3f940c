"""Print results on stdout, and progress and notes on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from .streams import printable

_PLAIN_WIDTH = 160  # columns where stdout is no terminal


def stderr() -> Console:
    """Return a console on stderr.

    It is made anew each time, so that a redirected stream is respected.
    """
    return Console(stderr=True, highlight=False)


def print_json(value: Any) -> None:
    """Print one value as JSON on stdout, with all letters that stdout can take.

    Args:
        value: Plain values.
    """
    # Another encoding than UTF-8 has no way to write all letters that JSON reads back.
    plain = "utf" not in (sys.stdout.encoding or "").lower()
    print(json.dumps(value, indent=2, ensure_ascii=plain))


def print_table(headings: Mapping[str, str], rows: Sequence[tuple[str, ...]]) -> None:
    """Print a table on stdout, of which only the last column wraps.

    Args:
        headings: The titles, and how each column is justified: "left" or "right".
        rows: The texts.
    """
    table = Table(box=None, header_style="bold", pad_edge=False)
    for position, (title, justify) in enumerate(headings.items(), start=1):
        wraps = position == len(headings) and justify == "left"
        table.add_column(
            title, justify="right" if justify == "right" else "left", no_wrap=not wraps
        )
    for row in rows:
        table.add_row(*map(printable, row))
    console = Console(highlight=False, markup=False)
    # Rich would cut a table for a file or a pipe at 80 columns.
    if not console.is_terminal:
        console.width = _PLAIN_WIDTH
    console.print(table)


def percent(fraction: float) -> str:
    """Return 0.98765 as "98.77 %".

    Args:
        fraction: 0 to 1.
    """
    return f"{100 * fraction:.2f} %"
