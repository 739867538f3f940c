"""Show several runs beside each other: a row each, and their curves on one page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data.dataset import public_name
from ..errors import UserError
from ..files import PathLike
from ..intervals import wilson_interval
from ..training.choice import is_at_least_as_good
from ..training.journal import JournalRow, read_journal
from ..training.record import read_record
from .chart import Series, Style, line_chart
from .html import write_html
from .page import accuracy_chart, epochs, points


@dataclass(frozen=True)
class RunSummary:
    """Hold what one line can say of a run.

    Attributes:
        name: Its folder.
        recipe: The name of its recipe, or "-".
        model: The checkpoint it started from, or the name of its architecture.
        source: The dataset.
        steps: How far it came.
        epochs: How far it came.
        best_top1: Of the best checkpoint on the validation images, if there are any.
        best_map: Likewise, of images with several labels each.
        best_n: How many these are.
        train_loss: The last one.
        images_per_second: The median.
        seconds: Of training, without evaluation.
        clipped: The share of its steps whose gradient was clipped, if any could be.
        left_out: Steps that were not taken: their gradient was a spike, or not finite.
        journal: The rows of metrics.jsonl.
    """

    name: str
    recipe: str
    model: str
    source: str
    steps: int
    epochs: float
    best_top1: float | None
    best_map: float | None
    best_n: int
    train_loss: float | None
    images_per_second: float | None
    seconds: float
    clipped: float | None
    left_out: int
    journal: tuple[JournalRow, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON: everything but the journal."""
        values = {key: value for key, value in vars(self).items() if key != "journal"}
        values["interval"] = None
        if self.best_top1 is not None:
            values["interval"] = wilson_interval(
                self.best_top1 * self.best_n, self.best_n
            )
        return values


def find_runs(folders: Sequence[Path]) -> list[RunSummary]:
    """Find the runs in folders and below.

    Args:
        folders: Runs, or folders of runs.

    Returns:
        A summary of each, by name.

    Raises:
        UserError: There is no run.
    """
    found = set()
    for folder in folders:
        found |= {path.parent for path in folder.rglob("metrics.jsonl")}
    summaries = [_summarise(folder) for folder in sorted(found)]
    runs = [summary for summary in summaries if summary is not None]
    if not runs:
        shown = ", ".join(map(str, folders))
        raise UserError(
            f"no training run in {shown}; give the folder of one, or a folder of such "
            "folders"
        )
    return runs


def _summarise(folder: Path) -> RunSummary | None:
    """Summarise a run; None for another program's metrics.jsonl."""
    try:
        config = read_record(folder)["config"]
        journal = read_journal(folder)
    except UserError:
        return None
    model = config["model"]
    source = config["data"]["source"]
    train = [row for row in journal if row.get("kind") == "train"]
    evaluations = [row for row in journal if row.get("kind") == "eval"]
    best: JournalRow = {}
    for row in evaluations:
        if is_at_least_as_good(row, best or None):
            best = row
    # The median: a step that waited for a busy machine would spoil a mean.
    rates = sorted(
        row["images_per_second"] for row in train if "images_per_second" in row
    )
    return RunSummary(
        name=str(folder),
        recipe=config.get("recipe") or "-",
        model=_public(model.get("init") or model.get("name") or "-"),
        source=public_name(source),
        steps=max((row.get("step", 0) for row in journal), default=0),
        epochs=max((row.get("epoch", 0.0) for row in journal), default=0.0),
        best_top1=best.get("top1"),
        best_map=best.get("map"),
        best_n=best.get("n", 0),
        train_loss=train[-1].get("loss") if train else None,
        images_per_second=rates[len(rates) // 2] if rates else None,
        seconds=sum(row.get("seconds", 0.0) for row in train),
        clipped=_clipped(train),
        # A run that went back says so once more of the same step.
        left_out=len({row["left_out"] for row in journal if "left_out" in row}),
        journal=tuple(journal),
    )


def _clipped(train: Sequence[JournalRow]) -> float | None:
    """Return the share of clipped steps; a row has the mean of those since the last."""
    before = 0
    clipped = 0.0
    steps = 0
    for row in train:
        since = row.get("step", 0) - before
        before += since
        if "clipped" in row and since > 0:
            clipped += since * row["clipped"]
            steps += since
    return clipped / steps if steps else None


def _public(weights: str) -> str:
    """Return weights without the folders above them; a page is passed on."""
    if weights.startswith("hf-hub:") or "://" in weights:
        return weights
    path = Path(weights)
    # The checkpoints of all runs have the same name: their folder tells them apart.
    if path.stem in ("best", "last"):
        return "/".join(path.parts[-2:])
    return path.name


def write_comparison(runs: Sequence[RunSummary], path: PathLike) -> Path:
    """Write a page with a table and a chart each of accuracy and loss, a line per run.

    Args:
        runs: What to compare.
        path: The .html file, which is written whole or not at all.

    Returns:
        The path.

    Raises:
        UserError: The disk refuses.
    """
    charts = []
    for title, key in (("Validation top-1", "top1"), ("Validation mAP", "map")):
        curves = [_curve(run, "eval", key, dots=True) for run in runs]
        if any(curve.points for curve in curves):
            most = max(run.best_n for run in runs)
            charts.append(accuracy_chart(title, curves, most))
    losses = [_curve(run, "train", "loss") for run in runs]
    return write_html(
        path,
        "compare.html.j2",
        title="1 run" if len(runs) == 1 else f"{len(runs)} runs",
        # The swatches of the table are those of the charts.
        runs=[
            (run, Style(place), epochs(run.epochs)) for place, run in enumerate(runs)
        ],
        charts=[*charts, line_chart("Training loss", losses)],
    )


def _curve(run: RunSummary, kind: str, key: str, *, dots: bool = False) -> Series:
    rows = [row for row in run.journal if row.get("kind") == kind]
    return Series(run.name, points(rows, key), "none", dots=dots)
