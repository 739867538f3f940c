"""What the names of files and folders say: splits, images, what systems leave behind."""

from __future__ import annotations

import os
from collections.abc import Sequence

from ..errors import UserError
from ..images.decode import image_extensions

SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
    "eval": "test",
    "evaluation": "test",
}
"""What people call the splits, in lower case, and what we call them.

As in the `datasets` library of Hugging Face.
"""

# What operating systems, disks and storage boxes leave behind, in lower case.
_SYSTEM_BEGINNINGS = (".", "__macosx", "@eadir", "#recycle", "$recycle.bin")
_SYSTEM_NAMES = {
    "thumbs.db",
    "desktop.ini",
    "lost+found",
    "system volume information",
}


def is_image_name(name: str) -> bool:
    """Return whether a file has the ending of an image that can be decoded.

    Args:
        name: The file's name or path.
    """
    return ending_of(name) in image_extensions()


def is_system_name(name: str) -> bool:
    """Return whether a file or folder is hidden, or left behind by a system.

    Args:
        name: Its name.
    """
    small = name.lower()
    return small.startswith(_SYSTEM_BEGINNINGS) or small in _SYSTEM_NAMES


def is_text(name: str) -> bool:
    """Return whether a name can be written down: one of a file may be any bytes.

    Args:
        name: Of a file, a folder or a class.
    """
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def checked_classes(classes: Sequence[str]) -> tuple[str, ...]:
    """Return the names of classes, if files and checkpoints can hold them.

    Args:
        classes: The names.

    Raises:
        UserError: One of them cannot be written down.
    """
    for name in classes:
        if not is_text(name):
            raise UserError(
                f"the class {name!r} has a name that is not UTF-8: rename it"
            )
    return tuple(classes)


def ending_of(name: str) -> str:
    """Return the ending of a name in lower case, with its dot.

    Args:
        name: The file's name or path.
    """
    # A Path is slow for a million names.
    return os.path.splitext(name)[1].lower()  # noqa: PTH122
