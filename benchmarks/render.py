"""docs/numbers.md and its picture from benchmarks/results/*.csv: `python
benchmarks/render.py`.
"""

from __future__ import annotations

import itertools
from pathlib import Path

from mlp_mixer.bench.table import HEADINGS, lines, read_csv

ROOT = Path(__file__).parents[1]
SECTION = (
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
Row = dict[str, str]


def runs(folder: Path) -> list[list[Row]]:
    """The rows of each run, newest first."""
    rows = [row for path in sorted(folder.glob("*.csv")) for row in read_csv(path)]
    rows.sort(key=lambda row: row["when"], reverse=True)
    return [
        list(group)
        for _, group in itertools.groupby(
            rows, key=lambda row: [row[key] for key in SECTION]
        )
    ]


def page(found: list[list[Row]]) -> str:
    """Markdown: a section for each run."""
    text = [
        "# Numbers",
        "",
        "Medians (quartiles), written by `benchmarks/render.py` from `benchmarks/results`.",
        "",
    ]
    text += [
        "`of ours`: speed in units of ours, from quotients within each round. `MFU`: FLOP/s over those of a large"
    ]
    text += [
        "matmul in the same run. `roofline`: the time that this matmul and a large copy would need, over the time."
    ]
    text += [
        "",
        "![Speed of each competitor in units of ours, newest run of each kind](images/numbers.svg)",
    ]
    for group in found:
        when, model, task, batch, dtype, device, threads, versions, commit = (
            group[0][key] for key in SECTION
        )
        text += ["", f"## {model}, {task}, batch {batch}, {dtype}", ""]
        text += [
            f"{when[:10]}, {device}, {threads} threads, {versions}, commit {commit}.",
            "",
        ]
        text += [f"| {' | '.join(HEADINGS)} |", "|---" * len(HEADINGS) + "|"]
        text += [f"| {' | '.join(cells)} |" for cells in lines(group)]
    return "\n".join(text) + "\n"


def draw(found: list[list[Row]], path: Path) -> None:
    """A panel for each kind of run, the newest of it: a bar for each competitor, its
    quartiles as a line.
    """
    import matplotlib as mpl

    mpl.use("agg")
    mpl.rcParams |= {
        "font.size": 8,
        "svg.hashsalt": "mixer",
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    from matplotlib import pyplot

    newest: dict[tuple[str, ...], list[Row]] = {}
    for group in found:
        newest.setdefault(
            tuple(
                group[0][key] for key in ("model", "task", "batch", "dtype", "device")
            ),
            group,
        )
    columns = 3
    rows = -(-len(newest) // columns)
    figure, axes = pyplot.subplots(
        rows, columns, figsize=(9, 1.7 * rows), layout="constrained", squeeze=False
    )
    for ax in axes.flat[len(newest) :]:
        ax.remove()
    for ax, ((model, task, batch, dtype, _), group) in zip(
        axes.flat, sorted(newest.items()), strict=False
    ):
        shown = [row for row in group if row["ratio"]][::-1]
        middle, low, high = (
            [float(row[f"ratio{end}"]) for row in shown] for end in ("", "_q1", "_q3")
        )
        errors = [
            [max(0, m - q) for m, q in zip(middle, low, strict=True)],
            [max(0, q - m) for m, q in zip(middle, high, strict=True)],
        ]
        colours = [
            "#c8553d" if row["competitor"] == "ours" else "#9aa5b1" for row in shown
        ]
        ax.barh(
            [row["competitor"] for row in shown],
            middle,
            xerr=errors,
            color=colours,
            error_kw={"elinewidth": 1},
        )
        ax.axvline(1, color="black", linewidth=0.7)
        ax.set_title(f"{model}, {task}, batch {batch}, {dtype}", fontsize=8)
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    everything = runs(ROOT / "benchmarks" / "results")
    draw(everything, ROOT / "docs" / "images" / "numbers.svg")
    (ROOT / "docs" / "numbers.md").write_text(page(everything), encoding="utf-8")
