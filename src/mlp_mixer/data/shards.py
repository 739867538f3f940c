"""Millions of images in a few tar files, read one by one: image i is (shard, offset,
size), one read, no unpacking.

The tars have the layout of WebDataset (000000017.jpg beside 000000017.cls), so other
tools stream them. We do not
stream: an index says where each image lies, in the order of the source, whatever the
    order in the tars. A sharded set
is therefore an image set like any other, with the labels, names and fingerprint of what
it was made from. As in any other, which images a step sees is a function of the step
alone (see `sampling`), and this class keeps no position: so each image comes exactly
once per epoch over all ranks and workers, and a run that resumes in the middle of an
epoch, or moves from the folder to its shards, sees what it would have seen. The price
is that reading goes everywhere at any
time: good for solid-state disks and the page cache, slow on a disk that turns.

    dataset.json               classes, splits, shards with bytes, SHA-256 and number of
    images; written last train/index.safetensors    the columns below, mapped into
    memory: all processes share them, none is sent any train/shard-000000.tar     test/
    and val/ likewise
"""

from __future__ import annotations

import abc
import dataclasses
import hashlib
import json
import os
import re
import sys
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, final

import numpy as np
from safetensors.numpy import save

from .. import web
from ..errors import UserError
from ..files import cache_folder, write_bytes
from ..images.decode import Part, Pixels, decode_image
from .image_set import ImageSet, Indices

FORMAT_VERSION = 1
DESCRIPTION = "dataset.json"
INDEX = "index.safetensors"
UNFINISHED = ".unfinished"
COLUMNS = {
    "offset": "<u8",
    "size": "<u4",
    "shard": "<u4",
    "label": "<u4",
    "crc32": "<u4",
    "name_end": "<u8",
}
"""One value per image; `names` holds all names, UTF-8, and `name_end` where each ends.
Foreign tars have no crc32.
"""

_MAX_TEXT = 64 * 2**20  # bytes of a dataset.json: enough for 300,000 shards


class EncodedSet(ImageSet):
    """Images that are kept as the bytes of image files."""

    @abc.abstractmethod
    def encoded(self, index: int) -> bytes:
        """The bytes of image file `index`; `UserError` if they cannot be had."""

    def image(self, index: int) -> Pixels:
        return self._decoded(index, None)

    def part(self, index: int, part: Part) -> Pixels:
        return self._decoded(index, part)

    def _decoded(self, index: int, part: Part | None) -> Pixels:
        data = self.encoded(index)
        try:
            return decode_image(data, channels=self.channels, part=part)
        except UserError as error:
            raise UserError(f"{self.name(index)!r}: {error}") from error


class File(NamedTuple):
    """A shard or an index: its path below the set, its exact size, and its SHA-256 (""
    for tars that others made).
    """

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Shards:
    """One split as dataset.json describes it.

    Attributes:
        place: the folder or address of the tars.
        folder: of the index; for a set at an address, of all that is kept of it.
        kept: how many shards to keep of a set at an address; None for a local one.
        The others are those of dataset.json.
    """

    place: str
    folder: Path
    kept: int | None
    images: int
    channels: int
    size: tuple[int, int] | None
    classes: tuple[str, ...]
    index: File
    shards: tuple[File, ...]

    def index_path(self) -> Path:
        """The index on this machine."""
        return (
            self.folder / self.index.name
            if self.kept is None
            else self._fetched(self.index)
        )

    def read(self, number: int, offset: int, size: int) -> bytes:
        """A part of a shard; `UserError` if it is not all there."""
        if number >= len(self.shards) or offset + size > self.shards[number].bytes:
            raise UserError(
                f"{self.index.name!r} in {self.place!r} points beyond its shards: copy the whole set again"
            )
        shard = self.shards[number]
        if self.kept is not None and number >= self.kept:
            return web.fetch_part(web.join(self.place, shard.name), offset, size)
        path = (
            Path(self.place) / shard.name if self.kept is None else self._fetched(shard)
        )
        try:
            with path.open(
                "rb", buffering=0
            ) as file:  # opened anew: 2 microseconds, and nothing to share or to close
                if (found := os.fstat(file.fileno()).st_size) != shard.bytes:
                    raise UserError(
                        f"the shard {str(path)!r} has {found} bytes, expected {shard.bytes}: copy it again"
                    )
                file.seek(offset)
                return file.read(size)
        except OSError as error:
            raise UserError(
                f"cannot read the shard {str(path)!r}: {error.strerror}; copy it again"
            ) from error

    def _fetched(self, file: File) -> Path:
        return web.fetch(
            web.join(self.place, file.name),
            self.folder / file.sha256,
            file.bytes,
            file.sha256,
        )


