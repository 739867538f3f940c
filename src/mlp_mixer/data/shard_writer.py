"""Write a dataset as shards, so that a killed writer goes on and ends with equal bytes.

The format is described in `shards` and `shard_index`. The place of every image is
settled before the first byte: the shards of a split take equal numbers of images, train
in an order shuffled by the seed (other tools stream the tars, and need mixed classes),
val and test in the order of the dataset (they are read in order).

A shard is then a function of its number alone. It appears complete, by a rename, and
after it a note of its images; a shard without its note is written again. dataset.json
comes last, and then the notes are removed.
"""

from __future__ import annotations

import shutil
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from ..errors import UserError
from ..files import make_folder, read_json, remove_leftovers, sha256, write_json
from .dataset import Dataset, public_name
from .image_set import ImageSet
from .shard_index import DESCRIPTION, FORMAT_VERSION, INDEX, UNFINISHED, write_index
from .shard_job import NOTED, ShardJob, divide, read_ahead, write_shard

# Images of a shard, or shards of a dataset.
_MOST_ENTRIES = 2_000_000
_PLAN = "plan.json"


@dataclass(frozen=True)
class Written:
    """What a folder of shards holds.

    Attributes:
        images: How many images each split has.
        shards: How many tars there are.
        left_out: The names of the images that were left out, each with the reason.
    """

    images: dict[str, int]
    shards: int
    left_out: dict[str, str]


