"""The results of a bench as a table for people, and as CSV for later.

A row of the CSV holds all that is needed to reproduce it: the machine, the versions and
the commit stand beside the numbers.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import write_bytes

# fmt: off
# What was measured where; the same in all rows of one bench.
FACTS = ("when", "model", "task", "batch", "dtype", "device", "threads", "versions", "commit")
COLUMNS = (
    *FACTS,
    "competitor", "status", "precision", "note",
    "images_per_s", "images_per_s_q1", "images_per_s_q3",
    "ratio", "ratio_q1", "ratio_q3",
    "p50_ms", "p90_ms", "p99_ms", "cpu_s_per_image", "peak_mib",
    "mfu", "roofline", "error", "n", "matmul_flops", "copy_bytes",
)
HEADINGS = (
    "competitor", "images/s", "of ours", "p50/p90/p99 ms", "CPU ms/image", "MiB",
    "MFU", "roofline", "error", "n",
)
# fmt: on


def read_csv(path: Path) -> list[dict[str, str]]:
    """Read the rows of a file that `append_csv` wrote.

    Args:
        path: The file.

    Returns:
        The rows; an empty list if there is no file.

    Raises:
        UserError: It is another file.
    """
    if not path.exists():
        return []
    # "replace": a file that is not text is refused for its columns, in words.
    text = path.read_bytes().decode(errors="replace")
    reader = csv.DictReader(io.StringIO(text))
    if tuple(reader.fieldnames or ()) != COLUMNS:
        raise UserError(
            f"{str(path)!r} does not have the columns of `mlp-mixer bench --out`; "
            "choose another file"
        )
    return list(reader)


def append_csv(path: Path, result: Mapping[str, Any]) -> None:
    """Add a result of `bench` to a file, or begin one.

    Args:
        path: The file.
        result: What `bench` returned.

    Raises:
        UserError: It is another file.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    # Written as a whole, so that a crash leaves the old file.
    for row in read_csv(path):
        writer.writerow(row)
    facts = {**result["environment"], **result}
    for row in result["rows"]:
        cells = {key: _csv_cell(value) for key, value in (facts | row).items()}
        writer.writerow(cells)
    write_bytes(path, text.getvalue().encode())


def _csv_cell(value: Any) -> Any:
    return f"{value:.6g}" if isinstance(value, float) else value


def lines(rows: Iterable[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Format rows as the cells under `HEADINGS`.

    Args:
        rows: From a result of `bench`, or from `read_csv`.

    Returns:
        The cells of each row: medians, with quartiles in brackets.
    """
    return [_cells(row) for row in rows]


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    details = [row[key] for key in ("precision", "note") if row.get(key)]
    competitor = row["competitor"]
    if details:
        competitor = f"{competitor} ({', '.join(details)})"
    waits = [_number(row, key, ".4g") for key in ("p50_ms", "p90_ms", "p99_ms")]
    return (
        competitor,
        _spread(row, "images_per_s") or row["status"],
        _spread(row, "ratio"),
        "/".join(waits).strip("/"),
        _number(row, "cpu_s_per_image", ".4g", 1e3),
        _number(row, "peak_mib", ".0f"),
        _number(row, "mfu", ".0%"),
        _number(row, "roofline", ".0%"),
        _number(row, "error", ".1g"),
        _number(row, "n", ".0f"),
    )


def _spread(row: Mapping[str, Any], key: str) -> str:
    """Format a median with its quartiles; "" if it was not measured."""
    median = _number(row, key, ".3g")
    if not median:
        return ""
    low = _number(row, f"{key}_q1", ".3g")
    high = _number(row, f"{key}_q3", ".3g")
    return f"{median} ({low}-{high})"


def _number(row: Mapping[str, Any], key: str, form: str, scale: float = 1) -> str:
    """Format a number of a row; "" if it was not measured."""
    if row.get(key) in (None, ""):
        return ""
    return f"{scale * float(row[key]):{form}}"
