"""Choose where to compute, in which precision, and with how many threads."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch

from .choices import Precision
from .errors import UserError

# Of glibc's malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3


def pick_device(name: str | torch.device) -> torch.device:
    """Return the device of a name.

    Args:
        name: "auto" is a GPU if there is one (CUDA, MPS, ...), else the CPU; any other
            name is torch's.

    Raises:
        UserError: There is no such device here.
    """
    if name == "auto":
        if not torch.accelerator.is_available():
            return torch.device("cpu")
        return torch.accelerator.current_accelerator() or torch.device("cpu")
    try:
        device = torch.device(name)
        # A device with a valid name may still be missing: only using it tells.
        torch.empty(0, device=device)
    # Torch raises each of these for some absent device.
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"cannot use the device {str(name)!r} ({reason}); use cpu or auto"
        ) from error
    return device


def cuda_is_available() -> bool:
    """Return whether torch sees a CUDA device."""
    return torch.cuda.is_available()


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[Any]:
    """Return the context of a forward pass in mixed precision.

    Args:
        precision: "auto" is bf16 on a CUDA device that computes in it, else fp32.
            "fast" is bf16 also on a CPU that has instructions for it; on others it is
            ten times slower than fp32.
        device: Where the pass is computed.
    """
    if precision == "bf16" or _is_fast_in_bf16(precision, device):
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext()


def _is_fast_in_bf16(precision: Precision, device: torch.device) -> bool:
    """Return whether a precision that is left to us is bf16 here."""
    if precision not in ("auto", "fast"):
        return False
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    return precision == "fast" and device.type == "cpu" and cpu_computes_bf16()


def cpu_computes_bf16() -> bool:
    """Return whether this CPU has instructions that multiply bf16."""
    # Torch's own tests, which have no public names; a torch without them says no.
    for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"):
        is_supported = getattr(torch.cpu, name, None)
        if is_supported is not None and is_supported():
            return True
    return False


@contextmanager
def cpu_threads(count: int | None) -> Iterator[None]:
    """Compute with this many CPU threads inside the block.

    Args:
        count: None leaves torch's choice, one thread per core.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def keep_memory() -> None:
    """Stop glibc from returning freed tensors to the system (for processes of one job).

    By default it returns every tensor of some megabytes, and the system clears the same
    pages again for the next step: 180,000 page faults in a step of S/16 on a CPU, 5 %
    of its time. On other systems than Linux nothing happens.
    """
    # Other systems and C libraries have no such library or function.
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        # Tensors up to 1 GiB come from the heap instead of a mapping of their own ...
        mallopt(_M_MMAP_THRESHOLD, 2**30)
        # ... and the end of the heap is not returned.
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
