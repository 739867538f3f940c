"""Write the answers for many pictures to a file, and continue after a kill.

The file appears when all answers are there. Until then they are lines of
`FILE.unfinished`, from which a run that was stopped continues.
"""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from ..errors import UserError
from ..files import (
    PathLike,
    append_whole,
    locked_folder,
    make_folder,
    no_link,
    refusing,
)
from ..untrusted.text import parse_json
from .formats import check_out, write_answers, write_features
from .identity import identity, run_of
from .parts import Part, Turns
from .pictures import Picture
from .results import Failure, Features, Prediction
from .sorting import Sorter

if TYPE_CHECKING:
    from .light import LightPredictor
    from .predictor import Predictor


def _ignore(answer: object) -> None:
    """The default report: nobody listens."""


@dataclass(frozen=True)
class Written:
    """What a file of answers or features holds.

    Attributes:
        out: The file.
        pictures: How many pictures were asked for.
        failed: How many of them could not be read.
        unknown: How many of the answers are "unknown".
    """

    out: Path
    pictures: int
    failed: int
    unknown: int = 0


def predict_to_file(
    predictor: Predictor | LightPredictor,
    pictures: Iterable[Picture],
    out: PathLike,
    *,
    resume: bool = False,
    overwrite: bool = False,
    sorter: Sorter | None = None,
    part: str | Part | None = None,
    batch_size: int = 32,
    report: Callable[[Prediction | Failure], None] = _ignore,
) -> Written:
    """Classify pictures and write the answers to a file, which a killed run continues.

    Args:
        predictor: What answers.
        pictures: As for `Predictor.predict`.
        out: A .csv, .json, .jsonl or .parquet file.
        resume: Continue from the answers that a stopped run with this `out` has kept,
            or start if there are none.
        overwrite: Replace an older file of answers.
        sorter: Also sorts the pictures, those of the stopped run included; what lies in
            its folder is no picture to classify.
        part: Answer only this part of the pictures, such as "3/16". A hash of the path
            below its folder says to which part a picture belongs; `join_answers` makes
            one file of all parts.
        batch_size: How many pictures to read and compute at a time.
        report: Is called with every new answer as soon as it is kept.

    Returns:
        How many pictures there were, and how many failed: earlier runs included.

    Raises:
        UserError: The file exists or cannot be written, another process writes it, or
            it was begun with other weights, settings or pictures.
    """
    path = Path(out)
    check_out(path, replace=overwrite or (resume and unfinished_path(path).exists()))
    about = identity(predictor)
    if isinstance(part, str):
        part = Part.parse(part)
    if part is not None and sorter is not None:
        raise UserError(
            "the pictures of one part cannot be sorted, for the other parts would find "
            "them twice; leave sorting or the part away"
        )
    # The folder is locked for this file only: others may be written beside it.
    with locked_folder(make_folder(path.parent), f".{path.name}.claimed"):
        unfinished = Unfinished(path, about, resume=resume, part=part)
        turns = None if part is None else Turns(part, unfinished.pictures)
        try:
            if sorter is not None:
                # A kill may have come between an answer and its sorting.
                for row in unfinished.earlier():
                    if "error" not in row:
                        sorter.place(row["path"], row["pred_class"])
            answers = predictor.predict(
                pictures,
                batch_size=batch_size,
                answered=unfinished.answered(),
                outside=None if sorter is None else sorter.folder,
                turns=turns,
            )
            for answer in answers:
                place = None if turns is None else turns.next_place()
                unfinished.add(answer, place)
                if sorter is not None:
                    sorter.add(answer)
                report(answer)
            unfinished.finish(predictor.top)
        finally:
            unfinished.close()
    return Written(path, unfinished.pictures, unfinished.failed, unfinished.unknown)


def features_to_file(
    predictor: Predictor,
    pictures: Iterable[Picture],
    name: str,
    out: PathLike,
    *,
    overwrite: bool = False,
    batch_size: int = 32,
    report: Callable[[Features | Failure], None] = _ignore,
) -> Written:
    """Write one feature of each picture to an .npz file.

    Args:
        predictor: What computes them.
        pictures: As for `Predictor.features`.
        name: The feature, such as "pre_logits"; its array in the file is float32
            (N, ...), beside the array `paths` (N,). Failures are in neither.
        out: The .npz file.
        overwrite: Replace an older file of features.
        batch_size: How many pictures to read and compute at a time.
        report: Is called with what was computed for each picture.

    Returns:
        How many pictures there were, and how many failed.

    Raises:
        UserError: The file exists or cannot be written, or there is no such feature.
    """
    path = Path(out)
    check_out(path, features=True, replace=overwrite)
    found = []
    failed = 0
    for answer in predictor.features(pictures, name, batch_size=batch_size):
        report(answer)
        if isinstance(answer, Features):
            found.append(answer)
        else:
            failed += 1
    write_features(path, name, found)
    return Written(path, len(found) + failed, failed)


def unfinished_path(out: Path) -> Path:
    """Return the file that keeps the answers until all are there.

    Args:
        out: The file that will hold them.
    """
    return out.with_name(f"{out.name}.unfinished")


