"""Which folders of a folder are splits, which are classes, and what fits neither.

Reading and checking a dataset both ask here, so that they agree on what is refused.
"""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from ..errors import UserError, listed
from .names import (
    SPLIT_NAMES,
    ending_of,
    is_image_name,
    is_system_name,
    is_text,
)

_MOST_NAMES = 3  # names in a message


class FolderFile(NamedTuple):
    """Say where a file of the folder belongs.

    Attributes:
        path: Relative to the folder.
        split: "train", "val" or "test".
        label: The name of its class; empty outside of any class.
    """

    path: str
    split: str
    label: str


class Fault(NamedTuple):
    """Say what is wrong with a file or folder.

    Attributes:
        kind: One word for faults alike.
        path: Relative to the folder; empty for the whole folder.
        message: What is wrong, to be read after the path.
        fatal: Whether the folder cannot be read.
    """

    kind: str
    path: str
    message: str
    fatal: bool

    def sentence(self, root: Path) -> str:
        """Return the message with the place of the file or folder.

        Args:
            root: The folder that the path is relative to.
        """
        return f"{str(root / self.path)!r} {self.message}"


@dataclass
class Layout:
    """Hold the files and the classes of a folder.

    Attributes:
        root: The folder.
        files: The files in classes, and pictures outside of any.
        classes: The classes by the paths of their folders.
        faults: What is wrong with the folders.
        passed_over: How many files have an ending (in lower case with dot, or empty)
            that is no picture's.
        unused: The folders beside the splits.
    """

    root: Path
    files: list[FolderFile] = field(default_factory=list)
    classes: dict[str, FolderFile] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    passed_over: Counter[str] = field(default_factory=Counter)
    unused: list[str] = field(default_factory=list)

    def fault(self, kind: str, path: str, message: str, *, fatal: bool = True) -> None:
        """Add a fault; arguments as of `Fault`."""
        self.faults.append(Fault(kind, path, message, fatal))

    def refuse_faults(self) -> None:
        """Raise the first fault with which the folder cannot be read.

        Raises:
            UserError: There is one.
        """
        for fault in self.faults:
            if fault.fatal:
                raise UserError(fault.sentence(self.root))


def walk(root: Path) -> Layout:
    """List root/<class>/* or root/<split>/<class>/*.

    Args:
        root: A folder that exists.

    Returns:
        The files, the classes, and what is wrong with the folders.
    """
    layout = Layout(root)
    listing = _Listing(layout)
    folders, files = listing.inside("")
    splits = _splits(listing, folders)
    if splits:
        _check_splits(layout, splits, folders)
        _pass_over(layout, "", files, beside=True)
        # What is wrong with the images to learn from is said first.
        for name, split in sorted(splits.items(), key=_train_first):
            if _is_flat(layout, listing, name) or _is_vacant(layout, listing, name):
                continue
            _add_classes(layout, listing, f"{name}/", split)
        return layout
    if _any_has_images(listing, folders):
        _add_classes(layout, listing, "", "train")
    elif any(map(is_image_name, files)):
        layout.fault(
            "no-classes",
            "",
            "has pictures but no sub folder of them per class, which training needs",
        )
        layout.files = [FolderFile(name, "train", "") for name in files]
    elif not _names_what_is_meant(layout, listing, folders):
        _add_classes(layout, listing, "", "train")
    return layout


def looks_like_classes(root: Path) -> bool:
    """Tell whether a folder holds folders of images, or splits that do.

    Args:
        root: A folder that exists.
    """
    listing = _Listing(Layout(root))
    folders, _ = listing.inside("")
    if _any_has_images(listing, folders):
        return True
    return any(_holds_classes(listing, name) for name in folders)


