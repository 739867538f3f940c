"""Move files out of a folder and back.

Nothing is deleted or replaced, and a kill at any instant can be undone: a manifest of
all moves is on the disk before the first one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from ..errors import UserError
from ..files import locked_folder, make_folder, possible, read_json, write_bytes
from .inside import is_inside, move

_MANIFEST = "manifest.json"
_LOCK = ".claimed"
_MOST_MOVES = 1_000_000


def place_for(root: Path) -> Path:
    """Return where files of a folder are set aside: FOLDER.set-aside beside it.

    There they stay on the same disk, so a move is a rename.

    Args:
        root: The folder.
    """
    real = root.resolve()
    return real.with_name(f"{real.name}.set-aside")


def set_aside(root: Path, names: Iterable[str]) -> int:
    """Move files or folders to the same names in `place_for(root)`.

    Args:
        root: The folder.
        names: What to move, relative to it.

    Returns:
        How many were moved.

    Raises:
        UserError: A name lies outside of the folder or behind a link: then nothing is
            moved. Or the disk refuses; what was moved by then can be undone.
    """
    # Files go before their folder, which is moved only once it is empty.
    deepest_first = sorted(set(names), key=lambda name: (-name.count("/"), name))
    if not deepest_first:
        return 0
    _need_inside(root, deepest_first)
    aside = make_folder(_checked_place(root))
    with locked_folder(aside, _LOCK):
        present = [name for name in deepest_first if os.path.lexists(root / name)]
        new = _choose_places(aside, present)
        _need_inside(aside, new)
        # A place that is named again was left by a killed run, which did not reach it.
        moves = {
            place: name
            for place, name in _manifest(aside, root).items()
            if place not in new
        }
        _write_manifest(aside, moves | new)
        for place, name in new.items():
            _move(root, name, aside, place)
    return len(new)


def _need_inside(folder: Path, names: Iterable[str]) -> None:
    for name in names:
        if not is_inside(folder, name):
            raise UserError(
                f"{str(folder / name)!r} does not lie inside {str(folder)!r}, or behind "
                "a link: nothing was moved; replace the link by what it leads to"
            )


def _choose_places(aside: Path, names: Iterable[str]) -> dict[str, str]:
    """Choose a free place for each name: its own, or with a number behind it."""
    chosen: dict[str, str] = {}
    taken = {_MANIFEST, _LOCK}
    for name in names:
        free = name
        number = 2
        while free in taken or os.path.lexists(aside / free):
            free = f"{name}.{number}"
            number += 1
        # The folders above a place are taken as well: no file may have their names.
        taken |= {free, *map(str, Path(free).parents)}
        chosen[free] = name
    return chosen


def put_back(root: Path) -> tuple[int, list[str]]:
    """Undo all that `set_aside` did; it may be stopped and called again.

    Args:
        root: The folder.

    Returns:
        The number of files restored, and the names whose place is taken by now.

    Raises:
        UserError: Nothing was set aside, or the disk refuses.
    """
    aside = _checked_place(possible(root))
    if not (aside / _MANIFEST).is_file():
        raise UserError(
            f"nothing of {str(root)!r} was set aside: there is no "
            f"{str(aside / _MANIFEST)!r}"
        )
    with locked_folder(aside, _LOCK):
        blocked = {}
        done = 0
        # Backwards: a class that became empty comes back before its pictures.
        for place, name in reversed(_manifest(aside, root).items()):
            if not os.path.lexists(aside / place):
                continue
            if os.path.lexists(root / name):
                blocked[place] = name
            else:
                _move(aside, place, root, name)
                done += 1
        if blocked:
            _write_manifest(aside, dict(reversed(blocked.items())))
            return done, sorted(blocked.values())
        (aside / _MANIFEST).unlink()
    _remove_empty_folders(aside)
    return done, []


def _remove_empty_folders(aside: Path) -> None:
    for folder, _, _ in os.walk(aside, topdown=False):
        # A folder with something of somebody else in it stays.
        with suppress(OSError):
            Path(folder).rmdir()


def _manifest(aside: Path, root: Path) -> dict[str, str]:
    """Return the moves in their order: place in `aside` -> name in the folder."""
    path = aside / _MANIFEST
    if not path.exists():
        return {}
    advice = "move it away to begin anew"
    moves = read_json(path, "list of moved files", advice, entries=_MOST_MOVES)
    pairs = list(moves.items()) if isinstance(moves, dict) else [("", "")]
    # A folder of pictures may come from a stranger, and this list with it: what it
    # moves must lie inside the two folders, and lead out of them by no link.
    for place, name in pairs:
        ours = place in (_MANIFEST, _LOCK)
        if ours or not (is_inside(aside, place) and is_inside(root, name)):
            shown = f"{place!r}: {str(name)!r}"[:80]
            raise UserError(
                f"cannot use the list of moved files {str(path)!r}: {shown} is no file "
                f"inside the folder; {advice}"
            )
    return dict(pairs)


def _write_manifest(aside: Path, moves: Mapping[str, str]) -> None:
    # ASCII, in which any name of a file survives, also one of broken bytes.
    write_bytes(aside / _MANIFEST, json.dumps(moves, indent=1).encode())


def _move(source: Path, name: str, target: Path, place: str) -> None:
    try:
        move(source, name, target, place)
    except OSError as error:
        raise UserError(
            f"cannot move {str(source / name)!r} to {str(target / place)!r}: "
            f"{error.strerror}; --undo puts back what was moved"
        ) from error


def _checked_place(root: Path) -> Path:
    """Return the folder for what is set aside, unless it leads somewhere else.

    Raises:
        UserError: It is a link, or its list is one.
    """
    aside = place_for(root)
    for path in (aside, aside / _MANIFEST):
        if path.is_symlink():
            raise UserError(
                f"{str(path)!r} is a link, through which nothing is moved: move it away "
                "to begin anew"
            )
    return aside
