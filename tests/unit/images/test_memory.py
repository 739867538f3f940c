"""Memory is returned when there is much more than needed, and not again and again."""

from __future__ import annotations

from typing import Any

import pytest

from mlp_mixer.images import memory

MIB = 2**20


class Process:
    """A process that has some memory in use, and some that glibc keeps."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.used = 600 * MIB
        self.kept = 0
        self.trims = 0
        monkeypatch.setattr(memory, "resident", lambda: self.used + self.kept)
        monkeypatch.setattr(memory.ctypes, "CDLL", lambda _: self)

    def malloc_trim(self, _: int) -> None:
        self.trims += 1
        self.kept = 0


@pytest.fixture
def process(monkeypatch: pytest.MonkeyPatch) -> Any:
    return Process(monkeypatch)


def test_what_glibc_keeps_is_returned(process: Any) -> None:
    returned = memory.Returned()
    for kept in (9, 30, 400):
        process.kept = kept * MIB
        returned.again()
        assert process.kept == 0
    assert process.trims == 3


def test_little_is_left_alone(process: Any) -> None:
    returned = memory.Returned()
    process.kept = 7 * MIB
    returned.again()
    assert process.trims == 0


def test_what_was_in_use_is_returned_later(process: Any) -> None:
    """Bodies of clients, when it was looked at, and soon after them nothing."""
    returned = memory.Returned()
    process.used += 100 * MIB
    returned.again()
    process.used -= 100 * MIB
    process.kept = 100 * MIB
    returned.again()
    process.kept = 20 * MIB
    returned.again()
    assert process.kept == 0


def test_what_stays_in_use_is_believed_in_the_end(process: Any) -> None:
    returned = memory.Returned()
    process.used += 50 * MIB
    for _ in range(100):
        returned.again()
    assert process.trims < 40
    # And what comes on top of it is not.
    process.kept = 20 * MIB
    returned.again()
    assert process.kept == 0
