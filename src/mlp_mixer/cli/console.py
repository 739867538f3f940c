"""Print results on stdout, and progress and notes on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

_PLAIN_WIDTH = 160  # columns where stdout is no terminal


def stderr() -> Console:
    """Return a console on stderr.

    It is made anew each time, so that a redirected stream is respected.
    """
    return Console(stderr=True, highlight=False)


def print_json(value: Any) -> None:
    """Print one value as JSON on stdout, with non-ASCII characters kept.

    Args:
        value: Plain values.
    """
    json.dump(value, sys.stdout, indent=2, ensure_ascii=False)
    sys.stdout.write("\n")


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
        table.add_row(*row)
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


def escaped(text: str) -> str:
    r"""Return text that any stream of UTF-8 can take.

    Args:
        text: A byte of a file's name that is not UTF-8 becomes an escape such as
            \udcff, which JSON reads back.
    """
    return text.encode("utf-8", "backslashreplace").decode()


def printable(text: str) -> str:
    """Return text without what would break the line or steer the terminal.

    Args:
        text: Such as the name of a file, which may hold any character.
    """
    return "".join(
        letter if letter.isprintable() else repr(letter)[1:-1] for letter in text
    )
