"""Write a data set as shards (the format is in `shards`), so that a killed writer goes
on and ends with the same bytes.

What goes where is settled before the first byte: the shards of a split take equal
    numbers of images, train in an order
shuffled by the seed (whoever streams the tars gets mixed classes), val and test in the
order of the source (they are read in order). A shard is then a pure function of its
number. It appears whole, by a rename, and after it a note of what is in it; a shard
without its note is written again. dataset.json comes last of all, and the notes go.
"""

from __future__ import annotations

import io
import json
import re
import shutil
import tarfile
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from PIL import Image

from ..errors import UserError
from ..files import atomic_file, make_folder, remove_leftovers, sha256, write_json
from ..images.decode import decode_image
from ..randomness import epoch_order
from .dataset import Dataset, public_name
from .image_set import FileSet, ImageSet
from .shards import (
    DESCRIPTION,
    FORMAT_VERSION,
    INDEX,
    UNFINISHED,
    EncodedSet,
    write_index,
)

_PLAN = "plan.json"
_NOTED = ("row", "offset", "size", "crc32")
_OVERHEAD = (
    4 * 512
)  # bytes of a sample beside its image: two headers, the label, and padding
_MAX_SHARDS = 1_000_000  # what six digits can number
_MAX_IMAGE = 2**30  # bytes of one image file
_ENDINGS = {
    b"\xff\xd8": "jpg",
    b"\x89PNG": "png",
    b"RIFF": "webp",
    b"GIF8": "gif",
    b"BM": "bmp",
}


@dataclass(frozen=True)
class Written:
    """How many images of each split and how many shards there are, and why which images
    were left out.
    """

    images: dict[str, int]
    shards: int
    left_out: dict[str, str]


@dataclass(frozen=True)
class _Job:
    """One shard: which images, in which order, and the place of the first of them among
    all of the split.
    """

    images: ImageSet
    split: str
    number: int
    first: int
    rows: np.ndarray[Any, Any]

    @property
    def name(self) -> str:
        return f"{self.split}/shard-{self.number:06d}.tar"

    @property
    def note(self) -> str:
        return f"{UNFINISHED}/{self.split}-{self.number:06d}.json"


