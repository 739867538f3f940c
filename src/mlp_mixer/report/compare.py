"""Several runs beside each other: a row each, and their curves on one page."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data.dataset import public_name
from ..errors import UserError
from ..files import PathLike, write_text
from ..training.journal import JournalRow, read_journal
from .chart import Series, line_chart, percent
from .page import environment, points


@dataclass(frozen=True)
class RunSummary:
    """What one line can say of a run."""

    name: str
    recipe: str
    model: str
    source: str
    steps: int
    epochs: float
    best_top1: float | None  # on the validation split
    train_loss: float | None  # the last one
    images_per_second: float | None  # median
    seconds: float  # of training, without evaluation
    journal: tuple[JournalRow, ...]


def find_runs(folders: list[Path]) -> list[RunSummary]:
    """The runs in these folders and below; `UserError` if there is none."""
    found = sorted(
        {path.parent for folder in folders for path in folder.rglob("metrics.jsonl")}
    )
    runs = [summary for folder in found if (summary := _summary(folder))]
    if not runs:
        shown = ", ".join(map(str, folders))
        raise UserError(
            f"no training run in {shown}; give the folder of one, or a folder of such folders"
        )
    return runs


def _summary(folder: Path) -> RunSummary | None:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))[
            "config"
        ]
        train = config["train"]
        model = config["model"]
        source = config["data"]["source"]
    except (OSError, ValueError, KeyError, TypeError):
        return None  # another program's metrics.jsonl
    journal = read_journal(folder)
    steps = [row for row in journal if row.get("kind") == "train"]
    tops = [
        row["top1"] for row in journal if row.get("kind") == "eval" and "top1" in row
    ]
    rates = sorted(row["images_per_second"] for row in steps)
    return RunSummary(
        name=str(folder),
        recipe=config.get("recipe") or "-",
        model=model.get("init") or model.get("name", "-"),
        source=public_name(source),
        steps=max((row.get("step", 0) for row in journal), default=0),
        epochs=max((row.get("epoch", 0.0) for row in journal), default=0.0),
        best_top1=max(tops, default=None),
        train_loss=steps[-1]["loss"] if steps else None,
        images_per_second=rates[len(rates) // 2] if rates else None,
        seconds=sum(row.get("seconds", 0.0) for row in steps) if train else 0.0,
        journal=tuple(journal),
    )


def write_comparison(runs: list[RunSummary], path: PathLike) -> Path:
    """A self-contained page with the table and one chart for each of accuracy and loss,
    a line per run.
    """

    def lines(kind: str, key: str, dots: bool) -> list[Series]:
        return [
            Series(
                run.name,
                points([row for row in run.journal if row.get("kind") == kind], key),
                "none",
                dots=dots,
            )
            for run in runs
        ]

    charts = [
        line_chart(
            "Validation top-1",
            lines("eval", "top1", True),
            percent,
            from_zero=False,
            limits=(0, 1),
        ),
        line_chart("Training loss", lines("train", "loss", False)),
    ]
    page = (
        environment().get_template("compare.html.j2").render(runs=runs, charts=charts)
    )
    write_text(path, page.encode("utf-8", "backslashreplace").decode("utf-8"))
    return Path(path)


def plain(run: RunSummary) -> dict[str, Any]:
    """For JSON: everything but the journal."""
    return {key: value for key, value in vars(run).items() if key != "journal"}
