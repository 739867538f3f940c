"""Write the result of a check as one self-contained page."""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..errors import UserError
from ..files import PathLike
from ..images.decode import Part, decode_image
from ..report.html import write_html
from .findings import SEVERITIES, Check, Finding, Picture
from .picture import shown

_SIDE = 160  # pixels of a small picture, which the page shows at half its size or less
_MOST_CARDS = 24  # of each kind
_MOST_ON_SHEETS = 600  # pictures on all contact sheets together
_FEWEST_ON_SHEET = 2
_MOST_ON_SHEET = 24
_STEPS = (16, 32, 64, 128, 224, 320, 480, 640, 1024, 2048, 4096)  # of the shorter side

Bar = tuple[str, str, float]
"""The name, the value as text, and the length of a bar (0 to 1)."""


def write_check_page(check: Check, path: PathLike) -> Path:
    """Write faults with pictures, the balance of classes, sizes, and contact sheets.

    Args:
        check: What `check_dataset` returned; its pictures are read again.
        path: The .html file, which is written whole or not at all.

    Returns:
        The path.

    Raises:
        UserError: The disk refuses.
    """
    labels = sorted({picture.label for picture in check.pictures})
    kinds = dict.fromkeys(finding.kind for finding in check.findings)
    on_sheet = _MOST_ON_SHEETS // max(len(labels), 1)
    on_sheet = min(max(on_sheet, _FEWEST_ON_SHEET), _MOST_ON_SHEET)
    counts = Counter(picture.label for picture in check.pictures)
    sheets = []
    for label in labels:
        shown = _sheet(check, label, on_sheet)
        how_many = f"{counts[label]:,}"
        if len(shown) < counts[label]:
            how_many = f"{len(shown):,} of {counts[label]:,} shown"
        sheets.append((label or "All pictures", how_many, shown))
    assert __package__
    return write_html(
        path,
        "check.html.j2",
        templates=resources.files(__package__),
        title=f"Check of {check.root.resolve().name}",
        facts=_facts(check, labels),
        kinds=[_cards_of_kind(check, kind) for kind in kinds],
        balance=_balance(check, labels),
        sizes=_sizes(check),
        sheets=sheets,
    )


def _facts(check: Check, labels: Sequence[str]) -> list[tuple[str, str]]:
    counts = Counter(finding.severity for finding in check.findings)
    facts = {"pictures": len(check.pictures), "classes": sum(map(bool, labels))}
    facts |= {f"{severity}s": counts[severity] for severity in SEVERITIES}
    return [(name, f"{number:,}") for name, number in facts.items()]


def _cards_of_kind(check: Check, kind: str) -> dict[str, Any]:
    """Return the findings of a kind for the template, the first with pictures."""
    found = [finding for finding in check.findings if finding.kind == kind]
    shown = found[:_MOST_CARDS]
    return {
        "name": kind,
        "severity": found[0].severity,
        "moved": found[0].move,
        "count": len(found),
        "cards": [(finding, _pictures_of(check, finding)) for finding in shown],
    }


def _pictures_of(check: Check, finding: Finding) -> list[tuple[str, str]]:
    """Return name and address of a finding's picture and of one other.

    A picture that could not be decoded is left out: it may be a bomb.
    """
    readable = {picture.path for picture in check.pictures}
    paths = (finding.path, *finding.others[:1])
    return _small_pictures(check, [path for path in paths if path in readable])


def _sheet(check: Check, label: str, most: int) -> list[tuple[str, str]]:
    """Return name and address of pictures of a class, spread evenly over it."""
    paths = [picture.path for picture in check.pictures if picture.label == label]
    places = np.linspace(0, len(paths) - 1, min(most, len(paths)))
    chosen = np.unique(places.round().astype(int))
    return _small_pictures(check, [paths[k] for k in chosen])


def _small_pictures(check: Check, paths: Sequence[str]) -> list[tuple[str, str]]:
    """Return name and data URI of each picture that is still there."""
    known = {picture.path: picture for picture in check.pictures}
    found = []
    for path in paths:
        if uri := _small(check, known[path]):
            found.append((path, uri))
    return found


def _small(check: Check, picture: Picture) -> str:
    """Return a small JPEG as a data URI; "" if the file is gone by now."""
    # Asking for a whole picture at this size lets libjpeg decode large ones smaller.
    whole = Part(lambda height, width: (0, 0, height, width), (_SIDE, _SIDE))
    try:
        place = check.root / picture.path
        pixels = decode_image(place, channels=picture.channels, part=whole)
        image = Image.fromarray(shown(pixels))
    except UserError:
        if check.in_files:
            return ""
        # It lies in an array or a tar.
        image = Image.fromarray(picture.tiny)
    image.thumbnail((_SIDE, _SIDE))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


def _balance(check: Check, labels: Sequence[str]) -> list[Bar]:
    """Return the counts of each class by split, against the largest class.

    A folder that is not split has plain counts: training will hold out some of them.
    """
    is_split = {picture.split for picture in check.pictures} != {"train"}
    counts = {label: Counter[str]() for label in labels}
    for picture in check.pictures:
        counts[picture.label][picture.split] += 1
    largest = max((count.total() for count in counts.values()), default=1)
    bars = []
    for label, count in counts.items():
        value = f"{count.total():,}"
        if is_split:
            parts = [f"{number:,} {split}" for split, number in sorted(count.items())]
            value = " + ".join(parts)
        bars.append((label or "no class", value, count.total() / largest))
    return bars


def _sizes(check: Check) -> list[Bar]:
    """Return how many pictures have a shorter side between two steps."""
    sides = [min(picture.height, picture.width) for picture in check.pictures]
    steps = np.searchsorted(_STEPS, sides, side="right")
    counts = np.bincount(steps, minlength=len(_STEPS) + 1)
    names = []
    for low, high in zip((1, *_STEPS), _STEPS, strict=False):
        names.append(f"{low}–{high - 1} px")
    names.append(f"{_STEPS[-1]} px and more")
    bars = []
    for name, count in zip(names, counts.tolist(), strict=True):
        if count:
            bars.append((name, f"{count:,}", count / counts.max()))
    return bars