class _Listing:
    """Lists places below a root, each once, and notes what is wrong with them."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._known: dict[str, tuple[list[str], list[str]]] = {}

    def inside(self, place: str) -> tuple[list[str], list[str]]:
        """Return the folders and the other files in a place ("" or "folder/")."""
        if place not in self._known:
            self._known[place] = self._list(place)
        return self._known[place]

    def has_images(self, place: str) -> bool:
        """Tell whether a place holds images itself."""
        return any(map(is_image_name, self.inside(place)[1]))

    def _list(self, place: str) -> tuple[list[str], list[str]]:
        folder = self._layout.root / place
        folders: list[str] = []
        files: list[str] = []
        hidden = 0
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if is_system_name(entry.name):
                        hidden += 1
                    elif _is_folder(entry):
                        folders.append(entry.name)
                    else:
                        files.append(entry.name)
        except OSError as error:
            message = f"cannot be looked into: {error.strerror}"
            self._layout.fault("no-access", place, message)
            return [], []
        if hidden:
            message = f"has {hidden} hidden or system files"
            self._layout.fault("hidden", place, message, fatal=False)
        # The order of a folder differs between file systems; that of images must not.
        folders.sort()
        files.sort()
        # A walk into a link to a folder above would never end.
        looping = {name for name in folders if _leads_back_up(folder, name)}
        for name in sorted(looping):
            message = "is a link that leads back up: remove it"
            self._layout.fault("link-loop", f"{place}{name}", message)
        return [name for name in folders if name not in looping], files


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    # A link to itself.
    except OSError:
        return False


def _leads_back_up(folder: Path, name: str) -> bool:
    link = folder / name
    return link.is_symlink() and folder.resolve().is_relative_to(link.resolve())


def _any_has_images(listing: _Listing, folders: Sequence[str]) -> bool:
    return any(listing.has_images(f"{folder}/") for folder in folders)


def _splits(listing: _Listing, folders: Sequence[str]) -> dict[str, str]:
    """Return the folders that are splits, and of which; none if they are classes.

    Trains, tests and valleys are things in pictures too. A split holds folders, a class
    holds pictures beside other classes that do.
    """
    named = {name: SPLIT_NAMES.get(name.lower(), "") for name in folders}
    splits = {name: split for name, split in named.items() if split}
    if any(_holds_classes(listing, name) for name in splits):
        return splits
    others = [name for name in folders if name not in splits]
    if _any_has_images(listing, list(splits)) and _any_has_images(listing, others):
        return {}
    return splits


def _train_first(item: tuple[str, str]) -> tuple[bool, str]:
    name, split = item
    return split != "train", name


def _holds_classes(listing: _Listing, name: str) -> bool:
    below, _ = listing.inside(f"{name}/")
    count = sum(listing.has_images(f"{name}/{label}/") for label in below)
    return count > 1 or (count == 1 and not listing.has_images(f"{name}/"))


def _check_splits(
    layout: Layout, splits: dict[str, str], folders: Sequence[str]
) -> None:
    """Find what is wrong with the folders of the splits and with what lies beside."""
    layout.unused = [name for name in folders if name not in splits]
    known = ", ".join(SPLIT_NAMES)
    for name in layout.unused:
        message = f"lies beside the splits and is not used (splits are called {known})"
        layout.fault("unused", name, message, fatal=False)
    counts = Counter(splits.values())
    split, count = counts.most_common(1)[0]
    if count > 1:
        names = " and ".join(name for name in splits if splits[name] == split)
        message = f"has two folders for the split {split!r} ({names}): keep one of them"
        layout.fault("split-twice", "", message)
    if "train" not in splits.values():
        message = f"has {' and '.join(splits)} but no train: expected train/<class>/*"
        # A test set alone can still be evaluated on.
        layout.fault("no-train", "", message, fatal=False)


def _is_flat(layout: Layout, listing: _Listing, name: str) -> bool:
    """Refuse a split of pictures without classes as a whole, not picture by picture."""
    below, _ = listing.inside(f"{name}/")
    if below or not listing.has_images(f"{name}/"):
        return False
    split = SPLIT_NAMES[name.lower()]
    advice = f"sort them into {name}/<class>/*"
    if split != "train":
        advice += ", or give the folder of training images alone, or predict them"
    message = f"has pictures but no folders of classes: {advice}"
    layout.fault("flat-split", name, message)
    return True


def _is_vacant(layout: Layout, listing: _Listing, name: str) -> bool:
    """Pass over a folder for validation or test images that holds none."""
    folders, files = listing.inside(f"{name}/")
    if SPLIT_NAMES[name.lower()] == "train" or files:
        return False
    if any(any(listing.inside(f"{name}/{label}/")) for label in folders):
        return False
    layout.unused.append(name)
    layout.fault("unused", name, "has no pictures and is not used", fatal=False)
    return True


def _names_what_is_meant(
    layout: Layout, listing: _Listing, folders: Sequence[str]
) -> bool:
    """Find classes that lie one level deeper, where moving images up would mix them."""
    inside = {name: listing.inside(f"{name}/")[0] for name in folders}
    with_folders = [name for name in folders if inside[name]]
    if not with_folders:
        return False
    if len(with_folders) == 1:
        place = _only_folder(listing, with_folders[0])
        message = (
            f"holds the folders of classes: did you mean folder:{layout.root / place}?"
        )
        layout.fault("wrapped", place, message)
        return True
    first, second, *_ = with_folders
    if set(inside[first]) & set(inside[second]):
        labels = listed(inside[first], _MOST_NAMES, ", ")
        message = (
            f"and {second!r} hold folders of the same names ({labels}), as splits do: "
            "call them train, val or test, or give one of them"
        )
        layout.fault("unknown-split", first, message)
        return True
    return False


def _only_folder(listing: _Listing, place: str) -> str:
    """Go down where a folder holds one folder of folders, as a zip in a zip does."""
    below, _ = listing.inside(f"{place}/")
    while len(below) == 1 and not listing.has_images(f"{place}/{below[0]}/"):
        deeper, _ = listing.inside(f"{place}/{below[0]}/")
        if not deeper:
            break
        place = f"{place}/{below[0]}"
        below = deeper
    return place


def _add_classes(layout: Layout, listing: _Listing, place: str, split: str) -> None:
    """Add the classes of a split, which lies in a place, and their files."""
    folders, files = listing.inside(place)
    for name in filter(is_image_name, files):
        path = f"{place}{name}"
        message = "lies outside of any class: put it into the folder of its class"
        layout.fault("stray", path, message)
        layout.files.append(FolderFile(path, split, ""))
    _pass_over(layout, place, files)
    for label in folders:
        folder = f"{place}{label}"
        if not is_text(label):
            message = (
                "is a class whose name is not UTF-8, as zips of other systems leave "
                "behind: rename the folder"
            )
            layout.fault("bad-name", folder, message)
        # macOS spells an accent as a letter of its own.
        name_of_class = unicodedata.normalize("NFC", label)
        below, files = listing.inside(f"{folder}/")
        layout.classes[folder] = FolderFile(folder, split, name_of_class)
        for name in files:
            path = f"{folder}/{name}"
            layout.files.append(FolderFile(path, split, name_of_class))
            if not is_image_name(name):
                layout.passed_over[ending_of(name)] += 1
        for name in below:
            message = (
                f"is a folder in the class {label!r}: move its images up, or, if "
                f"{label!r} is no class but holds classes, give folder:"
                f"{layout.root / folder}"
            )
            layout.fault("nested", f"{folder}/{name}", message)


def _pass_over(
    layout: Layout, place: str, files: Sequence[str], *, beside: bool = False
) -> None:
    """Count the files in a place that are in no class; beside splits pictures too."""
    for name in files:
        is_image = is_image_name(name)
        if is_image and not beside:
            continue
        layout.passed_over[ending_of(name)] += 1
        kind = "unused" if is_image else "other-file"
        message = "lies outside of any class"
        layout.fault(kind, f"{place}{name}", message, fatal=False)
