"""Process groups and ranks. A single process needs none of them, and then nothing here
touches torch.distributed.

torchrun starts the processes and tells them of each other by environment variables;
there is no launcher of our own.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from .errors import UserError

T = TypeVar("T")
_PATIENCE = timedelta(
    minutes=10
)  # for a process that does not answer; loading and evaluation count against it


def active() -> bool:
    """Whether this process is one of several (a process group exists)."""
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """This process's number, 0 when alone."""
    return dist.get_rank() if active() else 0


def world_size() -> int:
    """How many processes work together, 1 when alone."""
    return dist.get_world_size() if active() else 1


def is_main() -> bool:
    """Whether this process speaks and writes for all."""
    return rank() == 0


def restarts() -> int:
    """How often torchrun has restarted the processes, 0 without it."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


@contextmanager
def process_group() -> Iterator[None]:
    """Inside the block, the processes that torchrun started know each other; alone, or
    once joined, nothing happens.

    Each restart uses its own names in the shared store: with the old ones, gloo
        connects to processes that are dead.
    Raises `UserError` if the environment is not torchrun's, or the others cannot be
    reached.
    """
    if active() or int(os.environ.get("WORLD_SIZE", "1")) <= 1:
        yield
        return
    try:
        store, number, size = next(iter(rendezvous("env://", timeout=_PATIENCE)))
        store = dist.PrefixStore(f"mlp_mixer/{restarts()}", store)  # type: ignore[attr-defined]
        cuda = torch.cuda.is_available()
        if cuda:
            torch.cuda.set_device(
                int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count()
            )
        backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"
        dist.init_process_group(
            backend, store=store, rank=number, world_size=size, timeout=_PATIENCE
        )
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"WORLD_SIZE is {os.environ.get('WORLD_SIZE')}, but the processes cannot join ({error}); "
            "start them with torchrun --nproc-per-node N -m mlp_mixer train ..."
        ) from error
    try:
        yield
        dist.barrier()  # nobody leaves while another still talks to it
    finally:
        dist.destroy_process_group()


def all_reduce_max(value: int) -> int:
    """The largest value that any process has."""
    if not active():
        return value
    largest = torch.tensor(value)
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    return int(largest.item())


def all_gather(value: T) -> list[T]:
    """Every process's value, in the order of their ranks; plain Python and NumPy
    values.
    """
    values: list[T | None] = [value] * world_size()
    if active():
        dist.all_gather_object(values, value)
    return values  # type: ignore[return-value]


def barrier() -> None:
    """Go on when every process has come here."""
    if active():
        all_gather(None)


def all_reduce_mean(value: torch.Tensor) -> torch.Tensor:
    """The mean over the processes, in place, on the tensor's device."""
    if active():
        dist.all_reduce(value)
        value /= world_size()
    return value
