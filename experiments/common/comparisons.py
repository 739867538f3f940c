"""How far a difference between two rows of a table can be trusted.

Where a seed gives both runs the same weights, images or labels, the difference is taken
seed by seed: what the seed does to both drops out. Elsewhere, or where the spreads of
the two are too unlike, it is Welch's: of the means, with a deviation for each.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scipy.special import stdtr, stdtrit

BySeed = Mapping[int, float]
"""What was measured, by the seed it was measured with."""

LEVEL = 0.05
"""Of a star: how often chance alone may bring one."""

STARS = (
    "*: the 95 % interval leaves out 0; **: also after Holm's correction for all "
    "differences of the table."
)


@dataclass(frozen=True)
class Difference:
    """A mean difference and what is known of its error.

    Attributes:
        mean: Ours minus theirs.
        error: Its standard error; NaN where a single run gives none.
        freedom: Degrees of freedom of the error.
        n: Pairs, or the runs of each.
    """

    mean: float
    error: float
    freedom: float
    n: tuple[int, ...]

    @property
    def t(self) -> float:
        """The mean in standard errors."""
        if self.error == 0:
            return math.copysign(math.inf, self.mean) if self.mean else 0.0
        return self.mean / self.error

    @property
    def p(self) -> float:
        """How often chance alone brings a mean so far from 0: NaN where unknown."""
        if math.isnan(self.error):
            return math.nan
        return 2 * float(stdtr(self.freedom, -abs(self.t)))

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the mean."""
        if math.isnan(self.error):
            return -math.inf, math.inf
        half = float(stdtrit(self.freedom, 1 - LEVEL / 2)) * self.error
        return self.mean - half, self.mean + half

    def told(self, decimals: int = 1, scale: float = 100.0) -> str:
        """The mean and its interval, by default of fractions, in points: "+1.8 [-0.5, +4.1]"."""
        sign = f"+.{decimals}f"
        mean = format(scale * self.mean, sign)
        if math.isnan(self.error):
            return f"{mean} (n = 1)"
        low, high = (format(scale * end, sign) for end in self.interval)
        return f"{mean} [{low}, {high}]"


def paired(ours: BySeed, theirs: BySeed) -> Difference:
    """The difference seed by seed, of the seeds that both have.

    Raises:
        ValueError: They share no seed.
    """
    shared = sorted(set(ours) & set(theirs))
    if not shared:
        raise ValueError(f"no seed in common: {sorted(ours)} and {sorted(theirs)}")
    n = len(shared)
    differences = [ours[seed] - theirs[seed] for seed in shared]
    error = statistics.stdev(differences) / math.sqrt(n) if n > 1 else math.nan
    return Difference(statistics.mean(differences), error, n - 1, (n,))


def welch(ours: BySeed, theirs: BySeed) -> Difference:
    """The difference of the means, each with a deviation of its own (Welch, 1947)."""
    groups = [list(group.values()) for group in (ours, theirs)]
    n = tuple(len(group) for group in groups)
    mean = statistics.mean(groups[0]) - statistics.mean(groups[1])
    if min(n) < 2:
        return Difference(mean, math.nan, math.nan, n)
    squares = [statistics.variance(group) / len(group) for group in groups]
    total = sum(squares)
    if total == 0:
        return Difference(mean, 0.0, sum(n) - 2, n)
    parts = [square**2 / (count - 1) for square, count in zip(squares, n, strict=True)]
    return Difference(mean, math.sqrt(total), total**2 / sum(parts), n)


def stars(differences: Sequence[Difference]) -> list[str]:
    """The marks that `STARS` explains, of the differences of one table.

    Holm (1979): the k-th smallest of m chances counts m - k + 1 times, and none counts
    less than one before it. A difference without an error gets no mark and is not counted.
    """
    known = [
        place for place, one in enumerate(differences) if not math.isnan(one.error)
    ]
    marks = [""] * len(differences)
    corrected = 0.0
    for rank, place in enumerate(sorted(known, key=lambda at: differences[at].p)):
        chance = differences[place].p
        corrected = max(corrected, (len(known) - rank) * chance)
        if corrected < LEVEL:
            marks[place] = " **"
        elif chance < LEVEL:
            marks[place] = " *"
    return marks


def starred(differences: Sequence[Difference], decimals: int = 1) -> list[str]:
    """The cells of one table's differences, each with its interval and its mark."""
    marks = stars(differences)
    return [
        one.told(decimals) + mark for one, mark in zip(differences, marks, strict=True)
    ]
