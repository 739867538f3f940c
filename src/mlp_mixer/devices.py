"""Choose where to compute, in which precision, and with how many threads."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch

from .choices import Computed, Precision
from .errors import UserError

Product = tuple[int, int, int]
"""Rows, inner and outer size of a matrix product."""

# On a CPU bf16 must multiply so many times as fast as fp32 to be chosen: between the
# products there are norms, which gain nothing.
LEAST_BF16_GAIN = 1.4
# Of S/16 channel mixing, some rows of an image: two milliseconds in fp32 on a core.
PRODUCT: Product = (128, 512, 1024)
_TRIAL_ROUNDS = 6
# Of a product's inner and outer size. A narrower one gains little (16 wide 1.38 times,
# where 64 wide gains twice), so a trial could say this today and that tomorrow.
_LEAST_SIDE = 64

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
        precision: "auto" is what `computed_in` finds.
        device: Where the pass is computed.
    """
    if computed_in(precision, device) == "bf16":
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext()


def computed_in(
    precision: Precision, device: torch.device, product: Product = PRODUCT
) -> Computed:
    """Return the precision that a choice comes to on a device.

    Args:
        precision: "auto" is bf16 on a CUDA device that computes in it, and on a CPU
            where a trial says that it multiplies `LEAST_BF16_GAIN` times as fast in it;
            else fp32, as with a network of narrow products.
        device: Where it is computed.
        product: Of the trial.
    """
    if precision in ("fp32", "bf16"):
        return "bf16" if precision == "bf16" else "fp32"
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    if device.type == "cpu" and min(product[1:]) >= _LEAST_SIDE:
        return "bf16" if bf16_gain(product) >= LEAST_BF16_GAIN else "fp32"
    return "fp32"


def bf16_gain(product: Product = PRODUCT) -> float:
    """Return how many times as fast as in fp32 this CPU multiplies matrices in bf16.

    A processor that has no instructions for it is ten times slower. Its name does not
    tell: a library may lack them, or a virtual machine hide them. So a product is tried
    in both, for ten milliseconds or so, once in a process.

    Args:
        product: Rows, inner and outer size of the product.
    """
    return _bf16_gain(product)


@functools.cache
def _bf16_gain(product: Product) -> float:
    rows, inner, outer = product
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, inner, generator=generator)
    weight = torch.randn(outer, inner, generator=generator)
    pairs = {"fp32": (x, weight), "bf16": (x.bfloat16(), weight.bfloat16())}
    seconds: dict[str, list[float]] = {"fp32": [], "bf16": []}
    # By one thread: on a busy machine several wait for each other, which says nothing of
    # the instructions.
    with cpu_threads(1), torch.inference_mode():
        # In turns, so that what else the machine does slows both alike. The first round
        # does not count: libraries prepare themselves.
        for number in range(1 + _TRIAL_ROUNDS):
            for name, (left, right) in pairs.items():
                started = time.perf_counter()
                torch.nn.functional.linear(left, right)
                if number:
                    seconds[name].append(time.perf_counter() - started)
    # The least, since others on the machine only ever add time.
    # A coarse clock may see no time at all.
    return min(seconds["fp32"]) / max(min(seconds["bf16"]), 1e-9)


def cpu_computes_bf16() -> bool:
    """Return whether this CPU says that it has instructions that multiply bf16."""
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
