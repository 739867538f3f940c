"""The records of a folder check: the kinds of findings, the pictures, the result."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .inside import is_inside

SEVERITIES = ("error", "warning", "note")
"""From the worst. With an error, training would fail or its result would be wrong."""

# Severity, whether `--fix` moves the file away, and the kinds. What only a person can
# decide (which of two classes is right, which ending a file should have) stays.
_KINDS = (
    ("error", True, "unreadable truncated damaged empty huge no-image stray"),
    ("error", True, "link-loop empty-class leak label-conflict"),
    ("error", False, "no-access no-pictures nested split-twice no-train"),
    (
        "error",
        False,
        "unknown-class one-class flat-split wrapped unknown-split bad-name bands",
    ),
    ("warning", True, "duplicate tiny flat"),
    ("warning", False, "near-duplicate near-leak near-label-conflict odd-label"),
    ("warning", False, "wrong-ending flawed colour-space animated"),
    ("warning", False, "class-names rare-class few-pictures no-classes"),
    ("warning", False, "unused passed-over vacant-class dark"),
    ("note", False, "gray turned transparent hidden other-file"),
)
KINDS: dict[str, tuple[str, bool]] = {
    kind: (severity, move) for severity, move, kinds in _KINDS for kind in kinds.split()
}
"""Every kind of finding: its severity, and whether `--fix` moves the file away."""


@dataclass(frozen=True)
class Finding:
    """Describe one fault.

    Attributes:
        kind: A key of `KINDS`.
        path: The file or folder, relative to the folder that is checked.
        message: What is wrong, to be read after the path.
        others: Further files that the fault is about, such as the original of a copy.
    """

    kind: str
    path: str
    message: str
    others: tuple[str, ...] = ()

    @property
    def severity(self) -> str:
        """One of `SEVERITIES`."""
        return KINDS[self.kind][0]

    @property
    def move(self) -> bool:
        """Whether `--fix` moves the file away."""
        return KINDS[self.kind][1]


@dataclass(frozen=True, eq=False)
class Picture:
    """Describe a picture that can be decoded.

    Attributes:
        path: Relative to the folder that is checked.
        split: "train", "val" or "test".
        label: The name of its class; empty outside of any class.
        height: In pixels, after the EXIF rotation.
        width: In pixels, after the EXIF rotation.
        mode: Pillow's name of the pixel format, such as "RGB".
        content: SHA-256 of the file.
        pixels: SHA-256 of the decoded pixels and their shape.
        tiny: The picture squeezed to uint8 (16, 16, 3).
        channels: Of the images that it is one of.
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
    channels: int = 3


@dataclass(frozen=True, eq=False)
class Check:
    """Hold the result of a folder check.

    Attributes:
        root: The folder.
        files: How many files were looked at.
        pictures: Those that can be decoded.
        findings: What is wrong, errors first.
        in_files: Whether the pictures are files below the root.
    """

    root: Path
    files: int
    pictures: tuple[Picture, ...]
    findings: tuple[Finding, ...]
    in_files: bool = True

    def movable(self) -> list[str]:
        """Return what `--fix` moves away.

        A class keeps its pictures where all that can be read would go, as those of a
        class that was copied under another name would. What lies behind a link is
        somebody else's, and what a link that stays leads to is no copy of it.
        """
        moved = set()
        for finding in self.findings:
            if finding.move and not self._is_needed(finding):
                moved.add(finding.path)
        moved -= set(self.behind_links())
        of_class: dict[str, set[str]] = {}
        for picture in self.pictures:
            folder = picture.path.rpartition("/")[0]
            of_class.setdefault(folder, set()).add(picture.path)
        for paths in of_class.values():
            if len(paths) > 1 and paths <= moved:
                moved -= paths
        return sorted(moved)

    def behind_links(self) -> list[str]:
        """Return what `--fix` would move away if no link led to it."""
        found = {finding.path for finding in self.findings if finding.move}
        found.discard("")
        return sorted(path for path in found if not is_inside(self.root, path))

    def _is_needed(self, finding: Finding) -> bool:
        """Whether a picture that stays is a link to the one of a finding."""
        if finding.kind not in ("duplicate", "leak"):
            return False
        path = (self.root / finding.path).resolve()
        links = [self.root / other for other in finding.others]
        return any(link.is_symlink() and link.resolve() == path for link in links)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        severities = Counter(finding.severity for finding in self.findings)
        labels = sorted({picture.label for picture in self.pictures})
        classes = {label: Counter[str]() for label in labels}
        for picture in self.pictures:
            classes[picture.label][picture.split] += 1
        sizes = Counter(f"{one.width}x{one.height}" for one in self.pictures)
        findings = [
            {"severity": finding.severity, **asdict(finding), "move": finding.move}
            for finding in self.findings
        ]
        return {
            "folder": str(self.root),
            "files": self.files,
            "readable": len(self.pictures),
            **{f"{severity}s": severities[severity] for severity in SEVERITIES},
            "classes": classes,
            "sizes": dict(sizes.most_common()),
            "findings": findings,
        }
