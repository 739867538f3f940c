"""A folder of images with one sub folder per class.

It is <class>/*, or train/<class>/* beside val/<class>/* and test/<class>/*.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..errors import UserError
from ..images.decode import image_extensions
from .bands import channels_of, learnt_first
from .image_set import FileSet, ImageSet
from .layout import Layout, walk
from .names import is_image_name
from .passed_over import in_words

_MOST_DIGITS = 1000  # of the number of a class

LabelledFile = tuple[str, str]
"""An image's path relative to the root, with forward slashes, and its class's name."""


def read_folder(path: Path) -> dict[str, ImageSet]:
    """Return the splits of a folder of images.

    Files of systems are passed over; other files without an image's ending too, and the
    image sets say so. A class of validation or test images may be empty.

    Args:
        path: A folder with a sub folder per class, or with the splits.

    Raises:
        UserError: The folder is missing or empty, images lie outside of a class, a
            class is empty or has sub folders, or val or test has a class that train has
            not.
    """
    if not path.is_dir():
        raise UserError(
            f"there is no folder {str(path)!r}: expected one with a sub folder of "
            "images per class"
        )
    layout = walk(path)
    layout.refuse_faults()
    found: dict[str, list[LabelledFile]] = {}
    for file in layout.files:
        if is_image_name(file.path):
            found.setdefault(file.split, []).append((file.path, file.label))
    if not found:
        passed = in_words(layout.passed_over, layout.unused)
        only = f", only {passed}" if passed else ""
        raise UserError(
            f"there are no images in {str(path)!r}{only}: expected a sub folder of images "
            "per class"
        )
    _need_images_of_all(layout)
    return labelled_files(
        path, found, passed_over=in_words(layout.passed_over, layout.unused)
    )


def _need_images_of_all(layout: Layout) -> None:
    """Refuse a class to learn that has no images."""
    counts: Counter[str] = Counter()
    others: dict[str, Counter[str]] = {}
    for file in layout.files:
        if is_image_name(file.path):
            counts[file.label] += 1
        else:
            ending = Path(file.path).suffix.lower()
            others.setdefault(file.label, Counter())[ending] += 1
    for folder, (_, split, label) in layout.classes.items():
        if split != "train" or counts[label]:
            continue
        what = in_words(others.get(label, Counter()))
        only = f", only {what}" if what else ""
        endings = ", ".join(sorted(image_extensions()))
        raise UserError(
            f"the class {str(layout.root / folder)!r} has no images{only} ({endings})"
        )


def labelled_files(
    root: Path,
    found: Mapping[str, Sequence[LabelledFile]],
    *,
    passed_over: str = "",
) -> dict[str, ImageSet]:
    """Return image sets of labelled files; the classes are those of train, if it is there.

    Args:
        root: The folder that the files' paths are relative to.
        found: The files of each split.
        passed_over: What was left out, in words.

    Raises:
        UserError: A split has a class that train has not.
    """
    teachers = [found["train"]] if "train" in found else list(found.values())
    classes = sorted({label for files in teachers for _, label in files}, key=natural)
    number = {label: k for k, label in enumerate(classes)}
    channels = channels_of(root, (name for name, _ in learnt_first(found)))
    splits: dict[str, ImageSet] = {}
    for split, files in found.items():
        unknown = {label for _, label in files} - number.keys()
        if unknown:
            raise UserError(
                f"{split} of {str(root)!r} has the class {min(unknown)!r}, which train "
                "does not have"
            )
        names = [name for name, _ in files]
        labels = [number[label] for _, label in files]
        splits[split] = FileSet(root, names, labels, classes, channels=channels)
        splits[split].passed_over = passed_over
    return splits


def natural(label: str) -> tuple[bool, int, str]:
    """Return the key that sorts numbers by value and before names: 9 before 10.

    Args:
        label: The name of a class.
    """
    # Only ASCII digits: int() also reads others, and "³".isdigit() is true. Python
    # refuses to convert thousands of them, and nobody counts so far.
    if len(label) <= _MOST_DIGITS and label.isascii() and label.isdigit():
        return False, int(label), label
    return True, 0, label
