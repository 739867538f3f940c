"""The files of a run's saved states: which there are, and which are removed."""

from __future__ import annotations

import re
from pathlib import Path

_KEEP = 2

STATE_NAME = re.compile(r"step-(\d+)(?:\.part-(\d+)-of-(\d+))?\.safetensors")
"""The step; then, of sharded weights, which part of how many."""


def complete_states(out: Path) -> list[tuple[Path, ...]]:
    """Return the files of each complete state, the newest first.

    Args:
        out: The folder of the run.
    """
    # (step, number of parts) -> part -> file. The number belongs to the key: runs with
    # other numbers of processes may have left parts of the same step.
    found: dict[tuple[int, int], dict[int, Path]] = {}
    for path in (out / "state").glob("step-*.safetensors"):
        match = STATE_NAME.fullmatch(path.name)
        if match:
            key = int(match[1]), int(match[3] or 1)
            found.setdefault(key, {})[int(match[2] or 0)] = path
    complete = []
    for key in sorted(found, reverse=True):
        parts = found[key]
        if len(parts) == key[1]:
            complete.append(tuple(parts[number] for number in sorted(parts)))
    return complete


def forget_states(out: Path, *, after: int = -1) -> None:
    """Remove the states after a step: another run wrote them, or one that went on.

    Args:
        out: The folder of the run.
        after: The newest step to keep; -1 removes all states.
    """
    for path in (out / "state").glob("step-*.safetensors"):
        match = STATE_NAME.fullmatch(path.name)
        if match and int(match[1]) > after:
            path.unlink(missing_ok=True)


def prune_states(out: Path) -> None:
    """Remove all but the newest two complete states.

    Nothing is removed of a state whose parts are still being written.

    Args:
        out: The folder of the run.
    """
    for files in complete_states(out)[_KEEP:]:
        for path in files:
            path.unlink(missing_ok=True)
