"""Interleaved measurements: time, memory, and what the machine can do at best.

Every competitor has a turn in each round, in rotating order. A machine that slows down
for a while then slows down all of them.
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
    """What was measured of a competitor.

    Attributes:
        wall: Wall seconds of each counted call.
        cpu: CPU seconds of each counted call.
        turns: The median of the wall seconds of each turn.
    """

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    turns: list[float] = field(default_factory=list)


def interleave(
    calls: Mapping[str, Call], rounds: int, device: torch.device, each: int = 3
) -> tuple[dict[str, Times], dict[str, Exception]]:
    """Time calls in turns.

    Args:
        calls: The calls by name.
        rounds: How many turns each has.
        device: Where they compute.
        each: Calls in a turn. Of several the first is not counted: it finds another
            competitor's data in the caches.

    Returns:
        The times by name, and the errors of those that failed in one of their turns.
        These have no more turns, and no times.
    """
    times = {name: Times() for name in calls}
    failures: dict[str, Exception] = {}
    names = list(calls)
    for number in range(rounds):
        # Another one begins each round, so that nobody always follows the same one.
        start = number % max(1, len(names))
        for name in names[start:] + names[:start]:
            if name in failures:
                continue
            try:
                turn = [timed(calls[name], device) for _ in range(each)]
            except Exception as error:
                failures[name] = error
                del times[name]
                continue
            counted = turn[1:] if each > 1 else turn
            wall = [seconds for seconds, _ in counted]
            times[name].wall += wall
            times[name].cpu += [seconds for _, seconds in counted]
            times[name].turns.append(statistics.median(wall))
    return times, failures


def timed(call: Call, device: torch.device) -> tuple[float, float]:
    """Time a call.

    Args:
        call: The call.
        device: Where it computes.

    Returns:
        Wall seconds until the device has finished; CPU seconds of all threads, and of
        child processes that ended.
    """
    cpu = _cpu_seconds()
    wall = time.perf_counter()
    call()
    if device.type == "cuda":
        # A GPU has only been told to compute when the call returns.
        torch.cuda.synchronize(device)
    return time.perf_counter() - wall, _cpu_seconds() - cpu


def _cpu_seconds() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def percentiles(values: Sequence[float], *percents: float) -> list[float]:
    """Return the values below which so many percent lie.

    Args:
        values: At least one.
        percents: In 0 to 100. Between two values the result is in proportion.
    """
    tensor = torch.tensor(values, dtype=torch.float64)
    return tensor.quantile(torch.tensor(percents).double() / 100).tolist()


def memory(device: torch.device, *, reset: bool = False) -> float | None:
    """Return the peak of memory in MiB; None where the system does not tell.

    Args:
        device: A GPU, for the memory of torch's tensors there; else that of the process.
        reset: Let the peak begin at what is in use now.
    """
    if device.type == "cuda":
        if reset:
            torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.max_memory_allocated(device) / 2**20
    # Linux: writing 5 resets VmHWM, "high water mark" (proc_pid_clear_refs(5)).
    try:
        if reset:
            Path("/proc/self/clear_refs").write_text("5")
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None
    kibibytes = status.partition("VmHWM:")[2].split()[0]
    return int(kibibytes) / 1024


def roofline(device: torch.device, dtype: str) -> dict[str, float]:
    """Measure what this machine does at best, here and now.

    Args:
        device: Where.
        dtype: The dtype of the products; fp32 stands for int8, and bf16 for fp8.

    Returns:
        `flops` of a large matmul and `bytes` of a large copy, both per second.
    """
    side = 8192 if device.type == "cuda" else 2048
    numbers = 2**28 if device.type == "cuda" else 2**26
    kind = DTYPES.get("bf16" if dtype == "fp8" else dtype, torch.float32)
    a = torch.randn(side, side, device=device).to(kind)
    b = torch.randn(side, side, device=device).to(kind)
    source = torch.ones(numbers, device=device)
    target = torch.empty(numbers, device=device)
    # The best of six: other processes can only make it slower.
    matmul = min(timed(lambda: a @ b, device)[0] for _ in range(6))
    copy = min(timed(lambda: target.copy_(source), device)[0] for _ in range(6))
    # A copy reads and writes 4 bytes for each number.
    return {"flops": 2 * side**3 / matmul, "bytes": 8 * numbers / copy}
