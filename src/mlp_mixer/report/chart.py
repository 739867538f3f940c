"""Line charts as geometry in view-box units: pure functions; `chart.svg.j2` turns the
result into SVG.

Points are (x, y) in data units; a y that is not finite breaks the line. x starts at 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

Point = tuple[float, float]
Format = Callable[[float], str]

WIDTH = 360
HEIGHT = 230
_LEFT = 48
_RIGHT = 346
_TOP = 24
_BOTTOM = 196
MOST_POINTS = 400  # more than one for each pixel column shows nothing new and makes the page heavy


@dataclass(frozen=True)
class Series:
    """One line of a chart; `annotate` names the point whose value is written beside it."""

    name: str
    points: Sequence[Point]
    annotate: Literal["last", "highest", "none"] = "none"
    dots: bool = False


@dataclass(frozen=True)
class Note:
    """A value written above its marker at (x, y)."""

    x: float
    y: float
    text: str
    anchor: Literal["start", "middle", "end"]


@dataclass(frozen=True)
class Line:
    """A drawn series: an SVG path, its dots, and the annotated value if there is one."""

    name: str
    path: str
    dots: tuple[Point, ...]
    note: Note | None


@dataclass(frozen=True)
class Chart:
    """All that the template needs; ticks are (position, label). Without a finite value
    there are no lines.
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
    """A short decimal: 12000 -> 12k, 0.0305 -> 0.0305, 1e-05 -> 1e-5."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if size <= abs(value) < 1e12:
            return f"{value / (1e3 if letter == 'k' else size):.4g}{letter}"
    text = f"{value:.4g}"
    mantissa, marker, exponent = text.partition("e")
    return f"{mantissa}e{int(exponent)}" if marker else text


def percent(fraction: float) -> str:
    """A fraction as a percentage with at most two decimals: 0.9861 -> 98.61%."""
    return f"{100 * fraction:.2f}".rstrip("0").rstrip(".") + "%"


def nice_ticks(
    low: float, high: float, most: int = 6, *, cover: bool = False, whole: bool = False
) -> list[float]:
    """At most `most` round numbers (1, 2 or 5 times a power of ten apart) from `low` to
    `high`.

    They lie inside the range, or with `cover` reach just beyond both of its ends;
    `whole` keeps to integers.
    """
    assert -math.inf < low <= high < math.inf
    if low == high:
        reach = abs(low) / 2 or 0.5
        low = low - reach
        high = high + reach
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    for step in (power * factor for factor in (1, 2, 5, 10, 20, 50)):
        # A hundredth of a step of slack, so that 0.1 + 0.2 does not add a tick at 0.4.
        first = math.floor(low / step + 0.01) if cover else math.ceil(low / step - 0.01)
        last = (
            math.ceil(high / step - 0.01) if cover else math.floor(high / step + 0.01)
        )
        if last - first < most and not (whole and step < 1):
            break
    decimals = max(0, -math.floor(math.log10(step)))
    return [round(index * step, decimals) for index in range(first, last + 1)]


def thin(points: Sequence[Point], most: int = MOST_POINTS) -> list[Point]:
    """At most `most` of the points, in order: the lowest and highest of each stretch,
    so that no spike is lost.
    """
    if len(points) <= most:
        return list(points)
    kept: list[Point] = [points[0]]
    stretches = most // 2 - 1
    inner = points[1:-1]
    for index in range(stretches):
        stretch = inner[
            index * len(inner) // stretches : (index + 1) * len(inner) // stretches
        ]
        finite = [point for point in stretch if math.isfinite(point[1])]
        extremes = (
            {min(finite, key=_height), max(finite, key=_height)}
            if finite
            else set(stretch[:1])
        )
        kept += sorted(extremes)
    return [*kept, points[-1]]


def line_chart(
    title: str,
    series: Sequence[Series],
    text: Format = number,
    *,
    from_zero: bool = True,
    limits: tuple[float, float] = (-math.inf, math.inf),
    across: str = "step",
) -> Chart:
    """Lay out a chart; `text` writes y values, `from_zero` begins the y axis at 0,
    `across` names the x axis.

    No tick exceeds `limits` unless a value does.
    """
    drawn = [line for line in series if any(map(_finite, line.points))]
    finite = [point for line in drawn for point in line.points if _finite(point)]
    if not finite:
        return Chart(title, "No values were recorded.")
    heights = [y for _, y in finite] + ([0.0] if from_zero else [])
    bottom = min(limits[0], *heights)
    top = max(limits[1], *heights)
    y_values = [
        tick
        for tick in nice_ticks(min(heights), max(heights), cover=True)
        if bottom <= tick <= top
    ]
    x_end = max(*(x for line in drawn for x, _ in line.points), 1.0)

    def place(point: Point) -> Point:
        across = point[0] / x_end
        up = (point[1] - y_values[0]) / (y_values[-1] - y_values[0])
        return round(_LEFT + across * (_RIGHT - _LEFT), 1), round(
            _BOTTOM - up * (_BOTTOM - _TOP), 1
        )

    return Chart(
        title,
        summary=_summary(series, text),
        x_ticks=tuple(
            (place((x, 0))[0], number(x))
            for x in nice_ticks(0, x_end, most=6, whole=across == "step")
        ),
        y_ticks=tuple((place((0, y))[1], text(y)) for y in y_values),
        lines=tuple(_line(line, place, text) for line in drawn),
        across=across,
    )


def _line(series: Series, place: Callable[[Point], Point], text: Format) -> Line:
    points = thin(series.points)
    path = ""
    pen_down = False
    for point in points:
        if _finite(point):
            x, y = place(point)
            path += (
                f"L{x:g} {y:g}" if pen_down else f"M{x:g} {y:g}h0"
            )  # h0: a point between two gaps shows as a dot
        pen_down = _finite(point)
    dotted = series.dots and len(points) <= 40
    dots = tuple(place(point) for point in points if _finite(point)) if dotted else ()
    chosen = annotated(series)
    return Line(
        series.name,
        path,
        dots,
        _note(place(chosen), text(chosen[1])) if chosen else None,
    )


def annotated(series: Series) -> Point | None:
    """The point whose value is written out: the last finite one, or the first of the
    highest.
    """
    finite = [point for point in series.points if _finite(point)]
    if not finite or series.annotate == "none":
        return None
    return finite[-1] if series.annotate == "last" else max(finite, key=_height)


def _note(spot: Point, text: str) -> Note:
    """Write towards the middle of the chart, so that nothing sticks out at the sides."""
    x, y = spot
    third = (_RIGHT - _LEFT) / 3
    anchor: Literal["start", "middle", "end"] = (
        "start" if x < _LEFT + third else "end" if x > _RIGHT - third else "middle"
    )
    return Note(x, y, text, anchor)


def _summary(series: Sequence[Series], text: Format) -> str:
    """One sentence for a caption and for those who do not see the picture."""
    parts = []
    for line in series:
        finite = [point for point in line.points if _finite(point)]
        lost = len(line.points) - len(finite)
        if finite:
            part = f"{line.name}: {text(finite[0][1])}" + (
                f" to {text(finite[-1][1])}" if len(finite) > 1 else ""
            )
            best = annotated(line)
            if best and line.annotate == "highest":
                part += f", highest {text(best[1])} at step {best[0]:,.0f}"
            parts.append(part + (f" ({lost:,} not finite)" if lost else ""))
        elif lost:
            parts.append(f"{line.name}: no finite value among {lost:,}")
    return (
        "; ".join(parts) + "."
    )  # names stay as they are: one may be that of a run's folder


def _height(point: Point) -> float:
    return point[1]


def _finite(point: Point) -> bool:
    return math.isfinite(point[1])
