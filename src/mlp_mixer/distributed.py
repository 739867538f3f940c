"""Process groups and ranks, under the names of torch.distributed.

A single process needs none of them, and then nothing here touches torch.distributed.
torchrun starts the processes and tells them of each other by environment variables;
this package has no launcher of its own.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from .errors import UserError

T = TypeVar("T")
# For a process that does not answer; loading and evaluation count against it.
_TIMEOUT = timedelta(minutes=10)


def active() -> bool:
    """Return whether this process is one of several (a process group exists)."""
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """Return this process's number, 0 for a single process."""
    return dist.get_rank() if active() else 0


def world_size() -> int:
    """Return how many processes work together, 1 for a single process."""
    return dist.get_world_size() if active() else 1


def is_main() -> bool:
    """Return whether this process writes files and messages for all."""
    return rank() == 0


def restarts() -> int:
    """Return how often torchrun has restarted the processes, 0 without torchrun."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


@contextmanager
def process_group() -> Iterator[None]:
    """Initialise the process group for the block.

    Nothing happens for a single process, or if a group exists already.

    Raises:
        UserError: The environment is not torchrun's, or the others cannot be reached.
    """
    if active() or int(os.environ.get("WORLD_SIZE", "1")) <= 1:
        yield
        return
    try:
        _initialise()
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"WORLD_SIZE is {os.environ.get('WORLD_SIZE')}, but the processes cannot "
            f"join ({error}); start them with torchrun --nproc-per-node N -m mlp_mixer "
            "train ..."
        ) from error
    try:
        yield
        # A process that leaves early would cut the connections of the others.
        dist.barrier()
    finally:
        dist.destroy_process_group()


def _initialise() -> None:
    """Join the group that torchrun describes in the environment."""
    store, number, size = next(iter(rendezvous("env://", timeout=_TIMEOUT)))
    # Each restart uses its own names in the shared store: with the old ones, gloo
    # connects to processes that are dead.
    store = dist.PrefixStore(f"mlp_mixer/{restarts()}", store)  # type: ignore[attr-defined]
    backend = "gloo"
    if torch.cuda.is_available():
        local_rank = int(os.environ.get("LOCAL_RANK", "0"))
        torch.cuda.set_device(local_rank % torch.cuda.device_count())
        backend = "cpu:gloo,cuda:nccl"
    dist.init_process_group(
        backend, store=store, rank=number, world_size=size, timeout=_TIMEOUT
    )


def all_reduce_max(value: int) -> int:
    """Return the largest value that any process has."""
    if not active():
        return value
    largest = torch.tensor(value)
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    return int(largest.item())


def all_reduce_mean(value: torch.Tensor) -> torch.Tensor:
    """Replace a tensor by its mean over the processes, in place, and return it."""
    if active():
        dist.all_reduce(value)
        value /= world_size()
    return value


def gathered_rows(rows: torch.Tensor) -> torch.Tensor:
    """Return the rows of all processes, in the order of their ranks, with gradients.

    For a loss that every process computes alike from all rows, and whose gradients are
    averaged over the processes afterwards: each then has the gradient of the whole.

    Args:
        rows: (B, ...), as many in every process.

    Returns:
        (B * processes, ...).
    """
    if not active():
        return rows
    gathered: torch.Tensor = _GatheredRows.apply(rows)
    return gathered


class _GatheredRows(torch.autograd.Function):
    """Gathers rows; gradients go back to this process's own ones."""

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor) -> torch.Tensor:
        parts = [torch.empty_like(rows) for _ in range(world_size())]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        # All processes compute the same loss, so the others' gradients of these rows
        # are known here: times their number, because they will be averaged.
        (gradient,) = gradients
        own = gradient.chunk(world_size())[rank()]
        return own * world_size()


def all_gather(value: T) -> list[T]:
    """Return every process's value, in the order of their ranks.

    Args:
        value: Plain Python or NumPy values; they are pickled.
    """
    values: list[T | None] = [value] * world_size()
    if active():
        dist.all_gather_object(values, value)
    return values  # type: ignore[return-value]


def barrier() -> None:
    """Wait until every process has come here."""
    if active():
        # Not dist.barrier: it would need a device for NCCL before one is used.
        all_gather(None)


def check_same_on_all_ranks(value: object, what: str) -> None:
    """Check that all processes have the same value.

    Args:
        value: Plain Python values.
        what: Its name in the error.

    Raises:
        UserError: They differ, so the processes would train different things.
    """
    values = all_gather(value)
    if any(other != values[0] for other in values):
        raise UserError(
            f"the processes disagree about {what} ({values}); give them the same data "
            "and an --out that all share"
        )