def write_shards(
    dataset: Dataset,
    out: Path,
    *,
    shard_bytes: int,
    seed: int = 0,
    workers: int = 1,
    skip_bad: bool = False,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> Written:
    """Write every image of a dataset into shards, or go on where a call was stopped.

    Files are copied byte by byte, arrays become PNG. A test split that was held out here
    stays part of train: opening the shards holds out the same images again.

    Args:
        dataset: What to write.
        out: A new or empty folder, or the folder that an earlier call with the same
            arguments left.
        shard_bytes: About how large shards should be.
        seed: Of the order in train.
        workers: Threads that read and check images.
        skip_bad: Leave out images that cannot be decoded, instead of stopping at the
            first.
        report: Is called with the numbers of images done and of all images.

    Returns:
        What the folder holds now.

    Raises:
        UserError: An image cannot be decoded, `out` has something else in it, or
            another process writes there.
    """
    dataset.train.need_one_label("a shard")
    if dataset.held_out is not None:
        given: dict[str, ImageSet | None] = {"train": dataset.all()}
    else:
        given = {"train": dataset.train, "val": dataset.val, "test": dataset.test}
    splits = {name: images for name, images in given.items() if images is not None}
    jobs: list[ShardJob] = []
    for name, images in splits.items():
        jobs += divide(name, images, shard_bytes, seed)
    plan = _plan(dataset, jobs, seed)
    notes = out / UNFINISHED
    if not _is_complete(out, plan):
        _begin(out, plan)
        try:
            with FileLock(notes / "lock", timeout=0):
                for folder in (out, notes, *(out / name for name in splits)):
                    remove_leftovers(folder)
                _write_all(out, jobs, workers, skip_bad, report)
                _finish(out, jobs, public_name(dataset.spec), plan)
        except Timeout as error:
            raise UserError(
                f"another process is writing shards into {str(out)!r}: wait for it, or "
                "stop it"
            ) from error
    shutil.rmtree(notes, ignore_errors=True)
    return _written(out)


def _plan(dataset: Dataset, jobs: list[ShardJob], seed: int) -> dict[str, Any]:
    """Return all that the bytes of the shards depend on."""
    # The order itself is part of the plan, not only its seed: another version of NumPy
    # may shuffle in another way, and half-written shards would not fit together.
    rows = np.concatenate([job.rows for job in jobs]).astype("<i8")
    return {
        "fingerprint": dataset.fingerprint(),
        "seed": seed,
        "images_per_shard": {
            job.split: len(job.rows) for job in jobs if job.number == 0
        },
        "order": zlib.crc32(rows.tobytes()),
    }


def _is_complete(out: Path, plan: dict[str, Any]) -> bool:
    """Whether the folder holds these shards already."""
    known = _record(out / DESCRIPTION)
    if known is not None and known.get("plan") != plan:
        raise UserError(
            f"{str(out)!r} has other shards (another dataset, size or seed): choose a "
            "new folder"
        )
    return known is not None


def _begin(out: Path, plan: dict[str, Any]) -> None:
    """Note the plan in the folder, unless another one or other files are there."""
    make_folder(out)
    known = _record(out / UNFINISHED / _PLAN)
    if known is None:
        others = [entry.name for entry in out.iterdir() if entry.name != UNFINISHED]
        if others:
            raise UserError(
                f"{str(out)!r} is not empty (it has {others[0]!r}): choose a new folder"
            )
    elif known != plan:
        raise UserError(
            f"{str(out)!r} was begun from another dataset, size or seed: repeat those, or "
            "choose a new folder"
        )
    write_json(out / UNFINISHED / _PLAN, plan)


def _record(path: Path) -> dict[str, Any] | None:
    """Return a JSON object that an earlier call wrote, None if there is no file."""
    # If the system forbids to look, reading it says so in a sentence.
    with suppress(OSError):
        if not path.exists():
            return None
    found = read_json(
        path, "record of the shards", "choose a new folder", entries=_MOST_ENTRIES
    )
    return found if isinstance(found, dict) else {}


def _write_all(
    out: Path,
    jobs: list[ShardJob],
    workers: int,
    skip_bad: bool,
    report: Callable[[int, int], None],
) -> None:
    """Write the shards that are not there yet."""
    total = sum(len(job.rows) for job in jobs)
    done = 0
    with ThreadPoolExecutor(workers) as pool:
        for job in jobs:
            has_shard = (out / job.name).is_file()
            has_note = (out / job.note).is_file()
            if not (has_shard and has_note):
                images = read_ahead(pool, job, workers)
                for count in write_shard(out, job, images, skip_bad):
                    report(done + count, total)
            done += len(job.rows)
        report(done, total)


def _finish(out: Path, jobs: list[ShardJob], source: str, plan: dict[str, Any]) -> None:
    """Join the notes to an index for each split, and write dataset.json."""
    left_out: dict[str, str] = {}
    records: dict[str, Any] = {}
    for split in dict.fromkeys(job.split for job in jobs):
        mine = [job for job in jobs if job.split == split]
        notes = [_record(out / job.note) or {} for job in mine]
        records[split] = _finish_split(out, mine, notes)
        for note in notes:
            left_out |= note["left_out"]
    description = {
        "format_version": FORMAT_VERSION,
        "source": source,
        "plan": plan,
        "classes": jobs[0].images.classes,
        "splits": records,
        "left_out": left_out,
    }
    write_json(out / DESCRIPTION, description)


def _finish_split(
    out: Path, jobs: list[ShardJob], notes: list[dict[str, Any]]
) -> dict[str, Any]:
    """Write the index of a split, and return its record in dataset.json."""
    images = jobs[0].images
    split = jobs[0].split
    columns: dict[str, np.ndarray[Any, Any]] = {}
    for name in NOTED:
        joined = np.concatenate([note[name] for note in notes])
        # Without a single image the lists are empty, and become floats.
        columns[name] = joined.astype(np.int64)
    counts = [len(note["row"]) for note in notes]
    columns["shard"] = np.repeat(np.arange(len(notes)), counts)
    # The index has the order of the dataset, whatever the order in the tars.
    order = np.argsort(columns["row"])
    columns = {name: column[order] for name, column in columns.items()}
    rows = columns.pop("row")
    if not len(rows):
        raise UserError(f"not one image of {split} can be decoded: nothing to write")
    columns["label"] = images.labels[rows]
    # A PNG of an array is another file, and still the same image.
    columns["key"] = images.keys()[rows]
    index = out / split / INDEX
    write_index(index, columns, (images.name(row) for row in rows.tolist()))
    index_file = {
        "name": f"{split}/{INDEX}",
        "bytes": index.stat().st_size,
        "sha256": sha256(index),
    }
    shards = []
    for job, note in zip(jobs, notes, strict=True):
        shards.append(
            {
                "name": job.name,
                "bytes": note["bytes"],
                "images": len(note["row"]),
                "sha256": note["sha256"],
            }
        )
    return {
        "images": len(rows),
        "channels": images.channels,
        "size": images.size,
        "index": index_file,
        "shards": shards,
    }


def _written(out: Path) -> Written:
    """Return what dataset.json says of a finished folder."""
    known = _record(out / DESCRIPTION) or {}
    records = known["splits"]
    images = {split: record["images"] for split, record in records.items()}
    shards = sum(len(record["shards"]) for record in records.values())
    return Written(images, shards, known["left_out"])
