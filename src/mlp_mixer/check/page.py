"""The findings of `check_folder` as one self-contained page: faults with pictures,
balance, sizes, contact sheets.
"""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..errors import UserError
from ..files import PathLike, write_text
from ..images.decode import Part, decode_image
from ..report.page import environment
from .folder import SEVERITIES, Check, Finding

_SIDE = 160  # pixels of a small picture, which the page shows at half its size or less
_MOST_CARDS = 24  # of each kind
_SHEETS = (
    600,
    2,
    24,
)  # pictures on all contact sheets together; on each, at least and at most
_STEPS = (16, 32, 64, 128, 224, 320, 480, 640, 1024, 2048, 4096)  # of the shorter side


def write_check_page(check: Check, path: PathLike) -> Path:
    """Write the page to `path` (whole or not at all) and return it; `UserError` if the
    disk refuses.
    """
    classes = sorted({picture.label for picture in check.pictures})
    total, least, most = _SHEETS
    each = min(max(total // max(len(classes), 1), least), most)
    page = (
        environment()
        .get_template("check.html.j2")
        .render(
            title=f"Pictures of {check.root.resolve().name}",
            facts=_facts(check, classes),
            kinds=[
                _kind(check, kind)
                for kind in dict.fromkeys(finding.kind for finding in check.findings)
            ],
            balance=_balance(check, classes),
            sizes=_sizes(check),
            sheets=[
                (label or "All pictures", _sheet(check, label, each))
                for label in classes
            ],
        )
    )
    write_text(path, page.encode("utf-8", "backslashreplace").decode())
    return Path(path)


def _facts(check: Check, classes: Sequence[str]) -> list[tuple[str, str]]:
    counts = Counter(finding.severity for finding in check.findings)
    known = [("pictures", len(check.pictures)), ("classes", sum(map(bool, classes)))]
    return [
        (name, f"{n:,}")
        for name, n in [
            *known,
            *((f"{severity}s", counts[severity]) for severity in SEVERITIES),
        ]
    ]


def _kind(check: Check, kind: str) -> dict[str, Any]:
    """The findings of a kind, the first ones with their pictures."""
    found = [finding for finding in check.findings if finding.kind == kind]
    shown = [(finding, _pictures_of(check, finding)) for finding in found[:_MOST_CARDS]]
    return {
        "name": kind,
        "severity": found[0].severity,
        "moved": found[0].move,
        "count": len(found),
        "cards": shown,
    }


def _pictures_of(check: Check, finding: Finding) -> list[tuple[str, str]]:
    """Name and address of the picture and of one other; of none that could not be
    decoded, for it may be a bomb.
    """
    known = {picture.path for picture in check.pictures}
    return [
        (path, uri)
        for path in (finding.path, *finding.others[:1])
        if path in known and (uri := _small(check, path))
    ]


def _sheet(check: Check, label: str, most: int) -> list[tuple[str, str]]:
    """Name and address of pictures of a class, spread evenly over it."""
    paths = [picture.path for picture in check.pictures if picture.label == label]
    chosen = np.unique(
        np.linspace(0, len(paths) - 1, min(most, len(paths))).round().astype(int)
    )
    return [(paths[k], uri) for k in chosen if (uri := _small(check, paths[k]))]


def _small(check: Check, path: str) -> str:
    """A small JPEG as a data URI; empty if the file is gone by now."""
    try:
        whole = Part(
            lambda height, width: (0, 0, height, width), (_SIDE, _SIDE)
        )  # large JPEGs come smaller
        image = Image.fromarray(decode_image(check.root / path, part=whole))
    except UserError:
        return ""
    image.thumbnail((_SIDE, _SIDE))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


def _balance(check: Check, classes: Sequence[str]) -> list[tuple[str, str, float]]:
    """Of each class its name, its counts by split, and its share of the largest class."""
    counts = {label: Counter[str]() for label in classes}
    for picture in check.pictures:
        counts[picture.label][picture.split] += 1
    largest = max((count.total() for count in counts.values()), default=1)
    return [
        (
            label or "no class",
            " + ".join(f"{n:,} {split}" for split, n in sorted(count.items())),
            count.total() / largest,
        )
        for label, count in counts.items()
    ]


def _sizes(check: Check) -> list[tuple[str, str, float]]:
    """How many pictures have a shorter side from one step to the next, and their share
    of the fullest.
    """
    sides = [min(picture.height, picture.width) for picture in check.pictures]
    counts = np.bincount(
        np.searchsorted(_STEPS, sides, side="right"), minlength=len(_STEPS) + 1
    )
    names = [f"{a}–{b - 1} px" for a, b in zip((1, *_STEPS), _STEPS, strict=False)] + [
        f"{_STEPS[-1]} px and more"
    ]
    return [
        (name, f"{n:,}", n / counts.max())
        for name, n in zip(names, counts.tolist(), strict=True)
        if n
    ]
