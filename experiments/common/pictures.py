"""The one style of all pictures."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .comparisons import Difference

COLOURS = {
    "Mixer": "#c8553d",
    "ViT": "#2f6690",
    "ResNet": "#588157",
    "other": "#7a7a7a",
}


def draw_differences(axes: Any, differences: Sequence[Difference]) -> None:
    """Draw fractions as points with their 95 % intervals, the first one lowest."""
    look = {"fmt": "o", "capsize": 2, "color": COLOURS["Mixer"]}
    middles = [100 * one.mean for one in differences]
    halves = [100 * (one.interval[1] - one.mean) for one in differences]
    known = [half if math.isfinite(half) else 0.0 for half in halves]
    axes.errorbar(middles, range(len(middles)), xerr=known, **look)
    axes.axvline(0, color=COLOURS["other"], linewidth=1)


@contextmanager
def picture(
    path: Path, columns: int = 1, width: float = 4.6, height: float = 3.2
) -> Iterator[Any]:
    """`with picture(folder / "name.svg") as axes:` draws in the one style of all
    experiments and writes the file.
    """
    import matplotlib as mpl

    mpl.use("agg")
    style: dict[str, Any] = {
        "font.family": "sans-serif",
        "font.size": 9,
        "svg.hashsalt": "mixer",
    }
    style |= {
        "axes.titlesize": 10,
        "axes.titleweight": "bold",
        "axes.grid": True,
        "grid.alpha": 0.25,
    }
    style |= {
        "axes.spines.top": False,
        "axes.spines.right": False,
        "legend.frameon": False,
    }
    style |= {"lines.linewidth": 1.8, "lines.markersize": 4.5}
    with mpl.rc_context(style):
        from matplotlib import pyplot

        figure, axes = pyplot.subplots(
            1, columns, figsize=(width * columns, height), layout="constrained"
        )
        yield axes
        figure.savefig(
            path, metadata={"Date": None} if path.suffix == ".svg" else None, dpi=150
        )
        pyplot.close(figure)
    print(f"drew {path}")
