"""Answers in a file, whole or absent: CSV, JSON, JSON lines or Parquet, features as
NumPy's `.npz`.

Until all are there, answers are lines of `FILE.unfinished`, from which a run that was
killed goes on.
"""

from __future__ import annotations

import contextlib
import csv
import itertools
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias

if TYPE_CHECKING:
    from .predictor import Failure, Features, Prediction

    Answers: TypeAlias = Iterable[Prediction | Failure]

Rows: TypeAlias = "Iterable[dict[str, Any]]"

# What the first bytes of our own files hold; no other file is replaced.
_HOLDS = {
    ".csv": b"path,pred_label", ".json": b'[\n{"path"', ".jsonl": b'{"path"', ".parquet": b"PAR1", ".npz": b"paths.npy"
}  # fmt: skip
_ROW_GROUP = 4096  # rows of Parquet in memory


def check(out: Path, *, features: bool) -> None:
    """Refuse, before any work, a file that cannot or should not be written; `UserError`
    says why.
    """
    from ..errors import UserError

    what = "features" if features else "answers"
    suffix = out.suffix.lower()
    wanted = [known for known in _HOLDS if (known == ".npz") is features]
    if suffix not in wanted:
        raise UserError(
            f"cannot write {what} to {str(out)!r}: expected a name that ends in {' or '.join(wanted)}"
        )
    if out.is_dir():
        raise UserError(
            f"cannot write {what} to {str(out)!r}: it is a folder; give the name of a file in it"
        )
    if out.is_file() and out.stat().st_size and not _is_ours(out, _HOLDS[suffix]):
        raise UserError(
            f"{str(out)!r} was not written by this command; move it, or choose another name"
        )
    if suffix == ".parquet":
        try:
            import pyarrow.parquet  # noqa: F401
        except ImportError as error:
            raise UserError(
                f'{str(out)!r} needs pyarrow: pip install "mlp-mixer[parquet]"'
            ) from error


def _is_ours(path: Path, holds: bytes) -> bool:
    try:
        with path.open("rb") as file:
            return holds in file.read(64)
    except OSError:
        return False


class Unfinished:
    """The answers so far, a line each, after one that says which weights and settings
    gave them.
    """

    def __init__(self, out: Path, identity: dict[str, Any], *, resume: bool) -> None:
        """identity: what must be the same for a run to go on. `UserError` if that, or
        an unfinished run, forbids.
        """
        from ..errors import UserError

        self.out = out
        self.path = out.with_name(f"{out.name}.unfinished")
        self.head = _line({"mlp_mixer predict": identity})
        self.counts = Counter(pictures=0, failed=0)
        head = answer = b""
        with contextlib.suppress(FileNotFoundError), self.path.open("rb") as file:
            head = file.readline()
            answer = file.readline()
        if answer and not resume:
            raise UserError(
                f"{str(self.path)!r} holds the answers of a run that did not end: add --resume to go on, or delete it"
            )
        if answer and head != self.head:
            raise UserError(
                f"{str(self.path)!r} was begun with other weights or settings: give those again, or delete it"
            )
        if not answer:
            self.path.write_bytes(self.head)

    def done(self) -> Iterator[str]:
        """The names of the pictures that are answered. A line that a kill has cut, and
        all after it, is removed.
        """
        with self.path.open("r+b") as file:
            whole = len(file.readline())
            for line in file:
                try:
                    answer = json.loads(line) if line.endswith(b"\n") else None
                except ValueError:
                    answer = None
                if answer is None:
                    break
                whole += len(line)
                self._count(answer)
                yield answer["path"]
            file.truncate(whole)

    def add(self, answers: Answers) -> Iterator[Prediction | Failure]:
        """The same answers, each kept before it is passed on."""
        file: BinaryIO | None = None
        try:
            for answer in answers:
                file = file or self.path.open(
                    "ab", buffering=0
                )  # after done(), which the first answer has waited for
                row = answer.to_dict()
                file.write(_line(row))
                self._count(row)
                yield answer
        finally:
            if file:
                file.close()

    def finish(self, top: int) -> None:
        """Write the file itself, whose columns in .csv and .parquet hold `top`
        candidates, and forget the lines.
        """
        from ..files import atomic_file

        write = {".csv": _csv, ".json": _json, ".jsonl": _jsonl, ".parquet": _parquet}[
            self.out.suffix.lower()
        ]
        with self.path.open("rb") as lines, atomic_file(self.out) as file:
            lines.readline()
            write(file, top, map(json.loads, lines))
        self.path.unlink()

    def give_up(self) -> None:
        """Forget the lines if there is no answer among them, so that nothing is left of
        a run that did not begin.
        """
        with contextlib.suppress(FileNotFoundError):
            if self.path.stat().st_size <= len(self.head):
                self.path.unlink()

    def _count(self, answer: dict[str, Any]) -> None:
        self.counts.update(pictures=1, failed=int("error" in answer))