class Unfinished:
    """The answers so far: lines of `FILE.unfinished`, below one that identifies the run.

    Attributes:
        out: The file that will hold the answers.
        path: The file of the lines.
        pictures: How many answers there are, those of earlier runs included.
        failed: How many of them are failures.
        unknown: How many of them are "unknown".
    """

    def __init__(
        self,
        out: Path,
        identity: dict[str, Any],
        *,
        resume: bool,
        part: Part | None = None,
    ) -> None:
        """Open the lines of a stopped run, or begin new ones.

        Args:
            out: The file that will hold the answers.
            identity: What must be the same for a run to continue.
            resume: Whether to continue a stopped run.
            part: Which part of all pictures the answers are about.

        Raises:
            UserError: There are answers of another run, or of one that should not be
                continued.
        """
        self.out = out
        self.path = unfinished_path(out)
        self.pictures = 0
        self.failed = 0
        self.unknown = 0
        self._may_be_unknown = "min_score" in identity
        self._part = None
        if part is not None:
            self._part = f"{part} {run_of(identity)}"
            identity = {**identity, "part": str(part)}
        self._head = _line({"mlp_mixer predict": identity})
        # Pictures have several labels each where classes have thresholds.
        self._several = "thresholds" in identity
        head, has_answers = self._first_lines()
        if has_answers and not resume:
            raise UserError(
                f"{str(self.path)!r} holds the answers of a run that did not end: add "
                "--resume (resume=True) to continue it, or delete it"
            )
        if has_answers and head != self._head:
            raise UserError(
                f"{str(self.path)!r} was begun with other weights or settings: give "
                "those again, or delete it"
            )
        with refusing("write", self.path):
            if not has_answers:
                with self._opened("wb") as file:
                    file.write(self._head)
            self._remove_damaged_end()
            self._earlier = self.pictures
            # Unbuffered: a kill loses no answer that was added.
            self._file = cast("FileIO", self._opened("ab", buffering=0))

    def earlier(self) -> Iterator[dict[str, Any]]:
        """Yield the answers of earlier runs, in order.

        They are read from the file again, so that a million of them need no memory.
        """
        yield from itertools.islice(self._rows(), self._earlier)

    def answered(self) -> Iterator[str]:
        """Yield the names of the pictures that earlier runs have answered, in order."""
        for row in self.earlier():
            yield row["path"]

    def add(self, answer: Prediction | Failure, place: int | None = None) -> None:
        """Keep an answer.

        Args:
            answer: For the next picture.
            place: Of that picture among all, where this is a part.

        Raises:
            UserError: The disk refuses; what was added before is kept.
        """
        row = answer.to_dict()
        if self._part is not None:
            row |= {"position": place, "part": self._part}
        with refusing("write", self.path):
            append_whole(self._file, _line(row))
        self._count(row)

    def finish(self, top: int) -> None:
        """Write the file itself, and remove the lines.

        Args:
            top: How many candidates the columns of .csv and .parquet hold.
        """
        write_answers(
            self.out,
            self._rows(),
            top,
            unknowns=self._may_be_unknown,
            several=self._several,
            part=self._part is not None,
        )
        # Windows removes no open file.
        self._file.close()
        self.path.unlink()

    def close(self) -> None:
        """Close the lines, and remove them if no picture was answered.

        So a run that did not begin leaves nothing behind.
        """
        self._file.close()
        with contextlib.suppress(FileNotFoundError):
            if self.path.stat().st_size <= len(self._head):
                self.path.unlink()

    def _opened(self, mode: str, buffering: int = -1) -> BinaryIO:
        """Open the lines to write them, unless somebody has put a link there."""
        file = open(self.path, mode, buffering, opener=no_link)  # noqa: SIM115
        return cast("BinaryIO", file)

    def _first_lines(self) -> tuple[bytes, bool]:
        """Return the line that identifies the run, and whether anything follows it."""
        try:
            with self.path.open("rb") as file:
                return file.readline(), bool(file.readline())
        except FileNotFoundError:
            return b"", False

    def _remove_damaged_end(self) -> None:
        """Count the answers, and cut off the line that a kill has torn and all after it."""
        with self._opened("r+b") as file:
            intact = len(file.readline())
            for line in file:
                row = _parsed(line)
                if row is None:
                    break
                intact += len(line)
                self._count(row)
            file.truncate(intact)

    def _rows(self) -> Iterator[dict[str, Any]]:
        with self.path.open("rb") as lines:
            # The line that identifies the run is no answer.
            lines.readline()
            yield from map(parse_json, lines)

    def _count(self, row: dict[str, Any]) -> None:
        self.pictures += 1
        self.failed += "error" in row
        self.unknown += row.get("pred_label", 0) is None


def _line(value: dict[str, Any]) -> bytes:
    return json.dumps(value).encode() + b"\n"


def _parsed(line: bytes) -> dict[str, Any] | None:
    """Return the answer of a line, or None if the line is not complete."""
    if not line.endswith(b"\n"):
        return None
    try:
        row = parse_json(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None
