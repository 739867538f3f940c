"""How far an accuracy can be trusted: its interval, and how it is printed."""

from __future__ import annotations

import math

_Z = 1.959963984540054  # the standard normal quantile of 97.5 %

# The half-width of an interval, in points of percent, below which another decimal says
# something.
_ONE_DECIMAL = 5.0
_TWO_DECIMALS = 0.5


def wilson_interval(right: float, n: int) -> tuple[float, float]:
    """Return the 95 % interval of a share of which `right` of n were seen.

    Wilson's score interval (1927, JASA 22:209): unlike p ± 2 sd it holds for small n and
    for shares near 0 and 1.

    Args:
        right: How many were right, 0 to n.
        n: Of how many.

    Returns:
        The lower and upper end, in [0, 1]; (0, 1) for n = 0.
    """
    if n == 0:
        return 0.0, 1.0
    share = right / n
    spread = _Z * math.sqrt(share * (1 - share) / n + (_Z / (2 * n)) ** 2)
    centre = share + _Z**2 / (2 * n)
    shrink = 1 + _Z**2 / n
    low = (centre - spread) / shrink
    high = (centre + spread) / shrink
    # Exactly 0 and 1 at the ends, where rounding would leave 1e-17.
    return (0.0 if right <= 0 else low), (1.0 if right >= n else high)


def decimals(share: float, n: int) -> int:
    """Return how many decimals of a percentage n images carry.

    None where the interval is wider than 5 points to each side, one where it is wider
    than half a point, else two.

    Args:
        share: The accuracy, 0 to 1.
        n: The number of images.
    """
    low, high = wilson_interval(share * n, n)
    half_width = 50 * (high - low)
    if half_width >= _ONE_DECIMAL:
        return 0
    return 1 if half_width >= _TWO_DECIMALS else 2


def accuracy(share: float, n: int) -> str:
    """Return an accuracy in full: "58 % (14 of 24; 95 % interval 39 to 76 %)".

    Args:
        share: The accuracy, 0 to 1.
        n: The number of images that it was measured on.
    """
    if n == 0:
        return "not measured (no images)"
    low, high = wilson_interval(share * n, n)
    places = decimals(share, n)
    return (
        f"{100 * share:.{places}f} % ({round(share * n):,} of {n:,}; 95 % interval "
        f"{100 * low:.{places}f} to {100 * high:.{places}f} %)"
    )


def short_accuracy(share: float, n: int) -> str:
    """Return an accuracy for a narrow column: "58 % [39, 76]".

    Args:
        share: The accuracy, 0 to 1.
        n: The number of images, for which the table has a column.
    """
    if n == 0:
        return "-"
    low, high = wilson_interval(share * n, n)
    places = decimals(share, n)
    interval = f"[{100 * low:.{places}f}, {100 * high:.{places}f}]"
    return f"{100 * share:.{places}f} % {interval}"


def plain_accuracy(share: float, n: int) -> str:
    """Return an accuracy beside which n is stated: "58 %".

    Args:
        share: The accuracy, 0 to 1.
        n: The number of images.
    """
    return f"{100 * share:.{decimals(share, n)}f} %"
