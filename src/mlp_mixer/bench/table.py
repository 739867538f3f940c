"""Results for people, and as CSV: a row per competitor with all that is needed to judge
it.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import write_bytes

_FACTS = (
    "when",
    "model",
    "task",
    "batch",
    "dtype",
    "device",
    "threads",
    "versions",
    "commit",
)
_SPEED = (
    "images_per_s",
    "images_per_s_q1",
    "images_per_s_q3",
    "ratio",
    "ratio_q1",
    "ratio_q3",
    "p50_ms",
    "p90_ms",
)
_REST = (
    "p99_ms",
    "cpu_s_per_image",
    "peak_mib",
    "mfu",
    "roofline",
    "error",
    "n",
    "matmul_flops",
    "copy_bytes",
)
COLUMNS = (*_FACTS, "competitor", "status", "precision", "note", *_SPEED, *_REST)
HEADINGS = (
    "who",
    "images/s",
    "of ours",
    "p50/p90/p99 ms",
    "CPU ms/image",
    "MiB",
    "MFU",
    "roofline",
    "error",
    "n",
)


def read_csv(path: Path) -> list[dict[str, str]]:
    """The rows of a file that `append_csv` wrote, none if it is not there; `UserError`
    if it is another file.
    """
    if not path.exists():
        return []
    reader = csv.DictReader(io.StringIO(path.read_bytes().decode(errors="replace")))
    if tuple(reader.fieldnames or ()) != COLUMNS:
        raise UserError(
            f"{str(path)!r} does not have the columns of `mlp-mixer bench --out`; choose another file"
        )
    return list(reader)


def append_csv(path: Path, result: Mapping[str, Any]) -> None:
    """Add a result of `bench` to a file, which is made if it is not there; `UserError`
    if it is another file.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    facts = {**result["environment"], **result}
    for row in [*read_csv(path), *(facts | row for row in result["rows"])]:
        writer.writerow(
            {
                key: f"{value:.6g}" if isinstance(value, float) else value
                for key, value in row.items()
            }
        )
    write_bytes(path, text.getvalue().encode())


def lines(rows: Iterable[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """The cells under `HEADINGS` of each competitor, from a result or from a file:
    medians (quartiles).
    """
    found = []
    for row in rows:
        details = ", ".join(row[key] for key in ("precision", "note") if row.get(key))
        who = f"{row['competitor']} ({details})" if details else row["competitor"]
        cells = [_spread(row, "images_per_s") or row["status"], _spread(row, "ratio")]
        cells.append(
            "/".join(
                _number(row, key, ".4g") for key in ("p50_ms", "p90_ms", "p99_ms")
            ).strip("/")
        )
        cells += [
            _number(row, "cpu_s_per_image", ".4g", 1e3),
            _number(row, "peak_mib", ".0f"),
        ]
        cells += [
            _number(row, "mfu", ".0%"),
            _number(row, "roofline", ".0%"),
            _number(row, "error", ".1g"),
        ]
        found.append((who, *cells, _number(row, "n", ".0f")))
    return found


def _spread(row: Mapping[str, Any], key: str) -> str:
    middle, low, high = (_number(row, key + end, ".3g") for end in ("", "_q1", "_q3"))
    return f"{middle} ({low}-{high})" if middle else ""


def _number(row: Mapping[str, Any], key: str, form: str, scale: float = 1) -> str:
    return "" if row.get(key) in (None, "") else f"{scale * float(row[key]):{form}}"
