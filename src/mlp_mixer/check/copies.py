"""Find copies: pictures with the same pixels, and pictures that look the same."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from .findings import Finding, Picture
from .lookalikes import group_lookalikes

# The copy in the first of these splits stays: a leak is mended where one trains.
_STAYS = ("test", "val", "train")


def best_copies_first(pictures: list[Picture]) -> list[Picture]:
    """Sort pictures so that of several copies the one that should stay comes first.

    Args:
        pictures: Any pictures.

    Returns:
        Test pictures first, then large ones, then pictures with short names: a copy's
        name is often longer, such as "1 (copy).jpg".
    """
    return sorted(
        pictures,
        key=lambda picture: (
            _STAYS.index(picture.split),
            -picture.height * picture.width,
            len(picture.path),
            picture.path,
        ),
    )


def find_copies(pictures: Sequence[Picture]) -> tuple[list[Finding], list[Picture]]:
    """Find pictures with the same pixels, and among the rest those that look the same.

    Args:
        pictures: In the order of `best_copies_first`.

    Returns:
        The findings, and one picture of each set with the same pixels.
    """
    same: dict[bytes, list[Picture]] = {}
    for picture in pictures:
        same.setdefault(picture.pixels, []).append(picture)
    findings: list[Finding] = []
    for group in same.values():
        findings += _compare(group, near="")
    # Without this, each exact copy would be a near one of the same picture as well.
    single = [group[0] for group in same.values()]
    for positions in group_lookalikes(stack_tiny(single)):
        findings += _compare([single[k] for k in positions], near="near-")
    return findings, single


def stack_tiny(pictures: Sequence[Picture]) -> NDArray[np.uint8]:
    """Return the tiny copies of N pictures, uint8 (N, 16, 16, 3).

    Args:
        pictures: Any pictures, also none.
    """
    tiny = [picture.tiny for picture in pictures]
    return np.array(tiny, np.uint8).reshape(-1, 16, 16, 3)


def _compare(group: Sequence[Picture], near: str) -> Iterator[Finding]:
    """Compare copies of one picture: the first stays, unless the classes differ.

    Then only a person knows which class is right, and every copy is a finding.
    """
    first = group[0]
    for picture in group:
        how = _how_alike(picture, first, near)
        other = _in_another_class(picture, group)
        if other is not None:
            verb = "looks like" if near else "is the same as"
            message = f"{verb} {other.path}, which is called {other.label}"
            kind = f"{near}label-conflict"
            yield Finding(kind, picture.path, message, (other.path,))
        elif picture.split != first.split:
            message = f"{how} {first.path}, so {picture.split} gives away {first.split}"
            yield Finding(f"{near}leak", picture.path, message, (first.path,))
        elif picture is not first:
            message = f"{how} {first.path}"
            yield Finding(f"{near}duplicate", picture.path, message, (first.path,))


def _how_alike(picture: Picture, first: Picture, near: str) -> str:
    if near:
        return "looks like"
    if picture.content == first.content:
        return "has the bytes of"
    return "has the pixels of"


def _in_another_class(picture: Picture, group: Sequence[Picture]) -> Picture | None:
    for other in group:
        if other.label != picture.label:
            return other
    return None
