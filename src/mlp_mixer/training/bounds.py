"""The bounds of a setting that is a number, told in one sentence. No torch."""

from __future__ import annotations

import operator

from ..errors import UserError


def within(
    name: str,
    value: float | None,
    *,
    above: float | None = None,
    least: float | None = None,
    below: float | None = None,
    most: float | None = None,
) -> None:
    """Check that a number keeps all bounds that are given.

    Args:
        name: Of the field, for the error.
        value: The number; None keeps every bound.
        above: It must be larger than this.
        least: It must be this or larger.
        below: It must be smaller than this.
        most: It must be this or smaller.

    Raises:
        UserError: It does not.
    """
    if value is None:
        return
    bounds = (
        ("above", above, operator.gt),
        ("at least", least, operator.ge),
        ("below", below, operator.lt),
        ("at most", most, operator.le),
    )
    wanted = []
    kept = True
    for word, limit, holds in bounds:
        if limit is not None:
            wanted.append(f"{word} {limit:g}")
            kept = kept and holds(value, limit)
    if not kept:
        raise UserError(f"{name} must be {' and '.join(wanted)}, got {value}")
