"""Interleaved measurements: every competitor has a turn per round, in rotating order,
so all see the same machine.
"""

from __future__ import annotations

import resource
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

Call = Callable[[], Any]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass
class Times:
    """Wall and CPU seconds of each counted call, and the median of each turn."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    turns: list[float] = field(default_factory=list)


def interleave(
    calls: Mapping[str, Call], rounds: int, device: torch.device, each: int = 3
) -> dict[str, Times]:
    """`each` calls per turn; of several the first is not counted: it finds another
    competitor's data in the caches.
    """
    times = {name: Times() for name in calls}
    names = list(calls)
    for number in range(rounds):
        start = number % max(1, len(names))
        for name in names[start:] + names[:start]:
            wall, cpu = zip(
                *[timed(calls[name], device) for _ in range(each)][each > 1 :],
                strict=True,
            )
            times[name].wall += wall
            times[name].cpu += cpu
            times[name].turns.append(statistics.median(wall))
    return times


def timed(call: Call, device: torch.device) -> tuple[float, float]:
    """Wall seconds until the device has finished; CPU seconds of all threads, and of
    child processes that ended.
    """
    cpu = _cpu_seconds()
    wall = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - wall, _cpu_seconds() - cpu


def _cpu_seconds() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def percentiles(values: Sequence[float], *percents: float) -> list[float]:
    """The values below which so many percent lie, between two of them in proportion."""
    return (
        torch.tensor(values, dtype=torch.float64)
        .quantile(torch.tensor(percents).double() / 100)
        .tolist()
    )


def memory(device: torch.device, *, forget: bool = False) -> float | None:
    """The peak of memory in MiB (of the process, or of torch's tensors on a GPU), or
    with `forget` that of now.
    """
    if device.type == "cuda":
        if forget:
            torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.max_memory_allocated(device) / 2**20
    try:  # Linux
        if forget:
            Path("/proc/self/clear_refs").write_text("5")
        status = Path("/proc/self/status").read_text().partition("VmHWM:")[2]
    except OSError:
        return None
    return int(status.split()[0]) / 1024


def roofline(device: torch.device, dtype: str) -> dict[str, float]:
    """What this machine does at best, here and now: `flops` of a large matmul, `bytes`
    of a large copy, per second.

    In the dtype; in fp32 for int8, in bf16 for fp8.
    """
    side, numbers = (8192, 2**28) if device.type == "cuda" else (2048, 2**26)
    kind = DTYPES.get("bf16" if dtype == "fp8" else dtype, torch.float32)
    a, b = (torch.randn(side, side, device=device).to(kind) for _ in range(2))
    source = torch.ones(numbers, device=device)
    target = torch.empty(numbers, device=device)
    flops, moved = (
        min(timed(f, device)[0] for _ in range(6))
        for f in (lambda: a @ b, lambda: target.copy_(source))
    )
    return {"flops": 2 * side**3 / flops, "bytes": 8 * numbers / moved}
