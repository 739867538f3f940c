"""Tar files in WebDataset's layout that others made.

Their headers are read once, and the index is kept in the cache.

A sample is all files that share a name up to its first dot: an image, and the number of
its class in `.cls` or in the field "label" (or "cls") of `.json`. Where that makes no
sense, as with 2024.05.12.jpg, it is a name up to its last dot. Class names come from
classes.txt beside the tars, one per line, if it is there.
"""

from __future__ import annotations

import hashlib
import json
import re
import tarfile
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from ..errors import UserError
from ..files import cache_folder, read_json, write_json
from ..images.decode import image_extensions
from ..untrusted.sizes import opened, read_bytes
from ..untrusted.text import parse_json
from .class_numbers import MOST_CLASSES, numbered_classes
from .names import SPLIT_NAMES, ending_of, is_image_name
from .passed_over import in_words
from .shard_index import DESCRIPTION, FORMAT_VERSION, INDEX, write_index

_MOST_TEXT_BYTES = 2**20  # of a .cls or .json, or of a name
_MOST_NAMES_BYTES = 64 * 2**20  # of classes.txt
_MOST_IMAGE_BYTES = 2**32  # what the column "size" can hold
_LABELS = ("cls", "json")
_PASSED_OVER = "passed_over.json"
# Counts up with each change of what is read, so that no old index is believed.
_READING = 2
_BLOCK = tarfile.BLOCKSIZE


class Member(NamedTuple):
    """A file in a tar.

    Attributes:
        name: Its name in the tar.
        offset: Where its bytes begin.
        size: How many there are.
    """

    name: str
    offset: int
    size: int


def index_tars(path: Path) -> tuple[Path, Path]:
    """Index the tars of a folder, or one tar, unless that has been done.

    The splits are sub folders (train, val, test), or words in the names
    (imagenet-train-0017.tar); otherwise all is train.

    Args:
        path: The folder or the tar.

    Returns:
        The folder of the tars, and the folder in the cache with their dataset.json and
        indices.

    Raises:
        UserError: There are no tars, a file is no tar or cut short, or an image has no
            label.
    """
    root = path if path.is_dir() else path.parent
    try:
        splits = _splits(path)
        folder = cache_folder("shards", f"indexed-{_key(root, splits)[:32]}")
        # The description is written last: with it, the indices are complete.
        if not (folder / DESCRIPTION).is_file():
            _write_index_of_all(root, splits, folder)
    except UserError:
        raise
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read the shards in {str(path)!r}: {error}") from error
    return root, folder


def passed_over_in(indexed: Path) -> str:
    """Return which images of tars are in no sample, in words; "" if none.

    Args:
        indexed: The folder in the cache, as `index_tars` returns it.
    """
    counts = read_json(indexed / _PASSED_OVER, "index of tars", "remove its folder")
    text = in_words(counts)
    return f"{text} in no sample with a label" if text else ""


def _key(root: Path, splits: Mapping[str, list[Path]]) -> str:
    """Return a hash of all that an index depends on, without reading the tars."""
    files = [path for tars in splits.values() for path in tars]
    names = root / "classes.txt"
    if names.is_file():
        files.append(names)
    facts = []
    for file in files:
        status = file.stat()
        facts.append((str(file.absolute()), status.st_size, status.st_mtime_ns))
    text = json.dumps([FORMAT_VERSION, _READING, facts])
    return hashlib.sha256(text.encode()).hexdigest()


def _splits(path: Path) -> dict[str, list[Path]]:
    """Return the tars of each split, in the order of their names."""
    found: dict[str, list[Path]] = {}
    tars = sorted(path.glob("[!.]*.tar"))
    if path.is_file() and path.suffix.lower() == ".tar":
        tars = [path]
    for tar in tars:
        words = re.split(r"[-_.]", tar.name.lower())
        known = [SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES]
        split = known[0] if known else "train"
        found.setdefault(split, []).append(tar)
    # Sub folders count only where no tar lies beside them.
    if not tars:
        for tar in sorted(path.glob("*/[!.]*.tar")):
            split_of_folder = SPLIT_NAMES.get(tar.parent.name.lower())
            if split_of_folder is not None:
                found.setdefault(split_of_folder, []).append(tar)
    if not found:
        raise UserError(
            f"there are no shards in {str(path)!r}: expected dataset.json, "
            "or .tar files"
        )
    return found


