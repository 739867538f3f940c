"""Probe features on many sources: what `mlp-mixer probe` does."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..config import to_dict
from ..data import Dataset
from ..devices import pick_device
from ..errors import UserError
from ..evaluation.accuracy import Progress
from ..evaluation.as_trained import open_as_trained
from ..evaluation.fewshot import L2, SEEDS
from ..evaluation.probe import ProbeChoice, ProbeRow, identity_of, probe_source
from ..files import (
    PathLike,
    locked_folder,
    make_folder,
    read_json,
    refuse_to_replace,
    write_json,
)
from ..weights import Checkpoint, load
from ..weights.checkpoint import fingerprint
from ..weights.loading import Weights

_KIND = "mlp_mixer probe"  # the key of what must be the same to go on


@dataclass(frozen=True)
class Mean:
    """Holds the mean accuracy of a measure over sources.

    Attributes:
        accuracy: Each source counts the same, whatever its size.
        sources: How many sources have it.
    """

    accuracy: float
    sources: int


@dataclass(frozen=True)
class Probe:
    """Holds what was measured on all sources.

    Attributes:
        choice: What was asked for.
        rows: One for each source, in the order they were named.
    """

    choice: ProbeChoice
    rows: tuple[ProbeRow, ...]

    @property
    def complete(self) -> bool:
        """Whether all sources have all measures."""
        return all(row.complete for row in self.rows)

    @property
    def means(self) -> dict[str, Mean]:
        """The mean of each measure over the sources that have it."""
        found = {}
        for measure in self.choice.measures:
            each = [row.mean(measure) for row in self.rows]
            known = [accuracy for accuracy in each if accuracy is not None]
            if known:
                found[measure] = Mean(sum(known) / len(known), len(known))
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return {
            "choice": to_dict(self.choice),
            "complete": self.complete,
            "means": {name: to_dict(mean) for name, mean in self.means.items()},
            "rows": [row.to_dict() for row in self.rows],
        }


def _silent(row: ProbeRow) -> None:
    """Tell nobody: the default."""


def probe(
    checkpoint: Checkpoint | Weights,
    data: str | Dataset | Sequence[str | Dataset],
    *,
    shots: Sequence[int] = (5, 10),
    seeds: Sequence[int] = SEEDS,
    linear: bool = True,
    train_images: int | None = None,
    l2: float = L2,
    resize: Literal["resmall", "resize"] | None = None,
    out: PathLike | None = None,
    resume: bool = False,
    overwrite: bool = False,
    batch_size: int = 256,
    device: str = "auto",
    report: Callable[[ProbeRow], None] = _silent,
    progress: Progress | None = None,
) -> Probe:
    """Measure what a checkpoint's features are worth on each of several sources.

        import mlp_mixer as mm

        found = mm.probe("runs/digits", ["digits", "folder:photos"], train_images=1000)
        print(found.means["linear"].accuracy)

    Few-shot accuracy and a linear head on frozen features, each on images that the
    checkpoint has not learnt from. A source that cannot be used is a row with the
    reason, and not the end.

    Args:
        checkpoint: What `load` takes, or a loaded `Checkpoint`; it needs no head.
        data: Sources as `open_dataset` takes them, or open `Dataset`s.
        shots: Numbers of images of each class for the few-shot accuracy.
        seeds: Choices of these images, and of `train_images`.
        linear: Also fit a linear head, as `finetune --frozen` does.
        train_images: How many images of a source the linear head learns from, each
            class its share (1000: VTAB-1k); None: all.
        l2: The penalty of the few-shot fit.
        resize: "resize" ignores the aspect ratio, as big_vision does; default: the
            checkpoint's preprocessing.
        out: A .json file, which is written anew after each source.
        resume: Keep the complete rows that `out` holds already; the others are measured.
        overwrite: Replace `out`.
        batch_size: Images at a time.
        device: "auto" is a GPU if there is one.
        report: Is called with each row, those that were kept included.
        progress: Is called with the images of a source that are done, and with all.

    Returns:
        `.rows` of the sources and `.means` over them; `.complete` tells whether all
        could be measured.

    Raises:
        UserError: The checkpoint or an option cannot be used, or `out` exists or was
            begun with other weights or options.
    """
    choice = ProbeChoice(
        shots=tuple(shots),
        seeds=tuple(seeds),
        linear=linear,
        train_images=train_images,
        l2=l2,
        resize=resize,
    )
    sources = _named(data)
    # Before the weights are read, which may take minutes.
    place = pick_device(device)
    path = None if out is None else _checked_out(out, resume, overwrite)
    loaded = checkpoint if isinstance(checkpoint, Checkpoint) else load(checkpoint)

    identity = _identity(loaded, choice)
    with contextlib.ExitStack() as stack:
        if path is not None:
            # The folder is locked for this file only: others may be written beside it.
            folder = make_folder(path.parent)
            stack.enter_context(locked_folder(folder, f".{path.name}.claimed"))
        kept = _kept(path, identity, tuple(sources)) if path and resume else {}
        rows: dict[str, ProbeRow] = {}
        for name, source in sources.items():
            try:
                dataset = open_as_trained(source, loaded.provenance)
                row = kept.get(name)
                if row is None or row.images != identity_of(dataset):
                    row = probe_source(
                        loaded,
                        name,
                        dataset,
                        choice,
                        batch_size=batch_size,
                        device=place,
                        progress=progress,
                    )
            except UserError as error:
                row = ProbeRow(name, error=str(error))
            rows[name] = row
            if path is not None:
                # Kept rows that have not had their turn must outlive a kill too.
                _write(path, identity, choice, tuple(sources), {**kept, **rows})
            report(row)
    return Probe(choice, tuple(rows.values()))


def _named(data: str | Dataset | Sequence[str | Dataset]) -> dict[str, str | Dataset]:
    """Return the sources by name, each once."""
    several = [data] if isinstance(data, (str, Dataset)) else list(data)
    if not several:
        raise UserError(
            "there is no source of images: name at least one, such as digits"
        )
    sources: dict[str, str | Dataset] = {}
    for source in several:
        name = source.spec if isinstance(source, Dataset) else source
        if sources.setdefault(name, source) != source:
            raise UserError(
                f"two different sources are called {name!r}: give each a name of its own "
                "(spec)"
            )
    return sources


def _checked_out(out: PathLike, resume: bool, overwrite: bool) -> Path:
    """Return the path of the file, if it may be written."""
    path = Path(out)
    if path.suffix != ".json":
        raise UserError(
            f"cannot write {str(path)!r}: expected a name that ends in .json"
        )
    if path.is_dir():
        raise UserError(f"{str(path)!r} is a folder: expected a .json file")
    if resume and overwrite:
        raise UserError(
            "resume keeps the rows that overwrite would replace: give one of them"
        )
    if not (resume or overwrite):
        refuse_to_replace(path)
    return path


def _identity(checkpoint: Checkpoint, choice: ProbeChoice) -> dict[str, Any]:
    """Return what must be the same for a probe to go on, as JSON values."""
    return {
        "weights": fingerprint(checkpoint.model),
        "preprocess": to_dict(checkpoint.preprocess),
        **to_dict(choice),
    }


def _kept(
    path: Path, identity: dict[str, Any], names: tuple[str, ...]
) -> dict[str, ProbeRow]:
    """Return the complete rows of a file by source, none if there is no file."""
    if not os.path.lexists(path):
        return {}
    advice = "choose another --out"
    found = read_json(path, "probe", advice)
    if not isinstance(found, dict) or not isinstance(found.get(_KIND), dict):
        raise UserError(f"{str(path)!r} holds no probe: {advice}")
    if changed := _changes(found[_KIND], identity):
        raise UserError(
            f"{str(path)!r} was begun with other weights or options ({changed}): give "
            f"those again, or {advice}"
        )
    rows = found.get("rows")
    try:
        complete = {}
        for values in rows if isinstance(rows, list) else ():
            row = ProbeRow.from_dict(values)
            if row.complete:
                complete[row.data] = row
    except UserError as error:
        raise UserError(f"{str(path)!r} is damaged ({error}): {advice}") from error
    if lost := [name for name in complete if name not in names]:
        raise UserError(
            f"{str(path)!r} holds rows of {', '.join(lost)}: name these sources too, or "
            f"{advice}"
        )
    return complete


def _changes(before: dict[str, Any], now: dict[str, Any]) -> str:
    """Return in words what differs, "" if nothing does."""
    keys = [key for key in now if before.get(key) != now[key]]
    return "; ".join(f"{key} was {before.get(key)}, is now {now[key]}" for key in keys)


def _write(
    path: Path,
    identity: dict[str, Any],
    choice: ProbeChoice,
    names: tuple[str, ...],
    rows: dict[str, ProbeRow],
) -> None:
    """Write what is known so far, whole."""
    in_order = [rows[name] for name in names if name in rows]
    so_far = Probe(choice, tuple(in_order)).to_dict()
    # The identity says it already.
    del so_far["choice"]
    so_far["complete"] = so_far["complete"] and len(in_order) == len(names)
    write_json(path, {_KIND: identity, "sources": list(names), **so_far})
