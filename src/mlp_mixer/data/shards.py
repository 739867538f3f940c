"""Images in a few tar files, read one by one without unpacking.

Image i is (shard, offset, size), and one read. The tars have the layout of WebDataset
(000000017.jpg beside 000000017.cls), so other tools can stream them. This one does not
stream: an index says where each image lies, in the order of the original dataset,
whatever the order in the tars. A sharded dataset is therefore an image set like any
other, with the labels, names and fingerprint of the dataset it was made from.

As everywhere, the images of a step are a function of the step alone (see `randomness`),
and this class keeps no position. So each image comes exactly once per epoch over all
ranks and workers; and a run that resumes in the middle of an epoch, or moves from the
folder to its shards, sees what it would have seen.

The price is that any place may be read at any time: this is fast on solid-state disks
and in the page cache, and slow on a disk that turns.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
import sys
import zlib
from typing import Any, final

import numpy as np

from .. import web
from ..errors import UserError
from ..files import cache_folder, path_of, write_bytes
from ..remote import offline
from .foreign_shards import index_tars, passed_over_in
from .image_set import EncodedSet, ImageSet, Indices
from .keys import key_of_name
from .shard_description import MOST_BYTES, Shards, read_description
from .shard_index import DESCRIPTION, UNFINISHED, read_index


@final
class ShardSet(EncodedSet):
    """One split of a sharded dataset, or some of its images.

    A worker process is sent these arguments alone, and maps the index anew.

    Args:
        files: The split as dataset.json describes it.
        rows: Which images, uint32 (N,) in the order of this set; all if absent.

    Raises:
        UserError: The index cannot be fetched or read, or its labels do not fit.
    """

    def __init__(self, files: Shards, rows: np.ndarray[Any, Any] | None = None) -> None:
        self._files = files
        self._rows = rows
        path = files.index_path()
        self._index = read_index(path, files.images)
        labels = self._index["label"]
        if rows is not None:
            labels = labels[rows]
        try:
            super().__init__(labels, files.classes, files.channels, files.size)
        except UserError as error:
            raise UserError(f"cannot use {str(path)!r}: {error}") from error

    def __reduce__(self) -> tuple[Any, ...]:
        return ShardSet, (self._files, self._rows)

    def encoded(self, index: int) -> bytes:
        """Return the bytes of an image file; see `EncodedSet`."""
        row = self._row(index)
        shard = int(self._index["shard"][row])
        offset = int(self._index["offset"][row])
        size = int(self._index["size"][row])
        data = self._files.read(shard, offset, size)
        # The size of a shard does not show a flipped bit, and a decoder may not either.
        if "crc32" in self._index and zlib.crc32(data) != self._index["crc32"][row]:
            name = self._files.shards[shard].name
            raise UserError(
                f"{self.name(index)!r} in {name!r} is damaged: its check sum is wrong; "
                "copy it again"
            )
        return data

    def key(self, index: int) -> int:
        """Return the identity of an image in the original dataset; see `ImageSet`."""
        if "key" in self._index:
            return int(self._index["key"][self._row(index)])
        # Fetching all images of an address for their keys would take hours.
        if self._files.kept is not None:
            return key_of_name(self.name(index))
        return super().key(index)

    def name(self, index: int) -> str:
        """Return what the original dataset called an image."""
        row = self._row(index)
        ends = self._index["name_end"]
        start = int(ends[row - 1]) if row else 0
        text = self._index["names"][start : int(ends[row])]
        return text.tobytes().decode("utf-8", "surrogateescape")

    def subset(self, indices: Indices) -> ShardSet:
        """Return some of the images; see `ImageSet`."""
        chosen = np.asarray(indices, dtype=np.int64)
        rows = chosen if self._rows is None else self._rows[chosen]
        # Four bytes an image are sent to each worker.
        return ShardSet(self._files, rows.astype(np.uint32))

    def _row(self, index: int) -> int:
        """Return the place of an image in the index; IndexError beyond the end."""
        if self._rows is None:
            return range(self._files.images)[index]
        return int(self._rows[index])


def read_shards(place: str) -> dict[str, ImageSet]:
    """Return the splits of a sharded dataset, or of tars that others made.

    Of a dataset at an address, the shards that fit into `MLP_MIXER_SHARD_CACHE` (such
    as 50GB; without it, all) are fetched when first touched, and kept; images of the
    other shards are fetched one by one.

    Args:
        place: A folder, a tar file, or an address (https, s3, gs, ...).

    Raises:
        UserError: There are no shards, they are unfinished, or what describes them is
            damaged.
    """
    if "://" in place:
        splits, passed_over = _at_address(place), ""
    else:
        splits, passed_over = _in_folder(place)
    images: dict[str, ImageSet] = {}
    for name, files in splits.items():
        images[name] = ShardSet(files)
        images[name].passed_over = passed_over
    return images


def _in_folder(place: str) -> tuple[dict[str, Shards], str]:
    """Return the splits of a folder, and what was passed over, in words.

    Tars without a description are indexed first.
    """
    folder = path_of(place)
    if (folder / DESCRIPTION).is_file():
        return read_description(folder / DESCRIPTION, str(folder)), ""
    if (folder / UNFINISHED).is_dir():
        raise UserError(
            f"{place!r} is not finished: run the same `mlp-mixer data shard` command "
            "again to go on"
        )
    # Other people's folder stays as it is; the index goes into the cache.
    tars, indexed = index_tars(folder)
    splits = read_description(indexed / DESCRIPTION, str(tars))
    return splits, passed_over_in(indexed)


def _at_address(url: str) -> dict[str, Shards]:
    """Return the splits of an address, and decide which shards are kept."""
    where = web.join(url, DESCRIPTION)
    # A name that a person recognises, and a hash, as two addresses may end alike.
    last_part = url.rstrip("/").rpartition("/")[2]
    slug = re.sub(r"[^\w.-]", "_", last_part, flags=re.A)[:50]
    digest = hashlib.sha256(url.encode()).hexdigest()[:16]
    folder = cache_folder("shards", f"{slug}-{digest}")
    path = folder / DESCRIPTION
    # It is fetched every time: the dataset may have been replaced.
    if not (offline() and path.is_file()):
        write_bytes(path, web.fetch_small(where, MOST_BYTES))
    limit = os.environ.get("MLP_MIXER_SHARD_CACHE")
    room = parse_bytes(limit) if limit else sys.maxsize
    splits = read_description(path, url, where=where, remote=True)
    for name, files in splits.items():
        # The first shards that fit are kept. All processes come to the same answer, and
        # no shard is fetched to be thrown away.
        sizes = [shard.bytes for shard in files.shards]
        ends = np.cumsum(sizes, dtype=np.int64)
        kept = int(np.searchsorted(ends, room, "right"))
        splits[name] = dataclasses.replace(files, kept=kept)
        room -= sum(sizes[:kept])
    return splits


_SIZE = re.compile(r"(\d{1,15}(?:\.\d{1,9})?)\s*([kmgt]?)(i)?b?", re.I)
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


def parse_bytes(text: str) -> int:
    """Return a size such as "256MB", "1.5 GiB" or "1000" in bytes.

    Args:
        text: A number with or without a unit; kB is 1000 bytes, KiB is 1024.

    Raises:
        UserError: It is no such text.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise UserError(
            f"cannot read the size {text!r}: expected a number of bytes such as 256MB, "
            "1.5GB or 1GiB"
        )
    number, prefix, binary = match.groups()
    base = 1024 if binary else 1000
    return int(float(number) * base ** _POWERS[prefix.lower()])
