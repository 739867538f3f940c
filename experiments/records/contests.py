"""Tables of networks that had the same processor seconds, from their rows.

Rows are named `NETWORK seed SEED`; what costs seconds only (ridge regression, a linear
probe) has a name alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import common
from clock import HEADS, cells

PHOTOS = (1800, 1000)
"""Of the dataset of `photos.py`: images to learn from, and to test."""
CIFAR10 = 50_000


def told(
    results: common.Results,
    labels: Sequence[str],
    images: int,
    about: str,
    *,
    rates: bool,
) -> str:
    """The table, and how far the first network is ahead of each other one.

    Args:
        results: The rows.
        labels: The networks.
        images: Of an epoch.
        about: What stands below the table, before the statistics.
        rates: Whether a column shows the learning rate that was picked.
    """
    tops = {label: results.by_seed(label) for label in labels}
    # Networks and augmentations differ, so that a seed gives them nothing in common.
    ahead = common.starred(
        [common.welch(tops[labels[0]], tops[other]) for other in labels[1:]]
    )
    lines = []
    for label, difference in zip(labels, ["-", *ahead], strict=True):
        rows = list(results.seeds(label).values())
        line = [label]
        if rates:
            tried = results.tried(f"pick {label} lr ")
            line.append(common.rate_cell(float(f"{rows[0]['lr']:.2g}"), rounded(tried)))
        lines.append([*line, *cells(rows, images), len(rows), difference])
    blank = ["-"] * len(HEADS)
    for name, row in results.rows.items():
        if "seed" not in name and not name.startswith("pick"):
            lines.append([name, *["-"] * rates, *alone(row, blank), "-", "-"])
    heads = ["network", *["lr"] * rates, *HEADS, "n", f"{labels[0]} minus it"]
    machine = results.rows[f"{labels[0]} seed 0"]["machine"]
    ends = f" {common.ENDS}" if rates else ""
    return (
        f"{common.table(heads, lines)}\n\n{about} Mean ± standard deviation; "
        f"differences in points with 95 % intervals (Welch). {common.STARS}{ends} "
        f"{machine}."
    )


def rounded(tried: dict[float, float]) -> dict[float, float]:
    return {float(f"{lr:.2g}"): top1 for lr, top1 in tried.items()}


def alone(row: dict[str, Any], blank: list[str]) -> list[str]:
    """The cells of what was measured once, beside the contest."""
    line = list(blank)
    line[HEADS.index("test top-1, %")] = f"{100 * row['top1']:.1f}"
    line[HEADS.index("processor, s")] = f"{row['cpu_s']:.0f}"
    return line


def photos_told(results: common.Results, _: str) -> str:
    """Of the networks that `photos.py` has now, or of the earlier ones."""
    from photos import CONTESTANTS

    learnt, tested = PHOTOS
    about = f"{learnt:,} photographs to learn from, {tested:,} to test."
    labels = results.labels()
    now = [name for name in CONTESTANTS if name in labels]
    return told(results, now or labels, learnt, about, rates=True)