@final
class ShardSet(EncodedSet):
    """One split of a sharded set, or its images at `rows`. A worker process is sent
    these arguments, and maps anew.
    """

    def __init__(self, files: Shards, rows: np.ndarray[Any, Any] | None = None) -> None:
        self._files = files
        self._rows = rows
        path = files.index_path()
        self._index = _read_index(path, files.images)
        labels = self._index["label"]
        try:
            super().__init__(
                labels if rows is None else labels[rows],
                files.classes,
                files.channels,
                files.size,
            )
        except UserError as error:
            raise UserError(f"cannot use {str(path)!r}: {error}") from error

    def __reduce__(self) -> tuple[Any, ...]:
        return ShardSet, (self._files, self._rows)

    def encoded(self, index: int) -> bytes:
        row = self._row(index)
        number, offset, size = (
            int(self._index[column][row]) for column in ("shard", "offset", "size")
        )
        data = self._files.read(number, offset, size)
        if "crc32" in self._index and zlib.crc32(data) != self._index["crc32"][row]:
            shard = self._files.shards[number].name
            raise UserError(
                f"{self.name(index)!r} in {shard!r} is damaged: its check sum is wrong; copy it again"
            )
        return data

    def name(self, index: int) -> str:
        row = self._row(index)
        ends = self._index["name_end"]
        text = self._index["names"][int(ends[row - 1]) if row else 0 : int(ends[row])]
        return text.tobytes().decode("utf-8", "surrogateescape")

    def subset(self, indices: Indices) -> ShardSet:
        chosen = np.asarray(indices, dtype=np.int64)
        return ShardSet(
            self._files,
            (chosen if self._rows is None else self._rows[chosen]).astype(np.uint32),
        )

    def _row(self, index: int) -> int:
        return (
            range(self._files.images)[index]
            if self._rows is None
            else int(self._rows[index])
        )


def read_shards(place: str) -> dict[str, ImageSet]:
    """The splits of a sharded set in a folder or at an address, or of tars that others
    made in a folder.

    Of a set at an address, the shards that fit into `MLP_MIXER_SHARD_CACHE` (such as
    50GB; without it, all) are brought and kept as a whole when first touched; images of
    the others are read one by one.

    Raises:
        UserError: there are no shards, they are unfinished, or what describes them is
            damaged.
    """
    if "://" in place:  # https, s3, gs, ...
        splits = _at_address(place)
    else:
        root = folder = Path(place).expanduser()
        if not (folder / DESCRIPTION).is_file():
            if (folder / UNFINISHED).is_dir():
                raise UserError(
                    f"{place!r} is not finished: run the same `mlp-mixer data shard` command again to go on"
                )
            from .foreign_shards import index_tars

            root, folder = index_tars(folder)
        splits = _described(
            _small(folder / DESCRIPTION), str(folder / DESCRIPTION), str(root), folder
        )
    return {name: ShardSet(files) for name, files in splits.items()}


def _at_address(url: str) -> dict[str, Shards]:
    where = web.join(url, DESCRIPTION)
    slug = re.sub(r"[^\w.-]", "_", url.rstrip("/").rpartition("/")[2], flags=re.A)
    folder = cache_folder(
        "shards", f"{slug[:50]}-{hashlib.sha256(url.encode()).hexdigest()[:16]}"
    )
    if not (web.offline() and (folder / DESCRIPTION).is_file()):
        write_bytes(folder / DESCRIPTION, web.fetch_small(where, _MAX_TEXT))
    limit = os.environ.get("MLP_MIXER_SHARD_CACHE")
    room = parse_bytes(limit) if limit else sys.maxsize
    splits = _described(_small(folder / DESCRIPTION), where, url, folder, web=True)
    for name, files in splits.items():
        ends = np.cumsum([shard.bytes for shard in files.shards], dtype=np.int64)
        kept = int(np.searchsorted(ends, room, "right"))
        splits[name] = dataclasses.replace(files, kept=kept)
        room -= int(ends[kept - 1]) if kept else 0
    return splits


def _small(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_TEXT + 1)
    except OSError as error:
        raise UserError(f"cannot read {str(path)!r}: {error.strerror}") from error
    if len(text) > _MAX_TEXT:
        raise UserError(
            f"{str(path)!r} has more than {_MAX_TEXT} bytes: it is not the file that was expected"
        )
    return text


