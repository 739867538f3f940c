"""One shard: which images it takes, and how its tar and its note are written."""

from __future__ import annotations

import io
import os
import re
import tarfile
import zlib
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..errors import UserError
from ..files import atomic_file, sha256, write_json
from ..images.decode import decode_image
from ..randomness import epoch_order
from .image_set import EncodedSet, FileSet, ImageSet
from .shard_index import UNFINISHED

NOTED = ("row", "offset", "size", "crc32")
"""What the note of a shard holds of each image."""

_OVERHEAD = 4 * 512  # bytes of a sample beside its image: two headers, label, padding
_SAMPLED_SIZES = 400  # images whose sizes stand for all
_READ_AHEAD = 16  # images per thread
_MAX_SHARDS = 1_000_000  # what six digits can number
_MAX_IMAGE = 2**30  # bytes of one image file
_ENDINGS = {
    b"\xff\xd8": "jpg",
    b"\x89PNG": "png",
    b"RIFF": "webp",
    b"GIF8": "gif",
    b"BM": "bmp",
}

Encoded = bytes | UserError
"""An image file, or why it cannot be used."""


@dataclass(frozen=True)
class ShardJob:
    """One shard to write.

    Attributes:
        images: All images of the split.
        split: Its name.
        number: Of the shard in the split.
        first: The place of its first image among all shards of the split.
        rows: Which images it takes, in which order.
    """

    images: ImageSet
    split: str
    number: int
    first: int
    rows: np.ndarray[Any, Any]

    @property
    def name(self) -> str:
        """The path of its tar below the folder of all shards."""
        return f"{self.split}/shard-{self.number:06d}.tar"

    @property
    def note(self) -> str:
        """The path of its note below the folder of all shards."""
        return f"{UNFINISHED}/{self.split}-{self.number:06d}.json"


def divide(
    split: str, images: ImageSet, shard_bytes: int, seed: int
) -> Iterator[ShardJob]:
    """Divide a split into shards of equal numbers of images.

    Args:
        split: Its name.
        images: Its images.
        shard_bytes: About how large a shard should be.
        seed: Of the order, if the split is "train".

    Raises:
        UserError: There would be more shards than their names can number.
    """
    # The sizes of some hundred images stand for all: to ask for the size of each of a
    # million files takes minutes.
    sizes = [0]
    number_sampled = min(len(images), _SAMPLED_SIZES)
    for index in np.linspace(0, len(images) - 1, number_sampled).astype(int):
        # A broken image is reported when its turn comes, or left out then.
        with suppress(UserError):
            sizes.append(len(_encoded(images, int(index))))
    mean = sum(sizes) / max(1, len(sizes) - 1)
    per_shard = max(1, int(shard_bytes / (mean + _OVERHEAD)))
    if len(images) > per_shard * _MAX_SHARDS:
        raise UserError(
            f"shards of {shard_bytes} bytes would be more than {_MAX_SHARDS:,}: choose a "
            "larger size"
        )
    rows = np.arange(len(images))
    if split == "train":
        rows = epoch_order(seed, 0, len(images))
    for number, first in enumerate(range(0, len(images), per_shard)):
        yield ShardJob(images, split, number, first, rows[first : first + per_shard])


def _encoded(images: ImageSet, index: int) -> bytes:
    """Return an image as the bytes of a file: its own, or a PNG of its pixels."""
    if isinstance(images, EncodedSet):
        return images.encoded(index)
    if isinstance(images, FileSet):
        return _file_bytes(images.path(index))
    pixels = images.image(index)
    channels = pixels.shape[2]
    if channels not in (1, 3):
        raise UserError(
            f"the image has {channels} channels: shards hold gray and RGB images"
        )
    image = Image.fromarray(pixels[..., 0] if channels == 1 else pixels)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _file_bytes(path: Path) -> bytes:
    """Return the bytes of an image file, unless it is too large to be one."""
    try:
        with path.open("rb") as file:
            # `read(_MAX_IMAGE)` would allocate so much for the smallest image.
            if os.fstat(file.fileno()).st_size > _MAX_IMAGE:
                raise UserError(f"the image has more than {_MAX_IMAGE} bytes")
            return file.read()
    except OSError as error:
        raise UserError(f"the image cannot be read: {error.strerror}") from error


def _checked(images: ImageSet, index: int) -> Encoded:
    """Return an image as the bytes of a file that can be decoded."""
    try:
        data = _encoded(images, index)
        decode_image(data, channels=images.channels)
    except UserError as error:
        return error
    return data


def read_ahead(
    pool: ThreadPoolExecutor, job: ShardJob, workers: int
) -> Iterator[Encoded]:
    """Yield the images of a shard in their order.

    Threads read and check them ahead of the writer, but only a few: a shard may be
    larger than the memory.

    Args:
        pool: The threads.
        job: The shard.
        workers: How many threads there are.
    """
    window = _READ_AHEAD * workers
    waiting: deque[Future[Encoded]] = deque()
    for row in job.rows:
        waiting.append(pool.submit(_checked, job.images, int(row)))
        if len(waiting) >= window:
            yield waiting.popleft().result()
    for future in waiting:
        yield future.result()


def write_shard(
    out: Path, job: ShardJob, images: Iterable[Encoded], skip_bad: bool
) -> Iterator[int]:
    """Write a shard and then its note; yield how many of its images are done.

    Args:
        out: The folder of all shards.
        job: The shard.
        images: Its images in their order.
        skip_bad: Leave out images that cannot be decoded, and note why.

    Raises:
        UserError: An image cannot be decoded and must not be left out, or the disk
            refuses.
    """
    path = out / job.name
    left_out: dict[str, str] = {}
    columns: dict[str, list[int]] = {column: [] for column in NOTED}
    with (
        atomic_file(path) as file,
        tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar,
    ):
        rows = job.rows.tolist()
        for count, (row, data) in enumerate(zip(rows, images, strict=True)):
            name = job.images.name(row)
            if isinstance(data, UserError):
                if not skip_bad:
                    raise UserError(
                        f"{name!r}: {data}; mend it, or leave out such images with "
                        "--skip-bad"
                    ) from data
                left_out[name] = str(data)
            else:
                key = f"{job.first + count:09d}"
                offset = _add(tar, f"{key}.{_ending(data, name)}", data)
                label = str(job.images.labels[row])
                _add(tar, f"{key}.cls", label.encode())
                columns["row"].append(row)
                columns["offset"].append(offset)
                columns["size"].append(len(data))
                columns["crc32"].append(zlib.crc32(data))
            yield count + 1
    facts = {"bytes": path.stat().st_size, "sha256": sha256(path)}
    write_json(out / job.note, {"left_out": left_out, **columns, **facts})


def _ending(data: bytes, name: str) -> str:
    """Return the ending that an image file should have."""
    # The first bytes are right where the name is not: ImageNet has a PNG called JPEG.
    for magic, ending in _ENDINGS.items():
        if data.startswith(magic):
            return ending
    called = Path(name).suffix[1:].lower()
    return called if re.fullmatch("[a-z0-9]{1,8}", called) else "img"


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> int:
    """Append a file, and return the offset of its bytes."""
    # By default a TarInfo has mode 644, time 0 and owner 0: the bytes depend neither on
    # who writes them nor when.
    header = tarfile.TarInfo(name)
    header.size = len(data)
    offset = tar.offset + tarfile.BLOCKSIZE
    tar.addfile(header, io.BytesIO(data))
    # The archive keeps every header otherwise.
    tar.getmembers().clear()
    return offset
