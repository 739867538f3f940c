"""What is wrong with a folder of pictures, before a training run finds out:
`check_folder`.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import stat
import unicodedata
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..data.folder import SPLIT_NAMES
from ..errors import UserError
from ..images.decode import FORMATS, decode_image, image_extensions
from .isolated import WorkerFailure, map_isolated
from .lookalikes import alike, describe, odd_labels

Features = Callable[[Sequence[Path]], Iterable[NDArray[Any] | None]]
"""From pictures to features (D,) for the search for wrong labels; None for one that
cannot be read.
"""

SEVERITIES = (
    "error",
    "warning",
    "note",
)  # an error: training would fail, or its result be wrong
_KINDS = {
    (
        "error",
        True,
    ): "unreadable truncated damaged empty huge no-image stray link-loop empty-class leak label-conflict",
    (
        "error",
        False,
    ): "no-access no-pictures nested split-twice no-train unknown-class one-class",
    ("warning", True): "duplicate tiny flat",
    (
        "warning",
        False,
    ): "near-duplicate near-leak near-label-conflict odd-label wrong-ending flawed colour-space "
    "animated class-names rare-class no-classes",
    ("note", False): "gray turned transparent hidden unused other-file",
}
KINDS = {kind: about for about, kinds in _KINDS.items() for kind in kinds.split()}
"""Every kind of finding: its severity, and whether it is set aside (what a person must
look at first is not).
"""

_REFUSALS = {"cannot open": "unreadable", "cut short": "truncated", "too large": "huge", "not an image": "no-image",
             "is empty": "empty"}  # fmt: skip
_ORIENTATION, _TINY, _RARE = (
    0x0112,
    32,
    10,
)  # pixels of the short side; times smaller than the largest class
_STAYS = (
    "test",
    "val",
    "train",
)  # of copies the one by which models are judged, the largest, the shortest name


class FolderFile(NamedTuple):
    """A file relative to the root, its split (train, val or test), and the name of its
    class.
    """

    path: str
    split: str
    label: str


@dataclass(frozen=True)
class Finding:
    """One fault of a kind of `KINDS`; `path` is relative to the folder, `others` are
    the files it is about besides.
    """

    kind: str
    path: str
    message: str
    others: tuple[str, ...] = ()

    severity = property(lambda self: KINDS[self.kind][0])
    move = property(lambda self: KINDS[self.kind][1])


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture that can be decoded: upright height and width in pixels, digests, and
    uint8 (16, 16, 3) of it.
    """

    path: str
    split: str
    label: str
    height: int
    width: int
    mode: str
    content: bytes
    pixels: bytes
    tiny: NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Check:
    """How many files there are, which pictures can be decoded, and what is wrong,
    errors first.
    """

    root: Path
    files: int
    pictures: tuple[Picture, ...]
    findings: tuple[Finding, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        severities = Counter(finding.severity for finding in self.findings)
        classes: dict[str, Counter[str]] = {
            label: Counter() for label in sorted({p.label for p in self.pictures})
        }
        for picture in self.pictures:
            classes[picture.label][picture.split] += 1
        found = [
            {"severity": f.severity, **asdict(f), "move": f.move} for f in self.findings
        ]
        counts = {f"{severity}s": severities[severity] for severity in SEVERITIES}
        sizes = Counter(
            f"{picture.width}x{picture.height}" for picture in self.pictures
        )
        totals = {
            "folder": str(self.root),
            "files": self.files,
            "readable": len(self.pictures),
            **counts,
        }
        return {
            **totals,
            "classes": classes,
            "sizes": dict(sizes.most_common()),
            "findings": found,
        }


def check_folder(
    root: Path,
    *,
    workers: int | None = None,
    features: Features | None = None,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> Check:
    """Decode every picture of root/<class>/* or root/<split>/<class>/* and say what is
    wrong.

    workers: processes, one per core by default. features: to judge the labels by,
        instead of colours. report: told how
    many files of how many are done. `UserError` if there is no such folder.
    """
    if not root.is_dir():
        raise UserError(
            f"there is no folder {str(root)!r}: expected one with a sub folder of images per class"
        )
    found: list[Finding] = []
    rows, classes = _walk(root, found)
    pictures: list[Picture] = []
    examine = functools.partial(_examine, str(root))
    for done, (position, answer) in enumerate(
        map_isolated(examine, rows, workers=workers or os.cpu_count() or 1), 1
    ):
        findings, picture = (
            (answer.reason, None) if isinstance(answer, WorkerFailure) else answer
        )
        found += (
            [Finding("unreadable", rows[position].path, findings)]
            if isinstance(findings, str)
            else findings
        )
        pictures += [picture] if picture and (picture.label or not classes) else []
        report(done, len(rows))
    pictures.sort(
        key=lambda p: (_STAYS.index(p.split), -p.height * p.width, len(p.path), p.path)
    )
    gone = {finding.path for finding in found if finding.move}
    stay = [row.path for row in rows if row.path not in gone] + [
        f.path for f in found if f.kind == "nested"
    ]
    found += [
        *_of_classes(classes, pictures, set(map(os.path.dirname, stay))),
        *_of_looks(pictures),
    ]
    same: dict[bytes, list[Picture]] = {}
    for picture in pictures:
        same.setdefault(picture.pixels, []).append(picture)
    single = [group[0] for group in same.values()]
    tiny = np.array([picture.tiny for picture in single], np.uint8).reshape(
        -1, 16, 16, 3
    )
    found += [finding for group in same.values() for finding in _of_copies(group, "")]
    found += [
        finding
        for group in alike(tiny)
        for finding in _of_copies([single[k] for k in group], "near-")
    ]
    unsure = {
        finding.path for finding in found if finding.kind.endswith("label-conflict")
    }
    eval_split = [k for k, picture in enumerate(single) if picture.path not in unsure]
    judged = [single[k] for k in eval_split]
    x = (
        describe(tiny[eval_split])
        if features is None
        else features([root / picture.path for picture in judged])
    )
    found += _of_labels(judged, x)
    found.sort(
        key=lambda finding: (
            SEVERITIES.index(finding.severity),
            finding.kind,
            finding.path,
        )
    )
    return Check(root, len(rows), tuple(pictures), tuple(found))


def _walk(
    root: Path, found: list[Finding]
) -> tuple[list[FolderFile], dict[str, FolderFile]]:
    """The files to look at, and the classes by their folders, as `read_folder` would
    find them.
    """
    rows: list[FolderFile] = []
    classes: dict[str, FolderFile] = {}

    @functools.cache
    def inside(place: str) -> tuple[list[str], list[str]]:
        """Folders and other files in a place, without what systems leave behind."""
        try:
            names = sorted(os.listdir(root / place))  # noqa: PTH208 - a million paths are large
        except OSError as error:
            found.append(
                Finding("no-access", place, f"cannot be looked into: {error.strerror}")
            )
            return [], []
        seen = [
            name
            for name in names
            if not name.lower().startswith(
                (".", "__macosx", "thumbs.db", "desktop.ini")
            )
        ]
        if len(names) > len(seen):
            found.append(
                Finding(
                    "hidden",
                    place,
                    f"has {len(names) - len(seen)} hidden or system files",
                )
            )
        folders = {name for name in seen if os.path.isdir(root / place / name)}  # noqa: PTH112 - it never raises
        links = [name for name in folders if (root / place / name).is_symlink()]
        loops = {
            name
            for name in links
            if (root / place).resolve().is_relative_to((root / place / name).resolve())
        }
        found.extend(
            Finding("link-loop", f"{place}{name}", "is a link that leads back up")
            for name in loops
        )
        return sorted(folders - loops), [name for name in seen if name not in folders]

    folders, files = inside("")
    splits = {
        name: SPLIT_NAMES[name.lower()]
        for name in folders
        if name.lower() in SPLIT_NAMES
    }
    in_classes = (name for folder in folders for name in inside(f"{folder}/")[1])
    if (
        not splits
        and any(map(_is_image, files))
        and not any(map(_is_image, in_classes))
    ):
        found.append(
            Finding(
                "no-classes",
                "",
                "has no sub folder of images per class, which training needs",
            )
        )
        return [FolderFile(name, "train", "") for name in files], {}
    for name in (*files, *folders) if splits else ():
        if name not in splits:
            found.append(
                Finding("unused", name, "lies beside the splits and is not used")
            )
    if len(set(splits.values())) < len(splits):
        found.append(
            Finding(
                "split-twice", "", f"has two folders for a split: {', '.join(splits)}"
            )
        )
    if splits and "train" not in splits.values():
        found.append(
            Finding("no-train", "", f"has {' and '.join(splits)} but no train")
        )
    for place, split in [(f"{name}/", split) for name, split in splits.items()] or [
        ("", "train")
    ]:
        folders, files = inside(place)
        for name in files:
            kind = "stray" if _is_image(name) else "other-file"
            found.append(Finding(kind, f"{place}{name}", "lies outside of any class"))
            rows += [FolderFile(f"{place}{name}", split, "")] if kind == "stray" else []
        for label in folders:
            below, files = inside(f"{place}{label}/")
            rows += [
                FolderFile(f"{place}{label}/{name}", split, label) for name in files
            ]
            classes[f"{place}{label}"] = FolderFile(f"{place}{label}", split, label)
            for name in below:
                found.append(
                    Finding(
                        "nested",
                        f"{place}{label}/{name}",
                        "is a folder in a class: move its images up",
                    )
                )
    return rows, classes


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in image_extensions()  # noqa: PTH122 - Path is slow for a million names


def _examine(root: str, row: FolderFile) -> tuple[list[Finding], Picture | None]:
    """What one file is, and what is wrong with it alone; runs in a process of its own."""
    path = Path(root, row.path)
    try:
        regular = stat.S_ISREG(path.stat().st_mode)
        is_image = _is_image(row.path)
        pixels = decode_image(path) if regular and is_image else None
    except (OSError, UserError) as error:
        said = (
            f"cannot open it: {error.strerror}"
            if isinstance(error, OSError)
            else str(error)
        )
        said = said.replace(repr(str(path)), "it").removeprefix("it ")
        kind = next(
            (kind for words, kind in _REFUSALS.items() if words in said), "damaged"
        )
        return [Finding(kind, row.path, said)], None
    mode, oddities = (
        _head(path)
        if regular
        else ("", [("unreadable", "is a pipe or a device, not a file")])
    )
    found = [Finding(kind, row.path, message) for kind, message in oddities]
    if pixels is None:
        return found, None
    tiny = np.asarray(Image.fromarray(pixels).resize((16, 16), Image.Resampling.BOX))
    if np.ptp(tiny, axis=(0, 1)).max() == 0 and (pixels == pixels[:1, :1]).all():
        found.append(Finding("flat", row.path, "is of one colour"))
    with path.open("rb") as file:
        content = hashlib.file_digest(file, "sha256").digest()
    digest = hashlib.sha256(f"{pixels.shape}".encode() + pixels.tobytes()).digest()
    return found, Picture(*row, *pixels.shape[:2], mode, content, digest, tiny)


def _head(path: Path) -> tuple[str, list[tuple[str, str]]]:
    """The mode of an image, and what is odd about it though it can be decoded."""
    odd: list[tuple[str, str]] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            image = Image.open(
                path, formats=[name for name in FORMATS if name in Image.OPEN]
            )
        except Exception:
            return "", [("other-file", "is not an image")]
        known = Image.registered_extensions().get(path.suffix.lower(), "")
        mode = image.mode
        kind = (image.format or "").replace(
            "MPO", "JPEG"
        )  # phones add a preview to a JPEG
        with (
            image,
            contextlib.suppress(Exception),
        ):  # a broken EXIF block or second frame says nothing of the pixels
            if known not in FORMATS:
                return "", [
                    (
                        "wrong-ending",
                        f"is {kind}, but has no ending of an image: training passes it over",
                    )
                ]
            if kind != known.replace("MPO", "JPEG"):
                odd.append(("wrong-ending", f"is {kind}, but its name says {known}"))
            if ";16" in str(getattr(image, "tile", "")) or mode[0] in "IF":
                odd.append(
                    ("colour-space", "has more than 8 bits a channel, which become 8")
                )
            elif mode not in ("RGB", "L", "1", "P", "RGBA", "LA"):
                odd.append(
                    (
                        "colour-space",
                        f"is {mode}: its colours may come out wrong; save it as RGB",
                    )
                )
            elif image.has_transparency_data:
                odd.append(
                    (
                        "colour-space" if mode == "P" else "transparent",
                        "is transparent, and laid on white",
                    )
                )
            if image.getexif().get(_ORIENTATION, 1) in range(2, 9):
                odd.append(("turned", "is turned as its EXIF orientation asks"))
            if kind != "JPEG" and getattr(image, "is_animated", False):
                odd.append(
                    (
                        "animated",
                        "has several frames or pages, of which the first counts",
                    )
                )
        with contextlib.suppress(
            ImportError
        ):  # it refuses what libjpeg, and so Pillow, only complains of
            from simplejpeg import decode_jpeg

            try:
                if kind == "JPEG" and mode in ("RGB", "L"):
                    decode_jpeg(
                        path.read_bytes(), min_height=8, min_width=8, min_factor=1
                    )
            except ValueError:
                odd.append(
                    (
                        "flawed",
                        "has errors in its data: it can be decoded, but part of it may be garbage",
                    )
                )
        return mode, odd


def _of_classes(
    classes: Mapping[str, FolderFile], pictures: Sequence[Picture], in_use: set[str]
) -> Iterator[Finding]:
    """in_use: folders that hold more than what is set aside."""
    counts = Counter((picture.split, picture.label) for picture in pictures)
    train = {
        label: counts["train", label]
        for _, split, label in classes.values()
        if split == "train"
    }
    largest = max(train.values(), default=0)
    spelled = dict[str, str]()
    for folder, split, label in classes.values():
        count = counts[split, label]
        if not count:
            kind = "no-pictures" if folder in in_use else "empty-class"
            yield Finding(kind, folder, "is a class without a picture that can be read")
        elif train and label not in train:
            yield Finding(
                "unknown-class",
                folder,
                f"is a class of {split} that train does not have",
            )
        elif split == "train" and (count == 1 or count * _RARE <= largest):
            yield Finding(
                "rare-class",
                folder,
                f"has {count:,} pictures, the largest class {largest:,}",
            )
        letters = (
            "".join(
                filter(str.isalnum, unicodedata.normalize("NFKC", label).casefold())
            )
            or label
        )
        if (
            split == "train"
            and (other := spelled.setdefault(letters, folder)) != folder
        ):
            yield Finding(
                "class-names", folder, f"is spelled almost like {other}", (other,)
            )
    if len(train) < 2 and (classes or not pictures):
        yield Finding(
            "one-class",
            "",
            f"has {len(train)} class(es) to train on: expected at least two",
        )


def _of_looks(pictures: Sequence[Picture]) -> Iterator[Finding]:
    """What is odd among the others: tiny pictures among larger ones, gray ones among
    coloured ones.
    """
    sides = [min(picture.height, picture.width) for picture in pictures]
    least = min(_TINY, np.median(sides) / 4) if pictures else 0
    gray = {picture.path for picture in pictures if picture.mode in ("1", "L", "LA")}
    for picture, side in zip(pictures, sides, strict=True):
        if side < least:
            yield Finding(
                "tiny", picture.path, f"has {picture.width} x {picture.height} pixels"
            )
        if picture.path in gray and 2 * len(gray) < len(pictures):
            yield Finding("gray", picture.path, "is gray among pictures in colour")


def _of_copies(group: Sequence[Picture], near: str) -> Iterator[Finding]:
    """The first stays, unless they are in different classes: only their owner knows
    which one is right.
    """
    first = group[0]
    for picture in group:
        stranger = next(
            (other for other in group if other.label != picture.label), None
        )
        how = (
            "looks like"
            if near
            else "has the bytes of"
            if picture.content == first.content
            else "has the pixels of"
        )
        if stranger:
            message = f"{'looks like' if near else 'is the same as'} {stranger.path}, which is called {stranger.label}"
            yield Finding(
                f"{near}label-conflict", picture.path, message, (stranger.path,)
            )
        elif picture.split != first.split:
            message = f"{how} {first.path}, so {picture.split} gives away {first.split}"
            yield Finding(f"{near}leak", picture.path, message, (first.path,))
        elif picture is not first:
            yield Finding(
                f"{near}duplicate", picture.path, f"{how} {first.path}", (first.path,)
            )


def _of_labels(
    pictures: Sequence[Picture], features: Iterable[NDArray[Any] | None]
) -> Iterator[Finding]:
    known = [
        (picture, x)
        for picture, x in zip(pictures, features, strict=True)
        if x is not None
    ]
    names, labels = np.unique(
        [picture.label for picture, _ in known], return_inverse=True
    )
    for k, label in (
        odd_labels(np.array([x for _, x in known]), labels) if len(names) > 1 else ()
    ):
        message = f"is in {known[k][0].label}, but all ten pictures most like it are in {names[label]}"
        yield Finding("odd-label", known[k][0].path, message)
