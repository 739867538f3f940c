"""The users' errors: one sentence that says what came, what was expected and what to
do.

Whatever a person can cause (a wrong name, a broken file, a full disk) ends in
`UserError` and, on the command line, in that sentence and exit code 2. Our own mistakes
are `assert` and ordinary exceptions: they keep their traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake in what was given to us, described in one sentence for the person who
    gave it.
    """


def near_misses(word: str, choices: Iterable[str], most: int = 3) -> list[str]:
    """The choices that look like `word`, best first."""
    folded = {choice.casefold(): choice for choice in choices}
    return [
        folded[match]
        for match in difflib.get_close_matches(
            word.casefold(), folded, n=most, cutoff=0.6
        )
    ]


def unknown(kind: str, word: str, choices: Iterable[str]) -> UserError:
    """`UserError` for a name that is not among the choices: names the near misses, or
    else what there is.
    """
    known = sorted(choices)
    close = near_misses(word, known)
    if close:
        hint = "did you mean " + " or ".join(repr(match) for match in close) + "?"
    elif known:
        hint = (
            "known are " + ", ".join(known[:12]) + (", ..." if len(known) > 12 else "")
        )
    else:
        hint = "none are known"
    return UserError(f"unknown {kind} {word!r}; {hint}")
