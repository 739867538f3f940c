"""Sort pictures into one folder for each answer, as links or copies.

Nothing is moved, changed or replaced: a name that is taken gets a number. So a run that
was stopped may be started again.
"""

from __future__ import annotations

import contextlib
import filecmp
import itertools
import os
import re
import shutil
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Self

from ..errors import UserError, unknown
from ..files import (
    PathLike,
    atomic_file,
    locked_folder,
    make_folder,
    read_json,
    remove_leftovers,
    write_json,
)
from ..weights.scores import UNKNOWN
from .identity import identity
from .results import Failure, Prediction

if TYPE_CHECKING:
    from .light import LightPredictor
    from .predictor import Predictor

WAYS = ("link", "copy")
"""How a picture comes into the folder of its answer."""

_RECORD = ".mlp-mixer-sorted.json"
_MOST_BYTES = 100  # of a folder's name; file systems take 255

# What Windows does not take in a name; and the names that it takes for devices.
_FORBIDDEN = re.compile(r'[<>:"/\\|?*\x00-\x1f\x7f]')
_DEVICE = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


class Sorter:
    """Puts pictures into the folders of their answers; to be used by `with`.

    Attributes:
        folder: The folder that gets a folder for each answer.
        by: "link", or "copy"; also where the system refused to make links.
        counts: How many pictures each folder has got, by its name.
        without_file: How many answers were about no file: addresses, frames of videos.
    """

    def __init__(
        self,
        predictor: Predictor | LightPredictor,
        folder: PathLike,
        by: str = "link",
    ) -> None:
        """Write nothing yet.

        Args:
            predictor: What answers.
            folder: A new or empty folder, or that of a run to go on with.
            by: A key of `WAYS`. "link" makes symbolic links, and copies where the
                system has none.

        Raises:
            UserError: There is no such way, or pictures have several labels each.
        """
        if predictor.thresholds is not None:
            raise UserError(
                "a picture is sorted into one folder, and this checkpoint gives several "
                "labels: write them into a file instead (predict --out FILE.csv)"
            )
        if by not in WAYS:
            raise unknown("way to sort", by, WAYS)
        self.folder = Path(folder)
        self.by = by
        self.counts: Counter[str] = Counter()
        self.without_file = 0
        self._identity = identity(predictor)
        # How many candidates are told changes no answer.
        del self._identity["top"]
        self._folders = folder_names((UNKNOWN, *predictor.labels))
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        """Lock the folder, and check what it holds.

        Raises:
            UserError: It holds other files or pictures of other answers, the folder of
                an answer is a link, another process is at work there, or it cannot be
                written.
        """
        make_folder(self.folder)
        self._stack.enter_context(locked_folder(self.folder, ".sorting"))
        try:
            self._claim()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        """Unlock the folder."""
        self._stack.close()

    def add(self, answer: Prediction | Failure) -> None:
        """Sort the picture of an answer; one that could not be read has no place.

        Args:
            answer: Of a predictor with the same class names.

        Raises:
            UserError: The disk refuses.
        """
        if isinstance(answer, Prediction):
            self.place(answer.path, answer.pred_class)

    def place(self, picture: str, answer: str) -> None:
        """Sort a picture, unless that was done before.

        Args:
            picture: Its path.
            answer: The name of the class, or "unknown".

        Raises:
            UserError: The disk refuses.
        """
        if not os.path.isfile(picture):  # noqa: PTH113
            self.without_file += 1
            return
        source = Path(picture)
        name = self._folders[answer]
        place = make_folder(self.folder / name)
        for target in _free_names(place, source.name):
            if not os.path.lexists(target):
                self._put(source, target)
                break
            if _is_same(target, source):
                break
        self.counts[name] += 1

    def _claim(self) -> None:
        """Write down whose answers are sorted here, or compare them with what is."""
        for name in self._folders.values():
            if (self.folder / name).is_symlink():
                raise UserError(
                    f"{str(self.folder / name)!r} is a link, and pictures would come to "
                    "where it leads; remove the link, or choose another folder"
                )
        record = self.folder / _RECORD
        if record.exists():
            before = read_json(record, "record of sorted pictures", "delete it")
            if before != self._identity:
                raise UserError(
                    f"{str(self.folder)!r} holds pictures that other weights or settings "
                    "sorted; choose another folder"
                )
        elif any(not path.name.startswith(".") for path in self.folder.iterdir()):
            raise UserError(
                f"{str(self.folder)!r} holds other files; choose a new or an empty folder"
            )
        write_json(record, self._identity)
        for name in self._folders.values():
            remove_leftovers(self.folder / name)

    def _put(self, source: Path, target: Path) -> None:
        if self.by == "link":
            try:
                # Absolute: the folder may be moved, and the pictures stay.
                target.symlink_to(source.absolute())
                return
            except (OSError, NotImplementedError):
                # No links here, or no place: copying tells which.
                self.by = "copy"
        with atomic_file(target) as file, source.open("rb") as picture:
            shutil.copyfileobj(picture, file)
        # The time of a photo is when it was taken; some file systems keep none.
        with contextlib.suppress(OSError):
            shutil.copystat(source, target)


def folder_names(answers: Iterable[str]) -> dict[str, str]:
    """Return for each answer the name of a folder that every system takes.

    Args:
        answers: Names of classes; the first of two that need the same name gets it.
    """
    names: dict[str, str] = {}
    taken: set[str] = set()
    for answer in dict.fromkeys(answers):
        plain = _plain(answer)
        numbered = (f"{plain}-{number}" for number in itertools.count(2))
        for name in itertools.chain([plain], numbered):
            # Some systems do not tell case, or two spellings of an accent.
            key = unicodedata.normalize("NFC", name).casefold()
            if key not in taken:
                break
        taken.add(key)
        names[answer] = name
    return names


def _plain(answer: str) -> str:
    """Return the name of a class without what no folder may be called."""
    name = _FORBIDDEN.sub("_", answer)
    name = name.encode("utf-8", "replace")[:_MOST_BYTES].decode("utf-8", "ignore")
    # Windows drops these at the end; at the beginning a point would hide the folder.
    name = name.rstrip(" .").lstrip(" ")
    if name.startswith("."):
        name = f"_{name[1:]}"
    if not name or _DEVICE.fullmatch(name):
        name = f"_{name}"
    return name


def _free_names(folder: Path, name: str) -> Iterator[Path]:
    """Yield the place of a file, then others with a number."""
    yield folder / name
    stem, ending = os.path.splitext(name)  # noqa: PTH122
    for number in itertools.count(2):
        yield folder / f"{stem}-{number}{ending}"


def _is_same(target: Path, source: Path) -> bool:
    """Whether a picture is in its place already: linked there, or an equal copy."""
    if target.is_symlink():
        return os.path.realpath(target) == os.path.realpath(source)
    return target.is_file() and filecmp.cmp(source, target, shallow=False)