def _write_index_of_all(
    root: Path, splits: Mapping[str, list[Path]], folder: Path
) -> None:
    """Write the indices, and the description after them."""
    records = {}
    labels = []
    passed_over: Counter[str] = Counter()
    for split, tars in splits.items():
        index = folder / split / INDEX
        records[split], largest = _write_index(root, tars, index, passed_over)
        labels.append(largest)
    names = root / "classes.txt"
    if names.is_file():
        lines = read_bytes(names, _MOST_NAMES_BYTES).decode("utf-8").split("\n")
        classes = [line.strip() for line in lines if line.strip()]
    else:
        classes = numbered_classes(labels)
    description = {
        "format_version": FORMAT_VERSION,
        "classes": classes,
        "splits": records,
    }
    write_json(folder / _PASSED_OVER, passed_over)
    write_json(folder / DESCRIPTION, description)


def _write_index(
    root: Path, tars: list[Path], index: Path, passed_over: Counter[str]
) -> tuple[dict[str, Any], int]:
    """Write the index of a split.

    Returns:
        Its record in dataset.json, and the largest label.
    """
    # Arrays take 4 or 8 bytes a value; lists of a million images take ten times that.
    columns = {
        "offset": array("Q"),
        "size": array("I"),
        "shard": array("I"),
        "label": array("I"),
    }
    names: list[str] = []
    shards = []
    for number, path in enumerate(tars):
        before = len(names)
        for image, label in _samples(path, passed_over):
            names.append(f"{path.stem}/{image.name}")
            columns["offset"].append(image.offset)
            columns["size"].append(image.size)
            columns["shard"].append(number)
            columns["label"].append(label)
        shards.append(
            {
                "name": path.relative_to(root).as_posix(),
                "bytes": path.stat().st_size,
                "images": len(names) - before,
            }
        )
    if not names:
        raise UserError(f"there is no image in {str(tars[0])!r} and its neighbours")
    write_index(index, columns, names)
    file = {"name": f"{index.parent.name}/{INDEX}", "bytes": index.stat().st_size}
    record = {
        "images": len(names),
        "channels": 3,
        "size": None,
        "index": file,
        "shards": shards,
    }
    return record, max(columns["label"])


def _samples(path: Path, passed_over: Counter[str]) -> Iterator[tuple[Member, int]]:
    """Read a tar: each image with its label; count the images that are in no sample."""
    with opened(path) as (file, _):
        # The files of the sample under way. A tar may have millions of samples, but the
        # files of one lie side by side.
        key = ""
        group: list[Member] = []
        for member in _members(file, path):
            folder, _, base = member.name.rpartition("/")
            stem = base.partition(".")[0]
            if f"{folder}/{stem}" != key:
                yield from _samples_of(file, path, group, passed_over)
                key = f"{folder}/{stem}"
                group = []
            # Hidden files, such as macOS adds, have no name before the dot.
            if stem:
                group.append(member)
        yield from _samples_of(file, path, group, passed_over)


def _samples_of(
    file: BinaryIO, path: Path, group: list[Member], passed_over: Counter[str]
) -> Iterator[tuple[Member, int]]:
    """Return the samples among files that share a name up to the first dot."""
    # The ending is all after the first dot: 1.seg.png is no image beside 1.png, but, in
    # many sets, a mask.
    parts = {}
    for member in group:
        base = member.name.rpartition("/")[2]
        parts[base.partition(".")[2].lower()] = member
    samples = [parts]
    if not any(f".{ending}" in image_extensions() for ending in parts):
        samples = _by_last_dot(group)
    used = set()
    for sample in samples:
        for image, label in _sample(file, path, sample):
            used.add(image)
            yield image, label
    for member in group:
        if is_image_name(member.name) and member not in used:
            passed_over[ending_of(member.name)] += 1


