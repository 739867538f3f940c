"""docs/numbers.md from benchmarks/results/*.csv: `python benchmarks/render.py > docs/numbers.md`."""

from __future__ import annotations

import itertools
from pathlib import Path

from mlp_mixer.bench.table import HEADINGS, lines, read_csv

SECTION = ("when", "model", "task", "batch", "dtype", "device", "threads", "versions", "commit")


def render(folder: Path) -> str:
    """Markdown: a section for each run, newest first."""
    rows = [row for path in sorted(folder.glob("*.csv")) for row in read_csv(path)]
    rows.sort(key=lambda row: row["when"], reverse=True)
    page = ["# Numbers", "", "Medians (quartiles), written by `benchmarks/render.py` from `benchmarks/results`.", ""]
    page += ["`of ours`: speed in units of ours, from quotients within each round. `MFU`: FLOP/s over those of a large"]
    page += [
        "matmul in the same run. `roofline`: the time that this matmul and a large copy would need, over the time."
    ]
    for facts, group in itertools.groupby(rows, key=lambda row: [row[key] for key in SECTION]):
        when, model, task, batch, dtype, device, threads, versions, commit = facts
        page += ["", f"## {model}, {task}, batch {batch}, {dtype}", ""]
        page += [f"{when[:10]}, {device}, {threads} threads, {versions}, commit {commit}.", ""]
        page += [f"| {' | '.join(HEADINGS)} |", "|---" * len(HEADINGS) + "|"]
        page += [f"| {' | '.join(cells)} |" for cells in lines(group)]
    return "\n".join(page) + "\n"


if __name__ == "__main__":
    print(render(Path(__file__).parent / "results"), end="")
