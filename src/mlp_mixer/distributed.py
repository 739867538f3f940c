"""Process groups and ranks. A single process needs none of them, and then nothing here touches torch.distributed."""

from __future__ import annotations

import os

import torch.distributed as dist

from .errors import UserError


def active() -> bool:
    """Whether this process is one of several (a process group exists)."""
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """This process's number, 0 when alone."""
    return dist.get_rank() if active() else 0


def world_size() -> int:
    """How many processes work together, 1 when alone."""
    return dist.get_world_size() if active() else 1


def refuse_launcher() -> None:
    """Several processes that do not know of each other would overwrite each other's files: stop before they do."""
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if launched > 1 and not active():
        raise UserError(
            f"started as one of {launched} processes (WORLD_SIZE), but this version trains in one process; "
            "run `mlp-mixer train` without a launcher"
        )
