"""JSON of strangers."""

from __future__ import annotations

import json
from typing import Any

MOST_JSON = 2**24
MOST_MARKS = 2**20
MOST_DEPTH = 100


def parse_json(
    text: str | bytes,
    *,
    most: int = MOST_JSON,
    marks: int = MOST_MARKS,
    depth: int = MOST_DEPTH,
) -> Any:
    """Return the value of a JSON text that is neither huge nor deep.

    Args:
        text: In UTF-8, if it is bytes.
        most: How many bytes or letters it may have.
        marks: How many brackets, commas and colons, also those in texts. A value takes
            some 60 bytes of memory, and each but the first comes behind a mark.
        depth: How deeply lists and objects may nest.

    Raises:
        ValueError: It is no JSON, or too much of it.
    """
    if len(text) > most:
        raise ValueError(f"it has {len(text):,} bytes, at most {most:,} are read")
    if isinstance(text, bytes):
        # Half of a letter is told as any other damage.
        text = text.decode("utf-8")
    if sum(map(text.count, "[{,:")) > marks:
        raise ValueError(f"it has more than {marks:,} values")
    try:
        value = json.loads(text)
    except RecursionError as error:
        raise ValueError(f"it nests more than {depth} deep") from error
    # What it would be printed or compared by recurses too.
    if _is_deeper(value, depth):
        raise ValueError(f"it nests more than {depth} deep")
    return value


def _is_deeper(value: Any, depth: int) -> bool:
    """Whether lists and dicts nest more than so deep; level by level, not recursing."""
    level = [value]
    for _ in range(depth):
        inside: list[Any] = []
        for part in level:
            if isinstance(part, dict):
                inside += part.values()
            elif isinstance(part, list):
                inside += part
        level = [part for part in inside if isinstance(part, (dict, list))]
        if not level:
            return False
    return True
