"""Lay out line charts in view-box units; `chart.svg.j2` turns the result into SVG.

Points are (x, y) in data units; a y that is not finite breaks the line. x starts at 0.
All functions are pure.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

Point = tuple[float, float]
Format = Callable[[float], str]
Annotation = Literal["last", "highest", "none"]
Anchor = Literal["start", "middle", "end"]

WIDTH = 360
HEIGHT = 230
_LEFT = 48
_RIGHT = 346
_TOP = 24
_BOTTOM = 196
# More than one point for each column of pixels shows nothing new and makes pages heavy.
MOST_POINTS = 400
_MOST_DOTS = 40  # more of them would hide the line
COLOURS = 4  # of the style sheet
DASHES = 6


@dataclass(frozen=True)
class Series:
    """Describe one line of a chart.

    Attributes:
        name: In the legend and in the summary.
        points: (x, y) by x.
        annotate: The point whose value is written beside it.
        dots: Whether each point has a dot, if there are few.
        style: Its `Style`, the same in every chart of a page; by default its place
            among the series of the chart.
    """

    name: str
    points: Sequence[Point]
    annotate: Annotation = "none"
    dots: bool = False
    style: int | None = None


@dataclass(frozen=True)
class Style:
    """Tell one of 24 lines from the others, by colour and dash.

    Attributes:
        number: Any, from 0; the first four differ in both.
    """

    number: int

    @property
    def classes(self) -> str:
        """The classes of the style sheet, such as "s0 d0"."""
        colour = self.number % COLOURS
        # The dash moves on by five from one line of a colour to its next one. Five and
        # six have no common factor, so no pair comes twice.
        dash = (self.number + self.number // COLOURS) % DASHES
        return f"s{colour} d{dash}"


@dataclass(frozen=True)
class Note:
    """Write a value above its marker at (x, y)."""

    x: float
    y: float
    text: str
    anchor: Anchor


@dataclass(frozen=True)
class Line:
    """Draw a series.

    Attributes:
        name: In the legend.
        path: Of the SVG element.
        dots: Centres.
        note: The annotated value, if there is one.
        style: Colour and dash.
    """

    name: str
    path: str
    dots: tuple[Point, ...]
    note: Note | None
    style: Style


@dataclass(frozen=True)
class Chart:
    """Hold all that the template needs; without a finite value there are no lines.

    Attributes:
        title: Above the chart.
        summary: One sentence below it.
        x_ticks: (position, label).
        y_ticks: (position, label).
        lines: The drawn series.
        width: Of the view box.
        height: Of the view box.
        left: End of the x axis.
        right: End of the x axis.
        bottom: Height of the x axis.
        across: The name of the x axis.
    """

    title: str
    summary: str
    x_ticks: tuple[tuple[float, str], ...] = ()
    y_ticks: tuple[tuple[float, str], ...] = ()
    lines: tuple[Line, ...] = ()
    width: int = WIDTH
    height: int = HEIGHT
    left: int = _LEFT
    right: int = _RIGHT
    bottom: int = _BOTTOM
    across: str = "step"


def number(value: float) -> str:
    """Return a short decimal: 12000 -> 12k, 0.0305 -> 0.0305, 1e-05 -> 1e-5.

    Args:
        value: A finite number.
    """
    # Thousands are shortened from 10,000 on: 1200 is no longer than 1.2k and easier.
    for threshold, size, letter in ((1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if threshold <= abs(value) < 1e12:
            return f"{value / size:.4g}{letter}"
    text = f"{value:.4g}"
    mantissa, marker, exponent = text.partition("e")
    return f"{mantissa}e{int(exponent)}" if marker else text


def percent(fraction: float) -> str:
    """Return a fraction as a percentage of at most two decimals: 0.9861 -> 98.61%.

    Args:
        fraction: 0 to 1.
    """
    return f"{100 * fraction:.2f}".rstrip("0").rstrip(".") + "%"


def nice_ticks(
    low: float, high: float, most: int = 6, *, cover: bool = False, whole: bool = False
) -> list[float]:
    """Return round numbers, 1, 2 or 5 times a power of ten apart, for an axis.

    Args:
        low: Lower end of the range.
        high: Upper end of the range.
        most: How many numbers at most.
        cover: Reach just beyond both ends instead of staying inside the range.
        whole: Keep to integers.
    """
    assert -math.inf < low <= high < math.inf
    if low == high:
        reach = abs(low) / 2 or 0.5
        low = low - reach
        high = high + reach
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    for factor in (1, 2, 5, 10, 20, 50):
        step = power * factor
        # A hundredth of a step of slack, so that 0.1 + 0.2 does not add a tick at 0.4.
        if cover:
            first = math.floor(low / step + 0.01)
            last = math.ceil(high / step - 0.01)
        else:
            first = math.ceil(low / step - 0.01)
            last = math.floor(high / step + 0.01)
        if last - first < most and not (whole and step < 1):
            break
    # index * step has rounding errors such as 0.6000000000000001.
    decimals = max(0, -math.floor(math.log10(step)))
    return [round(index * step, decimals) for index in range(first, last + 1)]


def thin(points: Sequence[Point], most: int = MOST_POINTS) -> list[Point]:
    """Keep the lowest and the highest point of each stretch, so that no spike is lost.

    Args:
        points: By x.
        most: How many to keep at most.

    Returns:
        Some of the points in their order, the first and the last among them.
    """
    if len(points) <= most:
        return list(points)
    kept: list[Point] = [points[0]]
    stretches = most // 2 - 1
    inner = points[1:-1]
    for index in range(stretches):
        start = index * len(inner) // stretches
        end = (index + 1) * len(inner) // stretches
        stretch = inner[start:end]
        finite = [point for point in stretch if _is_finite(point)]
        if finite:
            kept += sorted({min(finite, key=_height), max(finite, key=_height)})
        else:
            # One point that is not finite keeps the gap in the line.
            kept += stretch[:1]
    return [*kept, points[-1]]


def line_chart(
    title: str,
    series: Sequence[Series],
    text: Format = number,
    *,
    from_zero: bool = True,
    limits: tuple[float, float] = (-math.inf, math.inf),
    across: str = "step",
    tick_text: Format | None = None,
) -> Chart:
    """Lay out a chart.

    Args:
        title: Above the chart.
        series: Its lines; those without a finite value are left out.
        text: Writes y values.
        from_zero: Begin the y axis at 0.
        limits: No tick exceeds them unless a value does.
        across: The name of the x axis.
        tick_text: Writes the ticks of the y axis, where `text` would write several
            alike; by default `text`.

    Returns:
        The chart; without lines if no value is finite.
    """
    # A style belongs to a series, drawn or not: the others keep theirs without it.
    styled = [_styled(line, index) for index, line in enumerate(series)]
    drawn = [line for line in styled if any(map(_is_finite, line.points))]
    finite = [point for line in drawn for point in line.points if _is_finite(point)]
    if not finite:
        return Chart(title, "No values were recorded.")
    heights = [y for _, y in finite]
    if from_zero:
        heights.append(0.0)
    bottom = min(limits[0], *heights)
    top = max(limits[1], *heights)
    y_ticks = nice_ticks(min(heights), max(heights), cover=True)
    y_ticks = [tick for tick in y_ticks if bottom <= tick <= top]
    # All points count, also those that are not finite: training went that far.
    x_end = max(*(x for line in drawn for x, _ in line.points), 1.0)
    x_ticks = nice_ticks(0, x_end, most=6, whole=across == "step")

    def place(point: Point) -> Point:
        right = point[0] / x_end
        up = (point[1] - y_ticks[0]) / (y_ticks[-1] - y_ticks[0])
        x = _LEFT + right * (_RIGHT - _LEFT)
        y = _BOTTOM - up * (_BOTTOM - _TOP)
        return round(x, 1), round(y, 1)

    return Chart(
        title,
        summary=_summary(series, text),
        x_ticks=tuple((place((x, 0))[0], number(x)) for x in x_ticks),
        y_ticks=tuple((place((0, y))[1], (tick_text or text)(y)) for y in y_ticks),
        lines=tuple(_draw(line, place, text) for line in drawn),
        across=across,
    )


def _styled(series: Series, index: int) -> Series:
    """Give a series the style of its place, if it has none."""
    if series.style is not None:
        return series
    return dataclasses.replace(series, style=index)


def _draw(series: Series, place: Callable[[Point], Point], text: Format) -> Line:
    points = thin(series.points)
    path = ""
    pen_down = False
    for point in points:
        if _is_finite(point):
            x, y = place(point)
            # h0: a single point between two gaps shows as a dot.
            path += f"L{x:g} {y:g}" if pen_down else f"M{x:g} {y:g}h0"
        pen_down = _is_finite(point)
    dots: tuple[Point, ...] = ()
    if series.dots and len(points) <= _MOST_DOTS:
        dots = tuple(place(point) for point in points if _is_finite(point))
    note = None
    chosen = annotated(series)
    if chosen:
        note = _note(place(chosen), text(chosen[1]))
    assert series.style is not None
    return Line(series.name, path, dots, note, Style(series.style))


def annotated(series: Series) -> Point | None:
    """Return the point whose value is written out.

    Args:
        series: A line.

    Returns:
        The last finite point, or the first of the highest; None without such a point.
    """
    finite = [point for point in series.points if _is_finite(point)]
    if not finite or series.annotate == "none":
        return None
    return finite[-1] if series.annotate == "last" else max(finite, key=_height)


def _note(spot: Point, text: str) -> Note:
    """Write towards the middle of the chart, so that nothing sticks out at the sides."""
    x, y = spot
    third = (_RIGHT - _LEFT) / 3
    anchor: Anchor = "middle"
    if x < _LEFT + third:
        anchor = "start"
    elif x > _RIGHT - third:
        anchor = "end"
    return Note(x, y, text, anchor)


def _summary(series: Sequence[Series], text: Format) -> str:
    """Write one sentence for the caption and for screen readers.

    Names of series stay as they are: one may be the name of a run's folder.
    """
    parts = [_describe(line, text) for line in series if line.points]
    return "; ".join(parts) + "."


def _describe(line: Series, text: Format) -> str:
    finite = [point for point in line.points if _is_finite(point)]
    lost = len(line.points) - len(finite)
    if not finite:
        return f"{line.name}: no finite value among {lost:,}"
    part = f"{line.name}: {text(finite[0][1])}"
    if len(finite) > 1:
        part += f" to {text(finite[-1][1])}"
    best = annotated(line)
    if best and line.annotate == "highest":
        part += f", highest {text(best[1])} at step {best[0]:,.0f}"
    if lost:
        part += f" ({lost:,} not finite)"
    return part


def _height(point: Point) -> float:
    return point[1]


def _is_finite(point: Point) -> bool:
    return math.isfinite(point[1])
