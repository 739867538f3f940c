"""Share pictures out among processes that know nothing of each other.

A hash of its name says to which part a picture belongs. So every process finds its own
part by itself, on any machine, and all parts together are all pictures, each once.
"""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from ..errors import UserError
from .pictures import NamedPicture, Picture, expand, is_url

MOST_PARTS = 10_000

_MAGIC = re.compile(r"[*?[]")


@dataclass(frozen=True)
class Part:
    """One of several parts of all pictures.

    Attributes:
        number: Which one, from 1.
        of: How many parts there are.
    """

    number: int
    of: int

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            UserError: There is no such part.
        """
        if not 1 <= self.of <= MOST_PARTS:
            raise UserError(
                f"pictures are shared out into 1 to {MOST_PARTS:,} parts, got {self.of:,}"
            )
        if not 1 <= self.number <= self.of:
            raise UserError(
                f"there is no part {self} of the pictures: parts are numbered from 1 to "
                f"{self.of} (on Slurm --array=1-{self.of})"
            )

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a part.

        Args:
            text: As "3/16", the third of sixteen.

        Raises:
            UserError: It is something else, or there is no such part.
        """
        # Six digits at most: Python refuses to convert thousands of them.
        found = re.fullmatch(r"\s*([0-9]{1,6})\s*/\s*([0-9]{1,6})\s*", text)
        if found is None:
            raise UserError(
                f"cannot read the part {text!r}: expected NUMBER/PARTS, such as 3/16"
            )
        return cls(int(found[1]), int(found[2]))

    def __str__(self) -> str:
        """Return it as it is written: 3/16."""
        return f"{self.number}/{self.of}"

    def holds(self, key: str) -> bool:
        """Return whether a picture belongs to this part.

        Args:
            key: What is the same for this picture on every machine, as `keyed` says.
        """
        # Accents are one letter here and two there; bytes that are no letters stay.
        text = unicodedata.normalize("NFC", key)
        digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8)
        return int.from_bytes(digest.digest()) % self.of == self.number - 1


def keyed(pictures: Iterable[Picture]) -> Iterator[tuple[str, NamedPicture]]:
    """Yield all pictures in order, each with a key that no machine spells otherwise.

    The key of a picture in a folder, or of a pattern's match, is its path below that
    folder: the folder itself may be mounted at another place. The key of any other
    picture is its name as it was given.

    Args:
        pictures: As for `expand`.
    """
    for position, picture in enumerate(pictures):
        if is_url(picture) or not isinstance(picture, (str, os.PathLike)):
            # Only here is its number among all known.
            for name, value in expand([picture]):
                shown = name if is_url(picture) else f"image {position}"
                yield shown, (shown, value)
            continue
        root = _root(os.fspath(picture))
        for name, value in expand([picture]):
            below = name.removeprefix(root).replace(os.sep, "/")
            yield below.removeprefix("/"), (name, value)


def _root(path: str) -> str:
    """Return the folder that the names of pictures begin with, "" where none is."""
    if os.path.isdir(path):  # noqa: PTH112
        return str(Path(path))
    if _MAGIC.search(path) is None or os.path.lexists(path):
        return ""
    fixed = []
    for name in Path(path).parts:
        if _MAGIC.search(name):
            break
        fixed.append(name)
    return str(Path(*fixed)) if fixed else ""


class Turns:
    """Takes the pictures of one part, and remembers the place of each among all.

    Attributes:
        part: The part.
    """

    def __init__(self, part: Part, answered: int = 0) -> None:
        """Remember no place yet.

        Args:
            part: Whose pictures to take.
            answered: How many of them an earlier run has answered.
        """
        self.part = part
        self._answered = answered
        self._places: deque[int] = deque()

    def take(self, pictures: Iterable[Picture]) -> Iterator[NamedPicture]:
        """Yield the pictures of the part, in order.

        Args:
            pictures: All pictures, as for `expand`.
        """
        taken = 0
        for place, (key, named) in enumerate(keyed(pictures)):
            if not self.part.holds(key):
                continue
            taken += 1
            # Nobody asks for the places of pictures that were answered before.
            if taken > self._answered:
                self._places.append(place)
            yield named

    def next_place(self) -> int:
        """Return the place among all pictures of the next one that is answered."""
        return self._places.popleft()
