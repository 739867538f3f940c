"""Errors of users: one sentence that says what came, what was expected, what to do.

Whatever a person can cause (a wrong name, a broken file, a full disk) ends in
`UserError` and, on the command line, in that sentence and exit code 2. Our own mistakes
are `assert` and ordinary exceptions: they keep their traceback.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence

_MOST_KNOWN = 12  # names in a message; a longer list would hide the sentence


# A scheme, perhaps a user, a host and a path, perhaps a query and a fragment. What ends
# a sentence is no part of an address.
_ADDRESS = re.compile(
    r"([a-z][a-z0-9+.-]{0,20}://)(?:[^/\s@'\"<>?#]*@)*([^\s?#'\"<>]*)"
    r"(?:[?#][^\s'\"<>]*?)?(?=[;,.:)\]]{0,3}(?:[\s'\"<>]|$))",
    re.IGNORECASE,
)


def without_secrets(text: str) -> str:
    """Return text whose addresses have no user, query and fragment.

    Signed addresses hold keys there, and what is printed or recorded is passed on.

    Args:
        text: Any text, such as a sentence or a single address.
    """
    return _ADDRESS.sub(r"\1\2", text) if "://" in text else text


class UserError(ValueError):
    """Say in one sentence what is wrong with an input, for the person who gave it."""

    def __init__(self, *arguments: object) -> None:
        """Keep the sentence, without the keys that an address in it may hold.

        Args:
            arguments: The sentence.
        """
        shown = [without_secrets(a) if isinstance(a, str) else a for a in arguments]
        super().__init__(*shown)


def near_misses(word: str, choices: Iterable[str], most: int = 3) -> list[str]:
    """Return the choices that look like a word, best first.

    Args:
        word: What was typed.
        choices: The names that exist; case does not matter.
        most: How many to return at most.
    """
    by_folded_name = {choice.casefold(): choice for choice in choices}
    close = difflib.get_close_matches(
        word.casefold(), by_folded_name, n=most, cutoff=0.6
    )
    return [by_folded_name[name] for name in close]


def unknown(kind: str, word: str, choices: Iterable[str]) -> UserError:
    """Return an error for a name that does not exist, with the near misses.

    Args:
        kind: What was named, such as "recipe".
        word: What was typed.
        choices: The names that exist; without a near miss some of them are listed.
    """
    known = sorted(choices)
    close = near_misses(word, known)
    if close:
        hint = "did you mean " + " or ".join(map(repr, close)) + "?"
    elif known:
        more = ", ..." if len(known) > _MOST_KNOWN else ""
        hint = "known are " + ", ".join(known[:_MOST_KNOWN]) + more
    else:
        hint = "none are known"
    return UserError(f"unknown {kind} {word!r}; {hint}")


def listed(items: Sequence[str], most: int, separator: str = "; ") -> str:
    """Return the first items as text, and how many more there are.

    Args:
        items: Such as problems or names.
        most: How many to show.
        separator: Between two items.
    """
    shown = list(items[:most])
    if len(items) > most:
        shown.append(f"and {len(items) - most} more")
    return separator.join(shown)
