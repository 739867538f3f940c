"""List the files of a folder, and find what is wrong with its sub folders."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..data.folder import SPLIT_NAMES, is_image_name
from .findings import Finding, FolderFile

# What operating systems leave in folders, as beginnings of names in lower case.
_SYSTEM_FILES = (".", "__macosx", "thumbs.db", "desktop.ini")


@dataclass
class Layout:
    """Hold the files and the classes of a folder, as `read_folder` would find them.

    Attributes:
        files: The files to look at.
        classes: The classes by the paths of their folders.
        findings: What is wrong with the folders.
    """

    files: list[FolderFile] = field(default_factory=list)
    classes: dict[str, FolderFile] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    def find(self, kind: str, path: str, message: str) -> None:
        """Add a finding.

        Args:
            kind: A key of `KINDS`.
            path: The file or folder; empty for the whole folder.
            message: What is wrong with it.
        """
        self.findings.append(Finding(kind, path, message))


def walk(root: Path) -> Layout:
    """List root/<class>/* or root/<split>/<class>/*.

    Args:
        root: A folder that exists.

    Returns:
        The files, the classes, and what is wrong with the folders.
    """
    layout = Layout()
    listing = _Listing(root, layout)
    folders, files = listing.inside("")
    splits = {}
    for name in folders:
        if name.lower() in SPLIT_NAMES:
            splits[name] = SPLIT_NAMES[name.lower()]
    if splits:
        _check_splits(layout, splits, beside=[*files, *folders])
        for name, split in splits.items():
            _add_classes(layout, listing, f"{name}/", split)
        return layout
    if any(map(is_image_name, files)) and not _any_class_has_images(listing, folders):
        message = "has no sub folder of images per class, which training needs"
        layout.find("no-classes", "", message)
        layout.files = [FolderFile(name, "train", "") for name in files]
        return layout
    _add_classes(layout, listing, "", "train")
    return layout


class _Listing:
    """Lists places below a root, each once, and notes what is wrong with them."""

    def __init__(self, root: Path, layout: Layout) -> None:
        self._root = root
        self._layout = layout
        self._known: dict[str, tuple[list[str], list[str]]] = {}

    def inside(self, place: str) -> tuple[list[str], list[str]]:
        """Return the folders and the other files in a place ("" or "folder/")."""
        if place not in self._known:
            self._known[place] = self._list(place)
        return self._known[place]

    def _list(self, place: str) -> tuple[list[str], list[str]]:
        folder = self._root / place
        try:
            # os.listdir: a million Path objects are large.
            names = sorted(os.listdir(folder))  # noqa: PTH208
        except OSError as error:
            message = f"cannot be looked into: {error.strerror}"
            self._layout.find("no-access", place, message)
            return [], []
        seen = [name for name in names if not name.lower().startswith(_SYSTEM_FILES)]
        if hidden := len(names) - len(seen):
            message = f"has {hidden} hidden or system files"
            self._layout.find("hidden", place, message)
        # os.path: Path.is_dir may raise.
        folders = {name for name in seen if os.path.isdir(folder / name)}  # noqa: PTH112
        files = [name for name in seen if name not in folders]
        for name in sorted(folders):
            # A walk into a link to a folder above would never end.
            if _leads_back_up(folder, name):
                folders.remove(name)
                message = "is a link that leads back up"
                self._layout.find("link-loop", f"{place}{name}", message)
        return sorted(folders), files


def _leads_back_up(folder: Path, name: str) -> bool:
    link = folder / name
    return link.is_symlink() and folder.resolve().is_relative_to(link.resolve())


def _any_class_has_images(listing: _Listing, folders: Sequence[str]) -> bool:
    for folder in folders:
        _, files = listing.inside(f"{folder}/")
        if any(map(is_image_name, files)):
            return True
    return False


def _check_splits(
    layout: Layout, splits: dict[str, str], beside: Sequence[str]
) -> None:
    """Find what is wrong with the folders of the splits and with what lies beside."""
    for name in beside:
        if name not in splits:
            layout.find("unused", name, "lies beside the splits and is not used")
    if len(set(splits.values())) < len(splits):
        message = f"has two folders for a split: {', '.join(splits)}"
        layout.find("split-twice", "", message)
    if "train" not in splits.values():
        layout.find("no-train", "", f"has {' and '.join(splits)} but no train")


def _add_classes(layout: Layout, listing: _Listing, place: str, split: str) -> None:
    """Add the classes of a split, which lies in a place, and their files."""
    folders, files = listing.inside(place)
    for name in files:
        path = f"{place}{name}"
        kind = "stray" if is_image_name(name) else "other-file"
        layout.find(kind, path, "lies outside of any class")
        if kind == "stray":
            layout.files.append(FolderFile(path, split, ""))
    for label in folders:
        folder = f"{place}{label}"
        below, files = listing.inside(f"{folder}/")
        layout.classes[folder] = FolderFile(folder, split, label)
        for name in files:
            layout.files.append(FolderFile(f"{folder}/{name}", split, label))
        for name in below:
            message = "is a folder in a class: move its images up"
            layout.find("nested", f"{folder}/{name}", message)