def _line(value: dict[str, Any]) -> bytes:
    return json.dumps(value).encode() + b"\n"


def save_features(out: Path, name: str, answers: Iterable[Features | Failure]) -> None:
    """Write `.npz` with the arrays `paths` (N,) and `name`, float32 (N, ...), of the N
    pictures that could be read.
    """
    import numpy as np

    from ..files import atomic_file
    from .predictor import Features

    found = [answer for answer in answers if isinstance(answer, Features)]
    stacked = (
        np.stack([features.values[name] for features in found])
        if found
        else np.empty((0,), np.float32)
    )
    paths = np.array([features.path for features in found], dtype=np.str_)
    with atomic_file(out) as file:
        np.savez(file, allow_pickle=False, **{"paths": paths, name: stacked})


def _utf8(text: str) -> bytes:
    r"""What is not UTF-8 in the name of a file becomes an escape such as \udcff, which
    JSON reads back.
    """
    return text.encode("utf-8", "backslashreplace")


def escaped(text: str) -> str:
    """The text as any stream of UTF-8 can take it."""
    return _utf8(text).decode()


def _columns(top: int) -> dict[str, str]:
    """Names and Arrow types; the best candidate's columns are `pred_*`, the others are
    numbered from 2.
    """
    best = {
        "pred_label": "int64",
        "pred_class": "string",
        "pred_score": "float32",
        "score_kind": "string",
    }
    others = {
        f"top{rank}_{key}": best[f"pred_{key}"]
        for rank in range(2, top + 1)
        for key in ("class", "score")
    }
    return {"path": "string", **best, **others, "error": "string"}


def _flat(answer: dict[str, Any]) -> dict[str, Any]:
    row = dict(answer)
    for rank, candidate in enumerate(row.pop("top", ())[1:], start=2):
        row |= {
            f"top{rank}_class": candidate["name"],
            f"top{rank}_score": candidate["score"],
        }
    return row


def _csv(file: BinaryIO, top: int, answers: Rows) -> None:
    text = SimpleNamespace(write=lambda line: file.write(_utf8(line)))
    table = csv.DictWriter(text, list(_columns(top)), lineterminator="\n")
    table.writeheader()
    table.writerows(map(_flat, answers))


def _jsonl(file: BinaryIO, top: int, answers: Rows, between: str = "\n") -> None:
    for position, answer in enumerate(answers):
        file.write(
            _utf8(
                (between if position else "") + json.dumps(answer, ensure_ascii=False)
            )
        )
    file.write(b"\n")


def _json(file: BinaryIO, top: int, answers: Rows) -> None:
    file.write(b"[\n")
    _jsonl(file, top, answers, between=",\n")
    file.write(b"]\n")


def _parquet(file: BinaryIO, top: int, answers: Rows) -> None:
    import pyarrow
    from pyarrow.parquet import ParquetWriter

    schema = pyarrow.schema(
        [(name, getattr(pyarrow, kind)()) for name, kind in _columns(top).items()]
    )
    rows = (
        {
            key: escaped(value) if isinstance(value, str) else value
            for key, value in _flat(answer).items()
        }
        for answer in answers
    )
    with ParquetWriter(file, schema) as writer:
        while group := list(itertools.islice(rows, _ROW_GROUP)):
            writer.write_table(pyarrow.Table.from_pylist(group, schema=schema))
