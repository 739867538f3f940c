"""Where to compute, and in which precision."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch

from .choices import Precision
from .errors import UserError


def pick_device(name: str) -> torch.device:
    """`auto` is a GPU if there is one (CUDA, MPS, ...), else the CPU; `UserError` for a
    device that is not there.
    """
    if name == "auto":
        accelerator = (
            torch.accelerator.current_accelerator()
            if torch.accelerator.is_available()
            else None
        )
        return accelerator or torch.device("cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (
        RuntimeError,
        AssertionError,
        NotImplementedError,
    ) as error:  # each is torch's for some absent device
        reason = str(error).splitlines()[0]
        raise UserError(
            f"cannot use the device {name!r} ({reason}); use cpu or auto"
        ) from error
    return device


def cuda_is_available() -> bool:
    """Whether torch sees a CUDA device."""
    return torch.cuda.is_available()


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[Any]:
    """Mixed precision for the forward pass.

    `auto` is bf16 on a CUDA device that computes in it, else fp32: on CPUs without
        AVX-512 or AMX bf16 is ten times
    slower than fp32, so there it must be asked for.
    """
    automatic = (
        precision == "auto" and device.type == "cuda" and torch.cuda.is_bf16_supported()
    )
    if precision == "bf16" or automatic:
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext()


@contextmanager
def cpu_threads(count: int | None) -> Iterator[None]:
    """Compute with this many CPU threads inside the block; None leaves torch's choice,
    one per core.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def keep_memory() -> None:
    """Have glibc keep what a training step frees, for the next step: for a process that
    does nothing else.

    By default it gives every tensor of some megabytes back to the system, which then
    clears the same pages again: 180,000 page faults in a step of S/16 on a CPU, 5 % of
    its time. Elsewhere than on Linux nothing happens.
    """
    threshold, trim, most = (
        -3,
        -1,
        2**31 - 1,
    )  # M_MMAP_THRESHOLD and M_TRIM_THRESHOLD of malloc.h
    with contextlib.suppress(
        OSError, AttributeError
    ):  # other systems, other C libraries
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        mallopt(threshold, 2**30)
        mallopt(trim, most)
