"""Move files out of a folder and back: nothing is deleted or replaced, and a kill at
any instant can be undone.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from ..errors import UserError
from ..files import locked_folder, make_folder, write_bytes

_MANIFEST = "manifest.json"


def place_for(root: Path) -> Path:
    """Where the files of a folder are set aside: FOLDER.set-aside beside it, on the
    same disk.
    """
    real = root.resolve()
    return real.with_name(f"{real.name}.set-aside")


def set_aside(root: Path, names: Iterable[str]) -> int:
    """Move these files or folders, relative to root, to the same names in
    `place_for(root)`; how many were moved.

    The manifest (place there -> place in root, in the order of the moves) is on the
    disk before the first move. `UserError` if the disk refuses; what was moved by then
    can be undone.
    """
    deepest_first = sorted(set(names), key=lambda name: (-name.count("/"), name))
    if not deepest_first:
        return 0
    aside = make_folder(place_for(root))
    with locked_folder(aside):
        moves = _manifest(aside)
        new: dict[str, str] = {}
        taken = {_MANIFEST}
        for name in filter(lambda name: os.path.lexists(root / name), deepest_first):
            free = name
            number = 2
            while free in taken or os.path.lexists(aside / free):
                free = f"{name}.{number}"
                number = number + 1
            taken |= {free, *map(str, Path(free).parents)}
            new[free] = name
        old = {there: name for there, name in moves.items() if there not in new}
        write_bytes(
            aside / _MANIFEST, json.dumps(old | new, indent=1).encode()
        )  # ASCII: any name of a file survives
        for there, name in new.items():
            _move(root / name, aside / there)
    return len(new)


def put_back(root: Path) -> tuple[int, list[str]]:
    """Undo all of `set_aside`; how many came back, and the names that could not because
    something is there now.

    May be stopped and called again. `UserError` if nothing was set aside, or the disk
    refuses.
    """
    aside = place_for(root)
    if not (aside / _MANIFEST).is_file():
        raise UserError(
            f"nothing of {str(root)!r} was set aside: there is no {str(aside / _MANIFEST)!r}"
        )
    with locked_folder(aside):
        moves = _manifest(aside)
        blocked = {}
        done = 0
        for there, name in reversed(
            moves.items()
        ):  # a class that became empty comes back before its pictures
            if os.path.lexists(aside / there) and os.path.lexists(root / name):
                blocked[there] = name
            elif os.path.lexists(aside / there):
                _move(aside / there, root / name)
                done += 1
        if blocked:
            write_bytes(
                aside / _MANIFEST,
                json.dumps(dict(reversed(blocked.items())), indent=1).encode(),
            )
            return done, sorted(blocked.values())
        (aside / _MANIFEST).unlink()
    for folder in (
        *sorted((path for path in aside.rglob("*") if path.is_dir()), reverse=True),
        aside,
    ):
        with suppress(OSError):  # something else lies there
            folder.rmdir()
    return done, []


def _manifest(aside: Path) -> dict[str, str]:
    try:
        moves: dict[str, str] = json.loads((aside / _MANIFEST).read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UserError(
            f"cannot read {str(aside / _MANIFEST)!r} ({error}); move it away to begin anew"
        ) from error
    return moves


def _move(source: Path, target: Path) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        source.rename(target)
    except OSError as error:
        raise UserError(
            f"cannot move {str(source)!r} to {str(target)!r}: {error.strerror}; --undo puts back what was moved"
        ) from error
