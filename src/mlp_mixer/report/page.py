"""One self-contained HTML page for one run: facts, curves, confusions, pictures,
configuration, provenance.

The page asks for nothing from outside (its content policy forbids it) and runs no
script. All text from users is escaped by the template engine; pictures are PNG data
URIs.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..analysis import to_png
from ..evaluation.calibration import Calibration
from ..files import PathLike, write_text
from .chart import Chart, Point, Series, line_chart, number, percent
from .confusion import check_confusion, class_rows, confused_pairs

Image8 = NDArray[np.uint8]

_MOST_CLASSES_IN_TABLE = 25
_FEWEST_ANSWERS = 5  # in a dot of the calibration chart: fewer say little
_DOTS = f"Each dot is a fifteenth of the scale in which at least {_FEWEST_ANSWERS} answers fell."
_MOST_SAMPLE_PIXELS = 256  # on the longer side; cards show about 180
_SMALL_PIXELS = 64  # up to here an enlarged picture shows its pixels instead of a blur


@dataclass(frozen=True)
class Sample:
    """One picture (uint8 HWC, C 1 or 3) with its prediction: classes with probabilities
    (0 to 1), best first.

    heat: the picture under a map of what spoke for the best class.
    """

    name: str
    image: Image8
    true_class: str | None
    top: tuple[tuple[str, float], ...]
    heat: Image8 | None = None

    @property
    def correct(self) -> bool | None:
        """Whether the best class is the true one; None where that is not known."""
        return (
            self.top[0][0] == self.true_class
            if self.top and self.true_class is not None
            else None
        )


@dataclass(frozen=True)
class Report:
    """What `render` shows; empty parts leave no trace on the page.

    `facts` are (label, value) cards; `journal` holds the rows of metrics.jsonl;
    `confusion` is (K, K) of counts, rows true and columns predicted; `pictures` are
    (heading, caption, uint8 HWC); `config` and `provenance` may be nested.
    """

    title: str
    subtitle: str
    facts: tuple[tuple[str, str], ...]
    journal: tuple[dict[str, Any], ...]
    classes: tuple[str, ...]
    confusion: NDArray[Any] | None
    samples: tuple[Sample, ...]
    mistakes: tuple[Sample, ...]
    pictures: tuple[tuple[str, str, Image8], ...]
    config: dict[str, Any]
    provenance: dict[str, Any]
    calibration: Calibration | None = None
    tempered: tuple[float, Calibration] | None = (
        None  # with a temperature that other images chose
    )


def write_report(report: Report, path: PathLike) -> Path:
    """Write the page to `path` (whole or not at all) and return it; `UserError` if the
    disk refuses.
    """
    write_text(path, render(report))
    return Path(path)


def render(report: Report) -> str:
    """The page as HTML; `UserError` if the confusion matrix does not fit the classes or
    a picture is not uint8.
    """
    if report.confusion is not None:
        check_confusion(report.confusion, report.classes)
    page = (
        environment()
        .get_template("template.html.j2")
        .render(report=report, **_views(report))
    )
    # File names may hold bytes that are no text (lone surrogates): show them escaped
    # rather than fail at the end.
    return page.encode("utf-8", "backslashreplace").decode("utf-8")


def environment() -> jinja2.Environment:
    """Where templates come from, and the filters they use."""
    assert __package__
    folder = resources.files(__package__)
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(
            lambda name: (folder / name).read_text(encoding="utf-8")
        ),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": _percent,
        "number": _number_or_dash,
        "fraction": _fraction,
    }
    environment.filters |= {
        "thumbnail": _thumbnail,
        "data_uri": _data_uri,
        "small": _is_small,
    }
    return environment


def _views(report: Report) -> dict[str, Any]:
    """What the template needs beside the report itself."""
    confusion = report.confusion if report.classes else None
    table = confusion is not None and len(report.classes) <= _MOST_CLASSES_IN_TABLE
    return {
        "charts": _charts(report.journal) if report.journal else [],
        "reliability": _reliability(report) if report.calibration else None,
        "pace": _pace(report.journal),
        "evaluations": [row for row in report.journal if row.get("kind") == "eval"],
        "rows": class_rows(confusion, report.classes)
        if confusion is not None and table
        else None,
        "pairs": confused_pairs(confusion, report.classes)
        if confusion is not None and not table
        else None,
        "n": int(confusion.sum()) if confusion is not None else None,
        "wrong": int(confusion.sum() - np.trace(confusion))
        if confusion is not None
        else None,
        "settings": list(_flat(report.config)),
        "origins": list(_flat(report.provenance)),
    }


def _charts(journal: Iterable[Mapping[str, Any]]) -> list[Chart]:
    train = [row for row in journal if row.get("kind") == "train"]
    splits: dict[str, list[Mapping[str, Any]]] = {}
    for row in journal:
        if row.get("kind") == "eval":
            splits.setdefault(str(row.get("split", "evaluation")), []).append(row)
    losses = [Series(split, points(rows, "loss")) for split, rows in splits.items()]
    # Only the first is annotated on the chart: the best of two splits are often so
    # close that the numbers collide.
    accuracies = [
        Series(split, points(rows, "top1"), "none" if index else "highest", dots=True)
        for index, (split, rows) in enumerate(splits.items())
    ]
    return [
        line_chart(
            "Loss", [Series("training", points(train, "loss"), "last"), *losses]
        ),
        line_chart(
            "Top-1 accuracy", accuracies, percent, from_zero=False, limits=(0, 1)
        ),
        line_chart(
            "Learning rate", [Series("learning rate", points(train, "lr"), "highest")]
        ),
    ]


def _reliability(report: Report) -> Chart:
    """Accuracy of the answers by their confidence."""
    assert report.calibration

    def dots(found: Calibration) -> list[Point]:
        return [
            (sure, right)
            for sure, right, count in found.bins
            if count >= _FEWEST_ANSWERS
        ]

    series = [Series("as it answers", dots(report.calibration), dots=True)]
    if report.tempered:
        temperature, better = report.tempered
        name = f"temperature {temperature:.2f}"
        series.append(Series(name, dots(better), dots=True))
    series.append(Series("calibrated", [(0, 0), (1, 1)]))
    chart = line_chart(
        "Accuracy by confidence", series, percent, limits=(0, 1), across="confidence"
    )
    return dataclasses.replace(chart, summary=_DOTS)


def points(rows: Iterable[Mapping[str, Any]], key: str) -> list[Point]:
    """(step, value) by step; a run resumed from an earlier step wrote some steps twice,
    and the last row counts.
    """
    values = {
        row["step"]: _float(row[key]) for row in rows if "step" in row and key in row
    }
    return sorted(values.items())


def _pace(journal: Iterable[Mapping[str, Any]]) -> str:
    """How long and how fast the training went; empty if the journal does not say."""
    train = [row for row in journal if row.get("kind") == "train"]
    steps, epochs, rates = (
        _finite(train, key) for key in ("step", "epoch", "images_per_second")
    )
    parts = [f"{max(steps):,.0f} steps"] if steps else []
    parts += [f"{max(epochs):.4g} epochs"] if epochs else []
    parts += (
        [f"median {statistics.median(rates):,.0f} images per second"] if rates else []
    )
    return ", ".join(parts)


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    """Nested groups as dotted names, the way `--set a.b=c` spells them, with values as
    JSON but strings bare.
    """
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            plain = isinstance(value, str)
            yield (
                f"{prefix}{key}",
                value if plain else json.dumps(value, ensure_ascii=False, default=str),
            )


def _finite(rows: Iterable[Mapping[str, Any]], key: str) -> list[float]:
    return [value for row in rows if math.isfinite(value := _float(row.get(key)))]


def _float(value: Any) -> float:
    """A number of the journal; what is none (null, absent) becomes NaN."""
    return float(value) if isinstance(value, (int, float)) else math.nan


def _number_or_dash(value: Any) -> str:
    return number(_float(value)) if math.isfinite(_float(value)) else "–"


def _percent(value: Any, decimals: int) -> str:
    """A fraction as a percentage of fixed decimals, so that columns align; a dash where
    there is none.
    """
    return (
        f"{100 * _float(value):.{decimals}f}%" if math.isfinite(_float(value)) else "–"
    )


def _fraction(value: Any) -> float:
    """A number between 0 and 1, fit to be written into a style."""
    number_ = _float(value)
    return round(min(max(number_, 0.0), 1.0), 4) if math.isfinite(number_) else 0.0


def _thumbnail(image: Image8) -> Image8:
    """The picture, made smaller if it is larger than a card can show."""
    height, width = image.shape[:2]
    shrink = max(height, width) / _MOST_SAMPLE_PIXELS
    if shrink <= 1 or image.dtype != np.uint8:
        return image
    size = max(1, round(width / shrink)), max(1, round(height / shrink))
    pixels = image[:, :, 0] if image.shape[2:] == (1,) else image
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))


def _data_uri(image: Image8) -> str:
    return "data:image/png;base64," + base64.b64encode(to_png(image)).decode("ascii")


def _is_small(image: Image8) -> bool:
    longer: int = max(image.shape[:2])
    return longer <= _SMALL_PIXELS
