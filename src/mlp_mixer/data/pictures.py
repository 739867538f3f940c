"""Pictures in a folder at any depth, without labels."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

from ..errors import UserError
from ..images.decode import image_extensions
from .bands import channels_of
from .image_set import FileSet
from .names import SPLIT_NAMES, ending_of, is_image_name, is_system_name
from .passed_over import in_words

UNLABELLED = "unlabelled"
"""The only class of images without labels."""


def read_pictures(path: Path) -> tuple[FileSet, str]:
    """Return all pictures of a folder, whatever its folders mean.

    Hidden files and folders, and files without an image's ending, are passed over. If
    the folder holds one that is called train, the others are its test images or what
    else is set apart, and are not read.

    Args:
        path: The folder.

    Returns:
        The pictures, all of one class, and where they are, in words.

    Raises:
        UserError: There is no such folder, or no picture in it.
    """
    if not path.is_dir():
        raise UserError(
            f"there is no folder {str(path)!r}: expected a folder of pictures, in sub "
            "folders or not"
        )
    top = _train_folder(path)
    where = f"{str(path)!r}" if top is None else f"{top!r} of {str(path)!r}"
    names, others = _names(path, top or "")
    passed_over = in_words(others)
    if not names:
        endings = ", ".join(sorted(image_extensions()))
        only = f", only {passed_over}" if passed_over else ""
        raise UserError(f"there are no pictures in {where}{only} ({endings})")
    channels = channels_of(path, names)
    images = FileSet(path, names, [0] * len(names), [UNLABELLED], channels=channels)
    images.passed_over = passed_over
    return images, where


def _train_folder(path: Path) -> str | None:
    """Return the name of the folder of training images, if the splits have folders."""
    for entry in sorted(path.iterdir()):
        if SPLIT_NAMES.get(entry.name.lower()) == "train" and entry.is_dir():
            return entry.name
    return None


def _names(root: Path, top: str) -> tuple[list[str], Counter[str]]:
    """Return the pictures below root/top, and how many files have another ending.

    The pictures are relative to root, with forward slashes.
    """
    names = []
    others: Counter[str] = Counter()
    # A link to a folder above would never end, one to a neighbour would count twice.
    seen = {os.path.realpath(root / top)}
    for folder, inside, files in os.walk(root / top, followlinks=True):
        inside.sort()
        inside[:] = [name for name in inside if _enters(folder, name, seen)]
        below = Path(folder).relative_to(root)
        for name in files:
            if is_system_name(name):
                continue
            if is_image_name(name):
                names.append((below / name).as_posix())
            else:
                others[ending_of(name)] += 1
    # The order of a folder differs between file systems; that of images must not.
    return sorted(names), others


def _enters(folder: str, name: str, seen: set[str]) -> bool:
    """Whether to look into a folder, which is then seen."""
    if is_system_name(name):
        return False
    place = os.path.realpath(Path(folder) / name)
    new = place not in seen
    seen.add(place)
    return new
