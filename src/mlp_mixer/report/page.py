"""Show one run as one HTML page.

It has facts, curves, confusions, pictures, configuration and provenance.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..evaluation.calibration import Calibration
from ..evaluation.multilabel import LabelScore
from ..files import PathLike, write_text
from ..intervals import decimals
from .chart import Annotation, Chart, Point, Series, line_chart, percent
from .confusion import check_confusion, class_rows, confused_pairs
from .html import Image8, render_html, to_float
from .reliability import Tempered, reliability_chart, sureness
from .sample import Sample

Row = Mapping[str, Any]

_MOST_CLASSES_IN_TABLE = 25


class Drawing(NamedTuple):
    """Hold a picture of the weights: uint8 (H, W, C), for light and for dark pages."""

    heading: str
    caption: str
    light: Image8
    dark: Image8


@dataclass(frozen=True)
class CellPictures:
    """Hold pictures of one cell of the confusion matrix.

    Attributes:
        true: The place of the true class.
        predicted: The place of the predicted class.
        pictures: Name and uint8 (H, W, C) of some of them.
    """

    true: int
    predicted: int
    pictures: tuple[tuple[str, Image8], ...]


@dataclass(frozen=True)
class Report:
    """Hold what `render` shows; empty parts leave no trace on the page.

    Attributes:
        title: Of the page.
        subtitle: One sentence below it.
        facts: (label, value) of each card.
        journal: The rows of metrics.jsonl.
        classes: The names of the K classes.
        confusion: Counts (K, K), rows true and columns predicted.
        samples: Some pictures with predictions.
        mistakes: Pictures with wrong predictions.
        pictures: Of the weights.
        config: The settings of the run; they may be nested.
        provenance: Where the checkpoint comes from; it may be nested.
        calibration: Of the answers as they are.
        tempered: A temperature that other images chose, and the calibration with it.
        remark: A sentence on the calibration, such as why there is no temperature.
        cells: Pictures of cells of the confusion matrix.
        labels: Of pictures with several labels each, instead of the confusion, what was
            measured of each class.
        mislabelled: Likewise how many pictures have a wrong label, and of how many.
    """

    title: str
    subtitle: str
    facts: tuple[tuple[str, str], ...]
    journal: tuple[dict[str, Any], ...]
    classes: tuple[str, ...]
    confusion: NDArray[Any] | None
    samples: tuple[Sample, ...]
    mistakes: tuple[Sample, ...]
    pictures: tuple[Drawing, ...]
    config: dict[str, Any]
    provenance: dict[str, Any]
    calibration: Calibration | None = None
    tempered: Tempered | None = None
    remark: str = ""
    cells: tuple[CellPictures, ...] = ()
    labels: tuple[LabelScore, ...] = ()
    mislabelled: tuple[int, int] | None = None


def write_report(report: Report, path: PathLike) -> Path:
    """Write the page of a report, whole or not at all.

    Args:
        report: What the page shows.
        path: The .html file.

    Returns:
        The path.

    Raises:
        UserError: The disk refuses, or the report does not fit together, as in `render`.
    """
    write_text(path, render(report))
    return Path(path)


def render(report: Report) -> str:
    """Return the page of a report as HTML.

    Args:
        report: What the page shows.

    Raises:
        UserError: The confusion matrix does not fit the classes, or a picture is not
            uint8.
    """
    if report.confusion is not None:
        check_confusion(report.confusion, report.classes)
    return render_html(
        "report.html.j2",
        title=report.title,
        report=report,
        charts=_charts(report.journal) if report.journal else [],
        reliability=reliability_chart(report.calibration, report.tempered),
        sureness=sureness(report.calibration, report.tempered, report.remark),
        with_top5=_with_top5(report.classes),
        pace=_pace(report.journal),
        evaluations=_evaluations(report.journal),
        settings=list(_flat(report.config)),
        origins=list(_flat(_shown(report))),
        **_confusion(report),
    )


def _evaluations(journal: Iterable[Row]) -> list[dict[str, Any]]:
    """Return the evaluations of a journal for a table."""
    found = []
    for row in journal:
        if row.get("kind") == "eval":
            epoch = to_float(row.get("epoch"))
            shown = epochs(epoch) if math.isfinite(epoch) else "–"
            found.append({**row, "epoch": shown})
    return found


def _confusion(report: Report) -> dict[str, Any]:
    """Return the confusion matrix as a table, or as a list if the table is too large."""
    confusion = report.confusion
    if confusion is None or not report.classes:
        nothing = ("rows", "pairs", "n", "wrong", "cells")
        return dict.fromkeys(nothing)
    # A table of more classes is a wall of zeros, in which no mistake is found.
    rows = None
    pairs = None
    if len(report.classes) <= _MOST_CLASSES_IN_TABLE:
        rows = class_rows(confusion, report.classes)
    else:
        pairs = confused_pairs(confusion, report.classes)
    return {
        "rows": rows,
        "pairs": pairs,
        "n": int(confusion.sum()),
        "wrong": int(confusion.sum() - np.trace(confusion)),
        "cells": {(cell.true, cell.predicted): cell.pictures for cell in report.cells},
    }


def _charts(journal: Iterable[Row]) -> list[Chart]:
    """Draw loss, accuracy, learning rate and gradient norm over the steps."""
    train = []
    splits: dict[str, list[Row]] = {}
    for row in journal:
        if row.get("kind") == "train":
            train.append(row)
        elif row.get("kind") == "eval":
            splits.setdefault(str(row.get("split", "evaluation")), []).append(row)
    losses = [Series("training", points(train, "loss"), "last")]
    accuracies: list[Series] = []
    # With several labels per picture there is no top-1 accuracy.
    several = any("map" in row for rows in splits.values() for row in rows)
    key = "map" if several else "top1"
    images = 0
    # The training line is 0, so a split has the same style in both charts.
    for style, (split, rows) in enumerate(splits.items(), start=1):
        # Dots: a run with a single evaluation has no line to draw.
        losses.append(Series(split, points(rows, "loss"), dots=True, style=style))
        # Only the first is annotated on the chart: the best of two splits are often so
        # close that the numbers collide.
        note: Annotation = "none" if accuracies else "highest"
        measured = points(rows, key)
        images = max(images, *(int(row.get("n", 0)) for row in rows))
        accuracies.append(Series(split, measured, note, dots=True, style=style))
    rates = [Series("learning rate", points(train, "lr"), "highest")]
    norms = [Series("gradient norm", points(train, "grad_norm"), "last")]
    charts = [
        line_chart("Loss", losses),
        accuracy_chart("mAP" if several else "Top-1 accuracy", accuracies, images),
        line_chart("Learning rate", rates),
        line_chart("Gradient norm", norms),
    ]
    # A linear probe has no learning rate, and nobody misses an empty chart.
    return [chart for chart in charts if chart.lines]


def accuracy_chart(title: str, series: Sequence[Series], images: int) -> Chart:
    """Draw fractions over the steps, on a scale of percent that may begin above zero.

    Args:
        title: Above the chart.
        series: Its lines.
        images: On how many images the largest of them was measured: more decimals than
            so many carry are not written.

    Returns:
        The chart.
    """
    places = decimals(0.5, images)

    def text(fraction: float) -> str:
        return percent(round(fraction, places + 2))

    return line_chart(
        title, series, text, from_zero=False, limits=(0, 1), tick_text=percent
    )


def _with_top5(classes: Sequence[str]) -> bool:
    """Whether top-5 accuracy says anything: of five classes it is always 100 %."""
    return not 0 < len(classes) <= 5


def _shown(report: Report) -> dict[str, Any]:
    """Return the provenance for a reader: no 16 digits, no top-5 that says nothing.

    The settings of the run stay exact, because they are copied.
    """
    hidden = set() if _with_top5(report.classes) else {"top5"}
    return {key: _short(value, hidden) for key, value in report.provenance.items()}


def _short(value: Any, hidden: set[str]) -> Any:
    """Round the floats in a nested value to five digits, and leave out some keys."""
    if isinstance(value, float) and math.isfinite(value):
        return float(f"{value:.5g}")
    if isinstance(value, Mapping):
        kept = {key: one for key, one in value.items() if key not in hidden}
        return {key: _short(one, hidden) for key, one in kept.items()}
    return value


def epochs(value: float) -> str:
    """Write a number of epochs, of which a reader wants no fractions: 11.0345 -> 11.

    Args:
        value: From 0; below one epoch two digits are kept.
    """
    if value < 1:
        return f"{value:.2g}"
    return f"{value:.1f}".removesuffix(".0")


def points(rows: Iterable[Row], key: str) -> list[Point]:
    """Return a curve of the journal.

    A run that was resumed from an earlier step wrote some steps twice; the last row of
    a step counts.

    Args:
        rows: Of the journal; those without the value are left out.
        key: The name of the value.

    Returns:
        (step, value) by step.
    """
    values = {}
    for row in rows:
        if "step" in row and key in row:
            values[row["step"]] = to_float(row[key])
    return sorted(values.items())


def _pace(journal: Iterable[Row]) -> str:
    """Say how long and how fast the training went; "" if the journal does not."""
    train = [row for row in journal if row.get("kind") == "train"]
    parts = []
    if steps := _finite(train, "step"):
        parts.append(f"{max(steps):,.0f} steps")
    if passed := _finite(train, "epoch"):
        parts.append(f"{epochs(max(passed))} epochs")
    if rates := _finite(train, "images_per_second"):
        parts.append(f"median {statistics.median(rates):,.0f} images per second")
    return ", ".join(parts)


def _finite(rows: Iterable[Row], key: str) -> list[float]:
    values = [to_float(row.get(key)) for row in rows]
    return [value for value in values if math.isfinite(value)]


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Spell nested groups as `--set a.b=c` does, and values as JSON but strings bare."""
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{name}.")
        elif isinstance(value, str):
            yield name, value
        else:
            yield name, json.dumps(value, ensure_ascii=False, default=str)
