"""Turns, percentiles and memory: what is counted, and in which order."""

from __future__ import annotations

import functools
import subprocess
import sys
import time

import pytest
import torch

from mlp_mixer.bench import measure
from mlp_mixer.bench.measure import interleave, percentiles, roofline, timed

CPU = torch.device("cpu")


def test_turns_rotate_and_first_calls_do_not_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    order: list[str] = []
    numbers = iter(range(100))

    def fake(call: object, device: torch.device) -> tuple[float, float]:
        call()  # type: ignore[operator]
        return float(next(numbers)), 0.5

    monkeypatch.setattr(measure, "timed", fake)
    calls = {name: (lambda name=name: order.append(name)) for name in "abc"}
    times, failures = interleave(calls, 3, CPU, each=3)
    assert not failures
    assert "".join(order) == "aaabbbccc" + "bbbcccaaa" + "cccaaabbb"
    assert times["a"].wall == [1, 2, 16, 17, 22, 23]
    assert times["a"].turns == [1.5, 16.5, 22.5]
    assert times["a"].cpu == [0.5] * 6
    times, _ = interleave(calls, 1, CPU, each=1)
    assert times["a"].wall == [27.0]


@pytest.mark.parametrize("at", [1, 3, 7])
def test_who_fails_in_a_turn_has_no_more_turns_and_no_times(at: int) -> None:
    counts = dict.fromkeys("abc", 0)

    def call(name: str) -> None:
        counts[name] += 1
        if name == "b" and counts[name] == at:
            raise MemoryError("no room")

    calls = {name: functools.partial(call, name) for name in counts}
    times, failures = interleave(calls, 3, CPU, each=3)
    assert str(failures["b"]) == "no room"
    assert set(times) == {"a", "c"}
    assert counts == {"a": 9, "b": at, "c": 9}
    assert len(times["a"].turns) == 3


def test_wall_and_cpu_seconds_are_two_things() -> None:
    wall, cpu = timed(lambda: time.sleep(0.05), CPU)
    assert wall > 0.049
    assert cpu < wall / 2


def test_percentiles_lie_between_values() -> None:
    assert percentiles([4, 1, 3, 2], 0, 50, 75, 100) == pytest.approx([1, 2.5, 3.25, 4])
    assert percentiles([7], 25, 99) == [7, 7]


def test_memory_grows_by_what_is_touched() -> None:
    """In a process of its own.

    Other tests may have told the allocator to keep memory that is given back.
    """
    code = """
import torch
from mlp_mixer.bench.measure import memory
cpu = torch.device("cpu")
assert torch.ones(2**26).sum() == 2**26  # 256 MiB, given back before
before = memory(cpu, reset=True)
assert torch.ones(2**24).sum() == 2**24
print(-1 if before is None else memory(cpu) - before)
"""
    command = [sys.executable, "-c", code]
    process = subprocess.run(command, capture_output=True, text=True, check=True)
    grown = float(process.stdout)
    if grown == -1:
        pytest.skip("no /proc here")
    # MiB, of 64.
    assert 60 <= grown <= 80


def test_the_roofline_counts_multiplications_and_bytes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(measure, "timed", lambda call, device: (0.5, 0.5))
    assert roofline(CPU, "fp32") == {
        "flops": 2 * 2048**3 / 0.5,
        "bytes": 2 * 4 * 2**26 / 0.5,
    }