def _by_last_dot(group: list[Member]) -> list[dict[str, Member]]:
    """Return the files of each name up to the last dot, where an image has a label."""
    by_name: dict[str, dict[str, Member]] = {}
    for member in group:
        name, _, ending = member.name.rpartition(".")
        by_name.setdefault(name, {})[ending.lower()] = member
    return [parts for parts in by_name.values() if not parts.keys().isdisjoint(_LABELS)]


def _sample(
    file: BinaryIO, path: Path, parts: dict[str, Member]
) -> Iterator[tuple[Member, int]]:
    """Yield the image of a sample and its label, if it has an image."""
    endings = image_extensions()
    images = [part for ending, part in parts.items() if f".{ending}" in endings]
    if not images:
        return
    image = images[0]
    where = f"{image.name[:200]!r} in {str(path)!r}"
    if len(images) > 1 or image.size >= _MOST_IMAGE_BYTES:
        raise UserError(
            f"{where} shares its name with another image, or has 4 GB: expected one "
            "image of each name"
        )
    if "cls" in parts:
        text = _read(file, parts["cls"], where)
        label = _json(text)
    elif "json" in parts:
        text = _read(file, parts["json"], where)
        label = _field(_json(text))
    else:
        raise UserError(
            f"{where} has no label: expected a file of the same name that ends in .cls "
            "or .json"
        )
    # `type`, as True is an int too.
    if type(label) is not int or not 0 <= label < MOST_CLASSES:
        raise UserError(
            f"{where} has the label {text[:50]!r}: expected the number of a class, 0 to "
            f"{MOST_CLASSES - 1}"
        )
    yield image, label


def _json(text: bytes) -> Any:
    """Return the value of JSON, None for anything else."""
    try:
        return parse_json(text)
    except ValueError:
        return None


def _field(record: Any) -> Any:
    """Return the label in a sample's JSON, None if there is none."""
    if not isinstance(record, dict):
        return None
    return record.get("label", record.get("cls"))


def _members(file: BinaryIO, path: Path) -> Iterator[Member]:
    """Read the headers of a tar: each regular file.

    `tarfile` itself keeps an object of each member, and its older versions can be led in
    circles by a header.
    """
    end = path.stat().st_size
    offset = 0
    long_name = ""
    while block := file.read(_BLOCK):
        if block == bytes(_BLOCK):
            return
        try:
            header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except (tarfile.TarError, ValueError) as error:
            raise UserError(
                f"{str(path)!r} is no plain tar file, or is damaged at byte {offset}: "
                f"{error}"
            ) from error
        member = Member(long_name or header.name, offset + _BLOCK, header.size)
        # A negative size would lead backwards, and for ever.
        if not 0 <= member.size <= end - member.offset:
            raise UserError(
                f"{str(path)!r} is cut short: {member.name[:200]!r} claims {member.size} "
                "bytes; copy it again"
            )
        long_name = ""
        # A name over 100 characters comes as a member of its own, before its file.
        if header.type in (tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME):
            text = _read(file, member, str(path)).decode("utf-8", "surrogateescape")
            long_name = _long_name(text, header.type)
        elif header.type in (tarfile.REGTYPE, tarfile.AREGTYPE):
            yield member
        blocks = -(-member.size // _BLOCK)
        offset = member.offset + blocks * _BLOCK
        # The reader of a label has moved on.
        file.seek(offset)
    raise UserError(f"{str(path)!r} has no end mark: it is cut short; copy it again")


def _long_name(text: str, kind: bytes) -> str:
    """Return the name in a GNU or pax header, "" if it holds none."""
    if kind == tarfile.GNUTYPE_LONGNAME:
        return text.rstrip("\0")
    found = re.search(r"(?:^|\n)\d+ path=([^\n]*)\n", text)
    return found[1] if found else ""


def _read(file: BinaryIO, member: Member, where: str) -> bytes:
    """Return the bytes of a small member."""
    if member.size > _MOST_TEXT_BYTES:
        raise UserError(
            f"{where} has a label or name of {member.size} bytes: expected at most "
            f"{_MOST_TEXT_BYTES}"
        )
    file.seek(member.offset)
    return file.read(member.size)
