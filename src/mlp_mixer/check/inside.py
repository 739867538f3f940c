"""Move files between two folders, inside them and through no link.

A folder of pictures may come from a stranger: one of its classes may be a link to
somewhere else, or become one a moment later. So each step of a path is opened from the
folder above it, and a link is no step (POSIX). Other systems look before they move.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

_FROM_HANDLES = os.open in os.supports_dir_fd and os.rename in os.supports_dir_fd
_STEP = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NOFOLLOW", 0)


def is_inside(folder: Path, name: object) -> bool:
    """Return whether a name is that of something in a folder, with no link on the way.

    Args:
        folder: The folder. It may be a link itself: its owner gave it.
        name: A path with forward slashes; what it names need not be there.
    """
    if not isinstance(name, str) or not name or "\0" in name:
        return False
    parts = Path(name)
    if parts.is_absolute() or parts.drive or ".." in parts.parts or not parts.parts:
        return False
    return not any((folder / above).is_symlink() for above in parts.parents[:-1])


def move(source: Path, name: str, target: Path, place: str) -> None:
    """Move a file, a link or a folder; the folders above its new place are made.

    Args:
        source: The folder that it is in.
        name: Its path there.
        target: The folder that it moves into.
        place: Its path there.

    Raises:
        OSError: The system refuses, something has that place, or a link is on the way.
    """
    if not _FROM_HANDLES:
        _look_and_move(source, name, target, place)
        return
    with _parent(source, name) as above, _parent(target, place, make=True) as below:
        base, new = Path(name).name, Path(place).name
        # A rename would replace what is there.
        with contextlib.suppress(FileNotFoundError):
            os.stat(new, dir_fd=below, follow_symlinks=False)
            raise FileExistsError(17, "something has its place")
        os.rename(base, new, src_dir_fd=above, dst_dir_fd=below)


@contextlib.contextmanager
def _parent(folder: Path, name: str, *, make: bool = False) -> Iterator[int]:
    """Open the folder that holds a name, step by step."""
    handle = os.open(folder, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
    try:
        for step in Path(name).parts[:-1]:
            if make:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(step, dir_fd=handle)
            below = os.open(step, _STEP, dir_fd=handle)
            os.close(handle)
            handle = below
        yield handle
    finally:
        os.close(handle)


def _look_and_move(source: Path, name: str, target: Path, place: str) -> None:
    if not (is_inside(source, name) and is_inside(target, place)):
        raise OSError(20, "a link is on the way")
    new = target / place
    new.parent.mkdir(parents=True, exist_ok=True)
    if os.path.lexists(new):
        raise FileExistsError(17, "something has its place")
    (source / name).rename(new)