def _described(
    text: bytes, where: str, place: str, folder: Path, *, web: bool = False
) -> dict[str, Shards]:
    """The splits of a dataset.json, whose every claim is checked: it may come from
    anywhere.
    """

    def file(record: Mapping[str, Any]) -> File:
        sha256 = record["sha256"] if web else ""
        if web and not re.fullmatch("[0-9a-f]{64}", sha256):
            raise UserError(f"{sha256[:100]!r} is not a SHA-256")
        return File(_inside(record["name"]), _count(record["bytes"]), sha256)

    try:
        record = json.loads(text)
        if (version := record["format_version"]) != FORMAT_VERSION:
            raise UserError(
                f"its format_version is {str(version)[:20]!r}, expected {FORMAT_VERSION}; is it newer?"
            )
        classes = tuple(record["classes"])
        if not all(isinstance(name, str) for name in classes):
            raise UserError("its classes are not all names")
        splits = {}
        for name, split in record["splits"].items():
            size = (
                None
                if split["size"] is None
                else (_count(split["size"][0]), _count(split["size"][1]))
            )
            shape = (
                _count(split["images"]),
                1 if split["channels"] == 1 else 3,
                size,
                classes,
            )
            shards = tuple(file(shard) for shard in split["shards"])
            splits[name] = Shards(
                place, folder, 0 if web else None, *shape, file(split["index"]), shards
            )
        if "train" not in splits or splits.keys() - {"train", "val", "test"}:
            raise UserError(
                f"its splits are {', '.join(splits)[:100]!r}, expected train, and maybe val and test"
            )
    except (
        ValueError,
        TypeError,
        LookupError,
        AttributeError,
        RecursionError,
    ) as error:
        reason = (
            error
            if isinstance(error, UserError)
            else f"{type(error).__name__}, {str(error)[:100]}"
        )
        raise UserError(f"{where!r} does not describe shards: {reason}") from error
    return splits


def _inside(name: str) -> str:
    """A path that stays in its folder."""
    if re.search(r"[\\\0]|^\w:", name) or {"", ".", ".."} & set(name.split("/")):
        raise UserError(f"{name[:100]!r} is not the name of a file in its folder")
    return name


def _count(value: Any) -> int:
    if not isinstance(value, int) or not 0 <= value < 2**53:
        raise UserError(
            f"{str(value)[:50]!r} is not a number of bytes, images or pixels"
        )
    return value


def write_index(path: Path, columns: Mapping[str, Any], names: Iterable[str]) -> None:
    """Write the columns, except for `name_end` which follows from the names."""
    encoded = [name.encode("utf-8", "surrogateescape") for name in names]
    arrays = {
        name: np.asarray(column, COLUMNS[name]) for name, column in columns.items()
    }
    arrays["name_end"] = np.cumsum([len(name) for name in encoded], dtype="<u8")
    arrays["names"] = np.frombuffer(b"".join(encoded), np.uint8)
    write_bytes(path, save(arrays))


def _read_index(path: Path, images: int) -> dict[str, np.ndarray[Any, Any]]:
    """The columns, mapped; the header's claims are compared with the file's size."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > 2**16:
                raise UserError("its header is too long")
            header = json.loads(file.read(length))
        data = np.asarray(np.memmap(path, np.uint8, "r", offset=8 + length))
        columns = {}
        for name in ({*COLUMNS, "names"} - {"crc32"}) | ({"crc32"} & header.keys()):
            start, stop = header[name]["data_offsets"]
            if not 0 <= start <= stop <= len(data):
                raise UserError(f"{name} lies beyond its end")
            columns[name] = data[start:stop].view(COLUMNS.get(name, "u1"))
            if name != "names" and len(columns[name]) != images:
                raise UserError(
                    f"it has {len(columns[name])} values of {name} for {images} images"
                )
    except (
        OSError,
        ValueError,
        TypeError,
        LookupError,
        AttributeError,
        RecursionError,
    ) as error:
        raise UserError(
            f"cannot read the index {str(path)!r}: {error}; copy it again, or delete the cache"
        ) from error
    return columns


def parse_bytes(text: str) -> int:
    """ "256MB", "1.5 GiB" or "1000" as bytes; `UserError` for anything else."""
    match = re.fullmatch(
        r"(\d{1,15}(?:\.\d{1,9})?)\s*([kmgt]?)(i?)b?", text.strip(), re.I
    )
    if match is None:
        raise UserError(
            f"cannot read the size {text!r}: expected a number of bytes such as 256MB, 1.5GB or 1GiB"
        )
    base = 1024 if match[3] else 1000
    return int(float(match[1]) * base ** " kmgt".index(match[2].lower() or " "))
