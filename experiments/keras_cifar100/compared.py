"""The table of this experiment, from its rows."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import common


def told(results: common.Results, _: str) -> str:
    """Networks and recipes, and what another recipe or network changes."""
    labels = [label for label in results.labels() if label.startswith("network ")]
    lines = []
    for label in labels:
        network, recipe = label.removeprefix("network ").split(" recipe ")
        rows = list(results.seeds(label).values())
        line = [
            network,
            recipe,
            f"{rows[0]['params']:,}",
            f"{rows[0]['mmacs']:.1f}",
            seconds(rows),
            len(rows),
            *(common.spread([row[key] for row in rows]) for key in ("top1", "top5")),
        ]
        lines.append(line)
    heads = [
        "network",
        "recipe",
        "parameters",
        "MMACs",
        "processor s",
        "n",
        "test top-1, %",
        "top-5, %",
    ]
    first = results.rows[f"{labels[0]} seed 0"]
    return (
        f"{common.table(heads, lines)}\n\n{differences(results, labels)}\n\nMean ± "
        "standard deviation. Differences in points with 95 % intervals: seed by seed "
        "where the network is the same, elsewhere Welch's. "
        f"{common.STARS} {first['machine']}."
    )


def seconds(rows: list[dict[str, float]]) -> str:
    if "cpu_s" not in rows[0]:
        return "-"
    return common.spread([row["cpu_s"] for row in rows], "{:.0f}", 1)


def differences(results: common.Results, labels: list[str]) -> str:
    """Each pair of rows once."""
    pairs = [
        (one, other)
        for place, one in enumerate(labels)
        for other in labels[place + 1 :]
    ]
    found = []
    for one, other in pairs:
        same = one.split(" recipe ")[0] == other.split(" recipe ")[0]
        compare = common.paired if same else common.welch
        found.append(compare(results.by_seed(other), results.by_seed(one)))
    cells = common.starred(found)
    lines = [
        [f"{other} minus {one}", cell]
        for (one, other), cell in zip(pairs, cells, strict=True)
    ]
    return common.table(["difference", "top-1"], lines)
