"""Tables in Markdown, and their places in README.md."""

from __future__ import annotations

import argparse
import statistics
import textwrap
from collections.abc import Collection, Sequence
from pathlib import Path

CLOSING = "<!-- end -->"
COLUMNS = 120
"""Of prose in README.md."""


def spread(
    values: Collection[float], text: str = "{:.1f}", scale: float = 100.0
) -> str:
    """Mean ± standard deviation, or the value alone; by default of fractions, in per
    cent.
    """
    scaled = [value * scale for value in values]
    middle = text.format(statistics.mean(scaled))
    return (
        f"{middle} ± {text.format(statistics.stdev(scaled))}"
        if len(scaled) > 1
        else middle
    )


def per_cent(columns: Sequence[Collection[float]]) -> tuple[list[float], list[float]]:
    """Means and standard deviations of fractions, as `errorbar` takes them."""
    return [100 * statistics.mean(c) for c in columns], [
        100 * statistics.stdev(c) for c in columns
    ]


def table(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table in Markdown."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(
        "| " + " | ".join(str(cell) for cell in line) + " |" for line in lines
    )


def wrapped(text: str) -> str:
    """The text with its prose in lines of 120 columns; tables stay as they are."""
    lines = []
    for line in text.strip().splitlines():
        if line.startswith("|") or not line:
            lines.append(line)
        else:
            lines += textwrap.wrap(
                line, COLUMNS, break_on_hyphens=False, break_long_words=False
            )
    return "\n".join(lines)


def placed(page: str, mark: str, text: str) -> str:
    """The page with that text between its marks `<!-- mark -->` and `<!-- end -->`.

    Raises:
        ValueError: The page lacks them.
    """
    before, opening, rest = page.partition(f"<!-- {mark} -->")
    _, closing, after = rest.partition(CLOSING)
    if not (opening and closing):
        raise ValueError(f"no place marked <!-- {mark} --> ... {CLOSING}")
    return f"{before}{opening}\n{wrapped(text)}\n{closing}{after}"


def write_up(choice: argparse.Namespace, script: str, text: str) -> None:
    """Print the tables; at a budget other than smoke also put them into README.md,
    between its two marks.
    """
    print(text)
    readme = Path(script).parent / "README.md"
    page = readme.read_text(encoding="utf-8") if readme.exists() else ""
    marked = f"<!-- {choice.budget} -->" in page
    if choice.budget != "smoke" and choice.out is None and marked:
        readme.write_text(placed(page, choice.budget, text), encoding="utf-8")
