"""Find what is wrong with a folder of images: `check_folder`."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from ..data.bands import channels_of, learnt_first
from ..data.layout import FolderFile, Layout, walk
from ..data.names import is_image_name
from ..data.passed_over import PICTURES_OF_OTHERS
from ..errors import UserError
from .copies import best_copies_first, find_copies, stack_tiny
from .findings import SEVERITIES, Check, Finding, Picture
from .isolated import WorkerFailure, map_isolated
from .labels import Features, check_classes, check_labels
from .lookalikes import colours_by_place
from .picture import examine

_TINY = 32  # pixels of the shorter side


def check_folder(
    root: Path,
    *,
    workers: int | None = None,
    features: Features | None = None,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> Check:
    """Decode every picture of root/<class>/* or root/<split>/<class>/*, and compare.

    Args:
        root: The folder.
        workers: Processes; one per core by default.
        features: Describes pictures for the search for wrong labels; by default their
            colours do.
        report: Is told how many files of how many are done.

    Returns:
        The pictures, and what is wrong, errors first.

    Raises:
        UserError: There is no such folder.
    """
    if not root.is_dir():
        raise UserError(
            f"there is no folder {str(root)!r}: expected one with a sub folder of "
            "images per class"
        )
    layout = walk(root)
    channels = _channels(layout)
    findings, pictures = examine_all(
        root, layout.files, workers, report, channels=channels
    )
    for kind, path, message, _ in layout.faults:
        findings.append(Finding(kind, path, message))
    findings += _passed_over(layout)
    return conclude(layout, findings, pictures, features)


def conclude(
    layout: Layout,
    findings: list[Finding],
    pictures: list[Picture],
    features: Features | None = None,
) -> Check:
    """Compare pictures that were looked at one by one.

    Args:
        layout: The files and classes.
        findings: What is wrong with each file, and with the folders.
        pictures: Those that can be decoded.
        features: As of `check_folder`.

    Returns:
        The pictures, and all that is wrong, errors first.
    """
    if layout.classes:
        # A stray image belongs to no class, and would count as a class of its own.
        pictures = [picture for picture in pictures if picture.label]
    pictures = best_copies_first(pictures)
    in_use = _folders_in_use(layout, findings)
    findings += check_classes(layout.classes, pictures, in_use)
    findings += _odd_ones_out(pictures)
    copies, single = find_copies(pictures)
    findings += copies
    findings += _wrong_labels(layout.root, single, findings, features)
    findings.sort(key=_worst_first)
    return Check(layout.root, len(layout.files), tuple(pictures), tuple(findings))


def _channels(layout: Layout) -> int:
    """Return how many channels the reader gives to the images."""
    found: dict[str, list[str]] = {}
    for file in layout.files:
        if is_image_name(file.path):
            found.setdefault(file.split, []).append(file.path)
    return channels_of(layout.root, learnt_first(found))


def _passed_over(layout: Layout) -> Iterator[Finding]:
    """Warn of files that a person takes for pictures, once for each ending."""
    for ending, count in sorted(layout.passed_over.items()):
        if ending in PICTURES_OF_OTHERS:
            message = f"has {count:,} files {ending}, which are passed over: "
            message += PICTURES_OF_OTHERS[ending]
            yield Finding("passed-over", "", message)


def _worst_first(finding: Finding) -> tuple[int, str, str]:
    return SEVERITIES.index(finding.severity), finding.kind, finding.path


def examine_all(
    root: Path,
    files: Sequence[FolderFile],
    workers: int | None,
    report: Callable[[int, int], None],
    *,
    by_name: bool = True,
    channels: int = 3,
) -> tuple[list[Finding], list[Picture]]:
    """Look at each file alone, in processes that it may end.

    Args:
        root: The folder that the files' paths are relative to.
        files: The files.
        workers: Processes; None is one per core.
        report: Is told how many files of how many are done.
        by_name: Whether a file must have the ending of an image to be one.
        channels: Of the images.

    Returns:
        What is wrong with each, and those that can be decoded.
    """
    findings: list[Finding] = []
    pictures: list[Picture] = []
    processes = workers or os.cpu_count() or 1
    one = functools.partial(examine, str(root), by_name=by_name, channels=channels)
    answers = map_isolated(one, files, workers=processes)
    for done, (position, answer) in enumerate(answers, start=1):
        if isinstance(answer, WorkerFailure):
            path = files[position].path
            findings.append(Finding("unreadable", path, answer.reason))
        else:
            found, picture = answer
            findings += found
            if picture is not None:
                pictures.append(picture)
        report(done, len(files))
    return findings, pictures


def _folders_in_use(layout: Layout, findings: Sequence[Finding]) -> set[str]:
    """Return the folders that hold something besides what `--fix` moves away."""
    moved = {finding.path for finding in findings if finding.move}
    stays = [file.path for file in layout.files if file.path not in moved]
    nested = [finding.path for finding in findings if finding.kind == "nested"]
    return {path.rpartition("/")[0] for path in (*stays, *nested)}


def _odd_ones_out(pictures: Sequence[Picture]) -> Iterator[Finding]:
    """Find tiny pictures among larger ones, and gray ones among coloured ones."""
    sides = [min(picture.height, picture.width) for picture in pictures]
    # Where all are small, as 28 x 28 digits are, a small one is no fault.
    least = min(_TINY, np.median(sides) / 4) if pictures else 0
    gray = {picture.path for picture in pictures if picture.mode in ("1", "L", "LA")}
    gray_is_rare = 2 * len(gray) < len(pictures)
    for picture, side in zip(pictures, sides, strict=True):
        if side < least:
            message = f"has {picture.width} x {picture.height} pixels"
            yield Finding("tiny", picture.path, message)
        if gray_is_rare and picture.path in gray:
            yield Finding("gray", picture.path, "is gray among pictures in colour")


def _wrong_labels(
    root: Path,
    single: Sequence[Picture],
    findings: Sequence[Finding],
    features: Features | None,
) -> Iterator[Finding]:
    """Find labels that the nearest pictures contradict.

    Pictures that have two labels already are findings, and would mislead the others.
    """
    conflicts = set()
    for finding in findings:
        if finding.kind.endswith("label-conflict"):
            conflicts.add(finding.path)
    sure = [picture for picture in single if picture.path not in conflicts]
    if features is None:
        return check_labels(sure, colours_by_place(stack_tiny(sure)))
    return check_labels(sure, features([root / picture.path for picture in sure]))
