"""The table of `small_folders.py`, from its rows."""

from __future__ import annotations

import statistics

import common
from small_folders import WAYS


def told(results: common.Results, _: str) -> str:
    """Fine-tuning beside its shortcut, by the number of images."""
    sizes = sorted({int(label.split()[0]) for label in results.labels()})
    found = {
        (count, way): results.seeds(f"{count} {way}") for count in sizes for way in WAYS
    }
    tops = {
        key: {seed: row["top1"] for seed, row in rows.items()}
        for key, rows in found.items()
    }
    # A seed draws the images that all ways learn from.
    pairs = [
        common.paired(tops[count, way], tops[count, WAYS[0]])
        for count in sizes
        for way in WAYS[1:]
    ]
    cells = iter(common.starred(pairs))
    lines = []
    for (count, way), rows in found.items():
        means = {
            key: statistics.mean(row[key] for row in rows.values())
            for key in ("loss", "cpu_s")
        }
        line = [
            f"{count:,}",
            way,
            len(rows),
            common.spread(tops[count, way].values()),
            "-" if way == WAYS[0] else next(cells),
            f"{means['loss']:.2f}",
            f"{means['cpu_s']:.0f}",
        ]
        lines.append(line)
    heads = [
        "images",
        "way",
        "n",
        "test top-1, %",
        f"minus {WAYS[0]}",
        "loss",
        "processor s",
    ]
    first = next(iter(results.rows.values()))
    return (
        f"{common.table(heads, lines)}\n\n{first['n']:,} test images; mean ± standard "
        "deviation; differences in points, seed by seed (a seed draws the images), with "
        f"95 % intervals. {common.STARS} {first['machine']}."
    )
