"""Answers in a file, whole or absent: CSV, JSON, JSON lines or Parquet row by row, features as NumPy's `.npz`."""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias

if TYPE_CHECKING:
    from ..predict import Failure, Features, Prediction

    Answers: TypeAlias = Iterable[Prediction | Failure]

# What the first bytes of our own files hold; no other file is replaced.
_HOLDS = {
    ".csv": b"path,pred_label", ".json": b'[\n{"path"', ".jsonl": b'{"path"', ".parquet": b"PAR1", ".npz": b"paths.npy"
}  # fmt: skip
_ROW_GROUP = 4096  # rows of Parquet in memory


def check(out: Path, *, features: bool) -> None:
    """Refuse, before any work, a file that cannot or should not be written; `UserError` says why."""
    from ..errors import UserError

    what, suffix = "features" if features else "answers", out.suffix.lower()
    wanted = [known for known in _HOLDS if (known == ".npz") is features]
    if suffix not in wanted:
        raise UserError(f"cannot write {what} to {str(out)!r}: expected a name that ends in {' or '.join(wanted)}")
    if out.is_dir():
        raise UserError(f"cannot write {what} to {str(out)!r}: it is a folder; give the name of a file in it")
    if out.is_file() and out.stat().st_size and not _is_ours(out, _HOLDS[suffix]):
        raise UserError(f"{str(out)!r} was not written by this command; move it, or choose another name")
    if suffix == ".parquet":
        try:
            import pyarrow.parquet  # noqa: F401
        except ImportError as error:
            raise UserError(f'{str(out)!r} needs pyarrow: pip install "mlp-mixer[parquet]"') from error


def _is_ours(path: Path, holds: bytes) -> bool:
    try:
        with path.open("rb") as file:
            return holds in file.read(64)
    except OSError:
        return False


def save_answers(out: Path, top: int, answers: Answers) -> None:
    """Write one row per picture while the answers come; the columns of .csv and .parquet hold `top` candidates."""
    from ..files import atomic_file

    with atomic_file(out) as file:
        {".csv": _csv, ".json": _json, ".jsonl": _jsonl, ".parquet": _parquet}[out.suffix.lower()](file, top, answers)


def save_features(out: Path, name: str, answers: Iterable[Features | Failure]) -> None:
    """Write `.npz` with the arrays `paths` (N,) and `name`, float32 (N, ...), of the N pictures that could be read."""
    import numpy as np

    from ..files import atomic_file
    from ..predict import Features

    found = [answer for answer in answers if isinstance(answer, Features)]
    stacked = np.stack([features.values[name] for features in found]) if found else np.empty((0,), np.float32)
    paths = np.array([features.path for features in found], dtype=np.str_)
    with atomic_file(out) as file:
        np.savez(file, allow_pickle=False, **{"paths": paths, name: stacked})


def _utf8(text: str) -> bytes:
    r"""What is not UTF-8 in the name of a file becomes an escape such as \udcff, which JSON reads back."""
    return text.encode("utf-8", "backslashreplace")


def escaped(text: str) -> str:
    """The text as any stream of UTF-8 can take it."""
    return _utf8(text).decode()


def _columns(top: int) -> dict[str, str]:
    """Names and Arrow types; the best candidate's columns are `pred_*`, the others are numbered from 2."""
    best = {"pred_label": "int64", "pred_class": "string", "pred_score": "float32", "score_kind": "string"}
    others = {f"top{rank}_{key}": best[f"pred_{key}"] for rank in range(2, top + 1) for key in ("class", "score")}
    return {"path": "string", **best, **others, "error": "string"}


def _flat(answer: Prediction | Failure) -> dict[str, Any]:
    row = answer.to_dict()
    for rank, candidate in enumerate(row.pop("top", ())[1:], start=2):
        row |= {f"top{rank}_class": candidate["name"], f"top{rank}_score": candidate["score"]}
    return row


def _csv(file: BinaryIO, top: int, answers: Answers) -> None:
    text = SimpleNamespace(write=lambda line: file.write(_utf8(line)))
    table = csv.DictWriter(text, list(_columns(top)), lineterminator="\n")
    table.writeheader()
    table.writerows(map(_flat, answers))


def _jsonl(file: BinaryIO, top: int, answers: Answers, between: str = "\n") -> None:
    for position, answer in enumerate(answers):
        file.write(_utf8((between if position else "") + json.dumps(answer.to_dict(), ensure_ascii=False)))
    file.write(b"\n")


def _json(file: BinaryIO, top: int, answers: Answers) -> None:
    file.write(b"[\n")
    _jsonl(file, top, answers, between=",\n")
    file.write(b"]\n")


def _parquet(file: BinaryIO, top: int, answers: Answers) -> None:
    import pyarrow
    from pyarrow.parquet import ParquetWriter

    schema = pyarrow.schema([(name, getattr(pyarrow, kind)()) for name, kind in _columns(top).items()])
    rows = (
        {key: escaped(value) if isinstance(value, str) else value for key, value in _flat(answer).items()}
        for answer in answers
    )
    with ParquetWriter(file, schema) as writer:
        while group := list(itertools.islice(rows, _ROW_GROUP)):
            writer.write_table(pyarrow.Table.from_pylist(group, schema=schema))
