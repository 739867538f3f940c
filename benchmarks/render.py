"""Write docs/numbers.md and its picture from the rows in benchmarks.

python benchmarks/render.py
"""

from __future__ import annotations

import csv
import itertools
from collections.abc import Sequence
from pathlib import Path

from mlp_mixer.bench.table import FACTS, HEADINGS, lines, read_csv

ROOT = Path(__file__).parents[1]
HEAD = """\
# Numbers

Medians (quartiles), written by `benchmarks/render.py` from `benchmarks/results`.

- `of ours`: speed in units of ours, from quotients within each round.
- `MFU`: FLOP/s in units of those of a large matmul in the same run.
- `roofline`: the time that this matmul and a large copy would need, over the time taken.

![Speed of each competitor in units of ours, newest run of each kind](images/numbers.svg)
"""
OURS_COLOUR = "#c8553d"
PEER_COLOUR = "#9aa5b1"
COLUMNS = 3

Row = dict[str, str]


def runs(folder: Path) -> list[list[Row]]:
    """The rows of each run, newest first."""
    rows = []
    for path in sorted(folder.glob("*.csv")):
        rows += read_csv(path)
    rows.sort(key=lambda row: row["when"], reverse=True)
    groups = itertools.groupby(rows, key=lambda row: [row[fact] for fact in FACTS])
    return [list(group) for _, group in groups]


def page(found: list[list[Row]], precisions: Sequence[Row] = ()) -> str:
    """Markdown: a section for each run, and one for what fewer bits cost."""
    parts = [HEAD, *[section(group) for group in found]]
    if precisions:
        parts.append(accuracies(precisions))
    return "\n".join(parts)


def accuracies(rows: Sequence[Row]) -> str:
    """The accuracy of each precision, from the rows of `precisions.py`."""
    facts = rows[0]
    said = (
        f"{int(facts['images']):,} CIFAR-10 test images; {facts['device']}, torch "
        f"{facts['torch']}, commit {facts['commit']}. Difference: the largest in a logit, "
        "in units of the largest logit."
    )
    if any(row["engine"] == "emulated" for row in rows):
        said += (
            " Emulated: products of rounded factors, for the processor has no such "
            "instructions, and the sum between a block's halves is not rounded."
        )
    text = [
        "## The bundled networks in fewer bits",
        "",
        said,
        "",
        "| weights | precision | by | top-1 (95 %) | other class than fp32 | difference |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        count = int(row["images"])
        interval = f"{float(row['top1_low']):.1%} to {float(row['top1_high']):.1%}"
        cells = (
            f"`{row['weights']}`",
            row["precision"],
            row["engine"],
            f"{int(row['right']) / count:.2%} ({interval})",
            f"{int(row['other_class_than_fp32']) / count:.2%}",
            row["largest_difference"],
        )
        text.append(f"| {' | '.join(cells)} |")
    return "\n".join(text) + "\n"


def section(group: list[Row]) -> str:
    """The facts of a run, and its table."""
    facts = group[0]
    where = f"{facts['device']}, {facts['threads']} threads, {facts['versions']}"
    text = [
        f"## {title(facts)}",
        "",
        f"{facts['when'][:10]}, {where}, commit {facts['commit']}.",
        "",
        f"| {' | '.join(HEADINGS)} |",
        "|---" * len(HEADINGS) + "|",
    ]
    text += [f"| {' | '.join(cells)} |" for cells in lines(group)]
    return "\n".join(text) + "\n"


def title(ours: Row) -> str:
    """What was measured, and in what ours computed if that is not the job's dtype."""
    facts = f"{ours['model']}, {ours['task']}, batch {ours['batch']}, {ours['dtype']}"
    if ours["competitor"] == "ours" and ours["precision"] not in ("", ours["dtype"]):
        facts += f", ours in {ours['precision']}"
    return facts


def newest_of_each_kind(found: list[list[Row]]) -> list[list[Row]]:
    """The newest run of each kind, in order of the kinds."""
    newest: dict[tuple[str, ...], list[Row]] = {}
    for group in found:
        facts = ("model", "task", "batch", "dtype", "device")
        kind = tuple(group[0][fact] for fact in facts)
        # `found` begins with the newest.
        newest.setdefault(kind, group)
    return [newest[kind] for kind in sorted(newest)]


def draw(found: list[list[Row]], path: Path) -> None:
    """A panel for each kind of run."""
    import matplotlib as mpl

    mpl.use("agg")
    mpl.rcParams |= {
        "font.size": 8,
        # The same numbers give the same bytes.
        "svg.hashsalt": "mixer",
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    from matplotlib import pyplot

    groups = newest_of_each_kind(found)
    rows = -(-len(groups) // COLUMNS)
    figure, axes = pyplot.subplots(
        rows, COLUMNS, figsize=(9, 1.8 * rows), layout="constrained", squeeze=False
    )
    for ax in axes.flat[len(groups) :]:
        ax.remove()
    for ax, group in zip(axes.flat, groups, strict=False):
        draw_panel(ax, group)
    figure.savefig(path, metadata={"Date": None})


def draw_panel(ax, group: list[Row]) -> None:
    """A bar for each competitor, its quartiles as a line."""
    # Bars go upwards, tables downwards.
    shown = [row for row in reversed(group) if row["ratio"]]
    names = [row["competitor"] for row in shown]
    medians = [float(row["ratio"]) for row in shown]
    below = [m - float(row["ratio_q1"]) for m, row in zip(medians, shown, strict=True)]
    above = [float(row["ratio_q3"]) - m for m, row in zip(medians, shown, strict=True)]
    # The digits of a file are rounded, so that a quartile may pass the median.
    errors = [[max(0, gap) for gap in gaps] for gaps in (below, above)]
    colours = [OURS_COLOUR if name == "ours" else PEER_COLOUR for name in names]
    ax.barh(names, medians, xerr=errors, color=colours, error_kw={"elinewidth": 1})
    ax.axvline(1, color="black", linewidth=0.7)
    # The same job on two processors has two panels.
    ax.set_title(f"{title(group[0])}\n{group[0]['device']}", fontsize=7)


if __name__ == "__main__":
    everything = runs(ROOT / "benchmarks" / "results")
    draw(everything, ROOT / "docs" / "images" / "numbers.svg")
    with (ROOT / "benchmarks" / "precisions.csv").open(newline="") as file:
        precisions = list(csv.DictReader(file))
    text = page(everything, precisions)
    (ROOT / "docs" / "numbers.md").write_text(text, encoding="utf-8")