def write_shards(
    source: Dataset,
    out: Path,
    *,
    shard_bytes: int,
    seed: int = 0,
    workers: int = 1,
    skip_bad: bool = False,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> Written:
    """Write every image of a source into shards in `out`, or go on where an earlier
    call was stopped.

    Files are copied byte by byte, arrays become PNG. A test split that we held out
    ourselves stays part of train: whoever opens the shards holds out the same images.

    Args:
        source: what to write.
        out: a new or empty folder, or what an earlier call with the same arguments
            left.
        shard_bytes: about how large shards should be.
        seed: of the order in train.
        workers: threads that read and check images.
        skip_bad: leave out images that cannot be decoded, instead of stopping at the
            first.
        report: is told how many images of how many are done.

    Raises:
        UserError: an image cannot be decoded, `out` has something else in it, or
            another process writes there.
    """
    splits = {"train": source.train, "val": source.val, "test": source.test}
    if source.held_out is not None:
        splits = {"train": source.all()}
    jobs = [
        job
        for name, images in splits.items()
        if images is not None
        for job in _jobs(name, images, shard_bytes, seed)
    ]
    order = zlib.crc32(
        np.concatenate([job.rows for job in jobs]).astype("<i8").tobytes()
    )  # NumPy may change its mind
    per_shard = {job.split: len(job.rows) for job in jobs if job.number == 0}
    plan = {
        "fingerprint": source.fingerprint(),
        "seed": seed,
        "images_per_shard": per_shard,
        "order": order,
    }
    notes = out / UNFINISHED
    if not _is_complete(out, plan):
        _claim(out, plan)
        try:
            with (
                FileLock(notes / "lock", timeout=0),
                ThreadPoolExecutor(workers) as pool,
            ):
                for folder in (out, notes, *(out / split for split in splits)):
                    remove_leftovers(folder)
                total = sum(len(job.rows) for job in jobs)
                done = 0
                for job in jobs:
                    if not ((out / job.name).is_file() and (out / job.note).is_file()):
                        for count in _write(
                            out, job, _ahead(pool, job, 16 * workers), skip_bad
                        ):
                            report(done + count, total)
                    done += len(job.rows)
                report(done, total)
                _finish(
                    out,
                    jobs,
                    {
                        "format_version": FORMAT_VERSION,
                        "source": public_name(source.spec),
                        "plan": plan,
                    },
                )
        except Timeout as error:
            raise UserError(
                f"another process is writing shards into {str(out)!r}: wait for it, or stop it"
            ) from error
    shutil.rmtree(notes, ignore_errors=True)
    return _written(out)


def _jobs(split: str, images: ImageSet, shard_bytes: int, seed: int) -> Iterator[_Job]:
    """The shards of a split; how many images one takes is judged by the sizes of some
    hundreds.
    """
    sizes = [0]
    for index in np.linspace(0, len(images) - 1, min(len(images), 400)).astype(int):
        with suppress(UserError):  # its turn will come
            sizes.append(len(_encoded(images, int(index))))
    count = max(1, int(shard_bytes / (sum(sizes) / max(1, len(sizes) - 1) + _OVERHEAD)))
    if len(images) > count * _MAX_SHARDS:
        raise UserError(
            f"shards of {shard_bytes} bytes would be more than {_MAX_SHARDS:,}: choose a larger size"
        )
    rows = (
        epoch_order(seed, 0, len(images))
        if split == "train"
        else np.arange(len(images))
    )
    for number, first in enumerate(range(0, len(images), count)):
        yield _Job(images, split, number, first, rows[first : first + count])


def _is_complete(out: Path, plan: dict[str, Any]) -> bool:
    known = _json(out / DESCRIPTION)
    if known is not None and known.get("plan") != plan:
        raise UserError(
            f"{str(out)!r} has other shards (another source, size or seed): choose a new folder"
        )
    return known is not None


def _claim(out: Path, plan: dict[str, Any]) -> None:
    """Note what is to be written, unless that is noted; `UserError` where there is
    anything else.
    """
    make_folder(out)
    known = _json(out / UNFINISHED / _PLAN)
    if known is None and (
        others := [entry.name for entry in out.iterdir() if entry.name != UNFINISHED]
    ):
        raise UserError(
            f"{str(out)!r} is not empty (it has {others[0]!r}): choose a new folder"
        )
    if known not in (None, plan):
        raise UserError(
            f"{str(out)!r} was begun from another source, size or seed: repeat those, or choose a new folder"
        )
    write_json(out / UNFINISHED / _PLAN, plan)


def _json(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"cannot read {str(path)!r}: {error}; choose a new folder"
        ) from error
    return found if isinstance(found, dict) else {}


def _encoded(images: ImageSet, index: int) -> bytes:
    """An image as the bytes of a file: its own, or a PNG of its pixels."""
    if isinstance(images, EncodedSet):
        return images.encoded(index)
    if isinstance(images, FileSet):
        try:
            with images.path(index).open("rb") as file:
                data = file.read(_MAX_IMAGE + 1)
        except OSError as error:
            raise UserError(f"the image cannot be read: {error.strerror}") from error
        if len(data) > _MAX_IMAGE:
            raise UserError(f"the image has more than {_MAX_IMAGE} bytes")
        return data
    pixels = images.image(index)
    buffer = io.BytesIO()
    if pixels.shape[2] not in (1, 3):
        raise UserError(
            f"the image has {pixels.shape[2]} channels: shards hold gray and RGB images"
        )
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(
        buffer, "PNG"
    )
    return buffer.getvalue()


def _checked(images: ImageSet, index: int) -> bytes | UserError:
    try:
        data = _encoded(images, index)
        decode_image(data)
    except UserError as error:
        return error
    return data


def _ahead(
    pool: ThreadPoolExecutor, job: _Job, window: int
) -> Iterator[bytes | UserError]:
    """The images of a shard in their order, read and checked by threads a little ahead
    of the writer.
    """
    waiting: deque[Future[bytes | UserError]] = deque()
    for row in job.rows:
        waiting.append(pool.submit(_checked, job.images, int(row)))
        if len(waiting) >= window:
            yield waiting.popleft().result()
    for future in waiting:
        yield future.result()


def _write(
    out: Path, job: _Job, images: Iterable[bytes | UserError], skip_bad: bool
) -> Iterator[int]:
    """Write a shard and then its note; yields how many images are done."""
    note: dict[str, Any] = {"left_out": {}} | {column: [] for column in _NOTED}
    path = out / job.name
    with (
        atomic_file(path) as file,
        tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar,
    ):
        for count, (row, data) in enumerate(
            zip(job.rows.tolist(), images, strict=True)
        ):
            name = job.images.name(row)
            key = f"{job.first + count:09d}"
            if isinstance(data, UserError):
                if not skip_bad:
                    raise UserError(
                        f"{name!r}: {data}; mend it, or leave out such images with --skip-bad"
                    ) from data
                note["left_out"][name] = str(data)
            else:
                offset = _add(tar, f"{key}.{_ending(data, name)}", data)
                _add(tar, f"{key}.cls", str(job.images.labels[row]).encode())
                for column, value in zip(
                    _NOTED, (row, offset, len(data), zlib.crc32(data)), strict=True
                ):
                    note[column].append(value)
            yield count + 1
    write_json(
        out / job.note, note | {"bytes": path.stat().st_size, "sha256": sha256(path)}
    )


def _ending(data: bytes, name: str) -> str:
    """What the file is rather than what it is called; ImageNet has a PNG that is called
    JPEG.
    """
    found = next(
        (ending for magic, ending in _ENDINGS.items() if data.startswith(magic)), None
    )
    called = Path(name).suffix[1:].lower()
    return found or (called if re.fullmatch("[a-z0-9]{1,8}", called) else "img")


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> int:
    """Append a file, in which nothing depends on when and by whom it was written; the
    offset of its data.
    """
    header = tarfile.TarInfo(name)  # mode 644, and time 0 and owner 0 by default
    header.size, offset = len(data), tar.offset + tarfile.BLOCKSIZE
    tar.addfile(header, io.BytesIO(data))
    tar.getmembers().clear()  # it would keep every header
    return offset


def _finish(out: Path, jobs: list[_Job], description: dict[str, Any]) -> None:
    """Join the notes to an index for each split, in the order of the source, and write
    dataset.json.
    """
    left_out: dict[str, str] = {}
    records: dict[str, Any] = {}
    for split in dict.fromkeys(job.split for job in jobs):
        mine = [job for job in jobs if job.split == split]
        notes = [_json(out / job.note) or {} for job in mine]
        columns = {
            key: np.concatenate([note[key] for note in notes]).astype(np.int64)
            for key in _NOTED
        }
        columns["shard"] = np.repeat(
            np.arange(len(notes)), [len(note["row"]) for note in notes]
        )
        order = np.argsort(columns["row"])
        rows = columns.pop("row")[order]
        if not len(rows):
            raise UserError(
                f"not one image of {split} can be decoded: nothing to write"
            )
        images = mine[0].images
        index = out / split / INDEX
        columns = {key: column[order] for key, column in columns.items()} | {
            "label": images.labels[rows]
        }
        write_index(index, columns, (images.name(row) for row in rows.tolist()))
        shards = [
            {
                "name": job.name,
                "bytes": note["bytes"],
                "images": len(note["row"]),
                "sha256": note["sha256"],
            }
            for job, note in zip(mine, notes, strict=True)
        ]
        facts = {
            "name": f"{split}/{INDEX}",
            "bytes": index.stat().st_size,
            "sha256": sha256(index),
        }
        shape = {"images": len(rows), "channels": images.channels, "size": images.size}
        records[split] = {**shape, "index": facts, "shards": shards}
        for note in notes:
            left_out |= note["left_out"]
    description |= {
        "classes": mine[0].images.classes,
        "splits": records,
        "left_out": left_out,
    }
    write_json(out / DESCRIPTION, description)


def _written(out: Path) -> Written:
    known = _json(out / DESCRIPTION) or {}
    images = {split: record["images"] for split, record in known["splits"].items()}
    return Written(
        images,
        sum(len(record["shards"]) for record in known["splits"].values()),
        known["left_out"],
    )
