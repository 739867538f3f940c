"""Learning rates: the best of a few that bracket it, and tables that say where none did."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

MOST_BEYOND = 4
"""Rates beyond the grid that are tried at most."""

ENDS = (
    "^: the lowest or the highest learning rate that was tried; the best may lie "
    "beyond."
)


def bracketed(rates: Sequence[float], accuracy: Callable[[float], float]) -> float:
    """The best learning rate, with neighbours on both sides that are worse.

    Where the best of the grid is its first or last, the grid goes on beyond it, by its
    own factor. A grid of one rate is taken at its word (a smoke test).
    """
    found = {lr: accuracy(lr) for lr in sorted(rates)}
    for _ in range(MOST_BEYOND if len(found) > 1 else 0):
        best = best_of(found)
        low, *_, high = sorted(found)
        if low < best < high:
            break
        beyond = next_to(best, sorted(found))
        found[beyond] = accuracy(beyond)
    return best_of(found)


def next_to(end: float, ordered: Sequence[float]) -> float:
    """The rate beyond an end of the grid, as far from it as its neighbour is."""
    inner = ordered[1] if end == ordered[0] else ordered[-2]
    return float(f"{end * end / inner:.3g}")


def best_of(tried: Mapping[float, float]) -> float:
    """The rate of the highest accuracy; of equals the first."""
    return max(tried, key=tried.__getitem__)


def rate_cell(lr: float, tried: Mapping[float, float]) -> str:
    """A rate for a table, marked (see `ENDS`) where it lies at an end of what was tried.

    Where another one did better in the search, the runs of the table are of an older,
    shorter grid, and the cell says so.
    """
    best = best_of(tried) if lr in tried else lr
    if best != lr and tried[lr] < tried[best]:
        return f"{lr:g} ({best:g} did better)"
    if len(tried) > 1 and lr in (min(tried), max(tried)):
        return f"{lr:g} ^"
    return f"{lr:g}"
