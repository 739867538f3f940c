"""What dataset.json says about each split of a sharded dataset, checked.

The file may come from any address, so nothing that it claims is believed: names stay in
their folder, numbers are numbers, and sizes are compared with the files.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from .. import web
from ..errors import UserError
from ..untrusted.sizes import is_count, read_bytes
from ..untrusted.text import parse_json
from .shard_index import DAMAGED, FORMAT_VERSION

MOST_BYTES = 64 * 2**20
"""Bytes of a dataset.json: enough for 300,000 shards."""

_SPLITS = {"train", "val", "test"}
_MOST_COUNT = 2**53  # JSON keeps whole numbers exactly up to here
_MOST_CHANNELS = 65_535  # bands that a TIFF can have
_MOST_SIDE = 2**16  # pixels
_MOST_MARKS = 4_000_000  # brackets, commas and colons; a shard has some ten
_MOST_SHOWN = 100  # characters of a name in a message


class ShardFile(NamedTuple):
    """A shard or an index.

    Attributes:
        name: Its path below the dataset.
        bytes: Its exact size.
        sha256: 64 hexadecimal digits; "" for files on this machine.
    """

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Shards:
    """One split as dataset.json describes it.

    Attributes:
        place: The folder or address of the tars.
        folder: Where the index lies; for a dataset at an address, where all that is
            kept of it lies.
        kept: How many shards of a dataset at an address are kept on this machine; None
            for a local one.
        images: How many there are.
        channels: Of every image: 1, 3, or the bands of TIFFs.
        size: (H, W) where all images share it, else None.
        classes: The class names.
        index: The file of the index.
        shards: The files of the tars.
    """

    place: str
    folder: Path
    kept: int | None
    images: int
    channels: int
    size: tuple[int, int] | None
    classes: tuple[str, ...]
    index: ShardFile
    shards: tuple[ShardFile, ...]

    def index_path(self) -> Path:
        """Return where the index lies on this machine, after fetching it if needed.

        Raises:
            UserError: It cannot be fetched.
        """
        if self.kept is None:
            return self.folder / self.index.name
        return self._fetched(self.index)

    def read(self, number: int, offset: int, size: int) -> bytes:
        """Return a part of a shard.

        Args:
            number: Which shard.
            offset: The first byte.
            size: How many bytes.

        Raises:
            UserError: The shard is missing, damaged or too short.
        """
        if number >= len(self.shards) or offset + size > self.shards[number].bytes:
            raise UserError(
                f"{self.index.name!r} in {self.place!r} points beyond its shards: copy "
                "the whole set again"
            )
        shard = self.shards[number]
        if self.kept is None:
            path = Path(self.place) / shard.name
        elif number < self.kept:
            path = self._fetched(shard)
        else:
            address = web.join(self.place, shard.name)
            return web.fetch_part(address, offset, size)
        try:
            # Opened anew for each image: that takes 2 microseconds, and there is nothing
            # to share between threads, to send to workers or to close.
            with path.open("rb", buffering=0) as file:
                found = os.fstat(file.fileno()).st_size
                if found != shard.bytes:
                    raise UserError(
                        f"the shard {str(path)!r} has {found} bytes, expected "
                        f"{shard.bytes}: copy it again"
                    )
                file.seek(offset)
                return file.read(size)
        except OSError as error:
            raise UserError(
                f"cannot read the shard {str(path)!r}: {error.strerror}; copy it again"
            ) from error

    def _fetched(self, file: ShardFile) -> Path:
        """Return where a file of an address lies on this machine."""
        # Named by its hash: a shard of the same name from a replaced dataset is another
        # file, and splits share equal ones.
        return web.fetch(
            web.join(self.place, file.name),
            self.folder / file.sha256,
            file.bytes,
            file.sha256,
        )


def read_description(
    path: Path, place: str, *, where: str = "", remote: bool = False
) -> dict[str, Shards]:
    """Return the splits that a dataset.json describes.

    Args:
        path: The file.
        place: The folder or address of the tars.
        where: What errors call the file; the path if absent.
        remote: Whether the tars are at an address; then every file needs its SHA-256.

    Raises:
        UserError: The file cannot be read, or its claims make no sense.
    """
    text = _text(path)
    try:
        record = parse_json(text, most=MOST_BYTES, marks=_MOST_MARKS)
        version = record["format_version"]
        if version != FORMAT_VERSION:
            raise UserError(
                f"its format_version is {str(version)[:20]!r}, expected "
                f"{FORMAT_VERSION}; is it newer?"
            )
        classes = tuple(record["classes"])
        if not all(isinstance(name, str) for name in classes):
            raise UserError("its classes are not all names")
        splits = {}
        for name, split in record["splits"].items():
            splits[name] = _split(split, classes, place, path.parent, remote)
        if not splits or splits.keys() - _SPLITS:
            found = ", ".join(splits)[:_MOST_SHOWN]
            raise UserError(
                f"its splits are {found!r}, expected train, val and test or some of them"
            )
    except DAMAGED as error:
        reason = f"{type(error).__name__}, {str(error)[:_MOST_SHOWN]}"
        if isinstance(error, UserError):
            reason = str(error)
        raise UserError(
            f"{where or str(path)!r} does not describe shards: {reason}"
        ) from error
    return splits


def _text(path: Path) -> bytes:
    """Return the text of a dataset.json, unless it is too long."""
    try:
        return read_bytes(path, MOST_BYTES)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"cannot read {str(path)!r}: {reason}; copy the whole set again"
        ) from error


def _split(
    record: Mapping[str, Any],
    classes: tuple[str, ...],
    place: str,
    folder: Path,
    remote: bool,
) -> Shards:
    """Return one split of the record, checked."""
    size = None
    if record["size"] is not None:
        height, width = record["size"]
        size = _count(height, _MOST_SIDE), _count(width, _MOST_SIDE)
    return Shards(
        place=place,
        folder=folder,
        kept=0 if remote else None,
        images=_count(record["images"]),
        channels=_channels(record["channels"]),
        size=size,
        classes=classes,
        index=_file(record["index"], remote),
        shards=tuple(_file(shard, remote) for shard in record["shards"]),
    )


def _file(record: Mapping[str, Any], remote: bool) -> ShardFile:
    """Return a file of the record; only files of an address need their hash here."""
    sha256 = ""
    if remote:
        sha256 = record["sha256"]
        if not re.fullmatch("[0-9a-f]{64}", sha256):
            raise UserError(f"{sha256[:_MOST_SHOWN]!r} is not a SHA-256")
    return ShardFile(_inside(record["name"]), _count(record["bytes"]), sha256)


def _inside(name: str) -> str:
    """Return a name, if it stays in its folder on every system."""
    leaves = {"", ".", ".."} & set(name.split("/"))
    if leaves or re.search(r"[\\\0]|^\w:", name):
        raise UserError(
            f"{name[:_MOST_SHOWN]!r} is not the name of a file in its folder"
        )
    return name


def _channels(value: Any) -> int:
    """Return a number of channels, if images can have so many."""
    channels = _count(value)
    if not 0 < channels <= _MOST_CHANNELS:
        raise UserError(
            f"{channels} is not a number of channels: expected 1 to {_MOST_CHANNELS:,}"
        )
    return channels


def _count(value: Any, most: int = _MOST_COUNT) -> int:
    """Return a number of bytes, images or pixels, if it is one."""
    if not is_count(value, most):
        raise UserError(
            f"{str(value)[:50]!r} is not a number of bytes, images or pixels"
        )
    return value
