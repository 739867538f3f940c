"""How sure a network is, against how often it is right: a sentence and a chart."""

from __future__ import annotations

import dataclasses

from ..evaluation.calibration import FEWEST, Calibration
from .chart import Chart, Point, Series, line_chart, percent

Tempered = tuple[float, Calibration]
"""A temperature that other images chose, and the calibration with it."""

_FEWEST_ANSWERS = 5  # in a dot of the chart: fewer say little
_DOTS = (
    "Each dot is a fifteenth of the scale in which at least "
    f"{_FEWEST_ANSWERS} answers fell."
)


def sureness(found: Calibration | None, tempered: Tempered | None, remark: str) -> str:
    """Say how good the confidence is, and what a temperature makes of it.

    Args:
        found: Of the answers as they are; None if nothing was measured.
        tempered: With a temperature, if there is one.
        remark: A sentence to end with.

    Returns:
        Sentences; "" if nothing was measured.
    """
    if found is None:
        return ""
    if found.n < FEWEST:
        return f"Too few images to judge confidence: {found.n}."
    text = (
        f"Expected calibration error {100 * found.error:.1f}%: the mean gap between "
        "confidence and accuracy."
    )
    if tempered:
        temperature, after = tempered
        text += (
            f" Dividing the logits by {temperature:.2f}, a temperature fitted on the "
            f"validation images, {_change(found.error, after.error)}."
        )
    return f"{text} {remark}".rstrip()


def _change(before: float, after: float) -> str:
    """Say whether an error became smaller, in the decimals that the page shows."""
    shown = f"{100 * after:.1f}%"
    if shown == f"{100 * before:.1f}%":
        return "leaves it as it is"
    if after > before:
        return f"makes it worse: {shown}"
    return f"brings it to {shown}"


def reliability_chart(
    found: Calibration | None, tempered: Tempered | None
) -> Chart | None:
    """Draw the accuracy of the answers over their confidence.

    Args:
        found: Of the answers as they are.
        tempered: With a temperature, if there is one.

    Returns:
        The chart; None where there are too few answers to draw.
    """
    if found is None or found.n < FEWEST:
        return None
    series = [Series("as it answers", _dots(found), dots=True)]
    if tempered:
        temperature, better = tempered
        name = f"temperature {temperature:.2f}"
        series.append(Series(name, _dots(better), dots=True))
    # Dots of a calibrated network lie on this line.
    series.append(Series("calibrated", [(0, 0), (1, 1)]))
    chart = line_chart(
        "Accuracy by confidence", series, percent, limits=(0, 1), across="confidence"
    )
    return dataclasses.replace(chart, summary=_DOTS)


def _dots(found: Calibration) -> list[Point]:
    dots = []
    for confidence, accuracy, count in found.bins:
        if count >= _FEWEST_ANSWERS:
            dots.append((confidence, accuracy))
    return dots
