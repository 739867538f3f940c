"""Memory is returned when there is much more than needed, and not again and again."""

from __future__ import annotations

import io
import os
import threading
import time
from typing import Any

import pytest

from mlp_mixer.images import memory, worker
from mlp_mixer.images.opening import Bounds
from mlp_mixer.images.preprocess import Preprocess

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


def test_a_decoder_returns_memory_when_it_rests(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not between two pictures that come one after the other."""
    returned: list[int] = []
    monkeypatch.setattr(memory.Returned, "again", lambda _: returned.append(1))
    monkeypatch.setattr(worker, "_REST", 0.05)
    job = worker.Job(Preprocess((8, 8)), Bounds(), worker.Budget(1, 1, 0, 0))
    ours, theirs = os.pipe()
    with open(ours, "rb", 0) as pictures, open(theirs, "wb") as sent:  # noqa: PTH123
        thread = threading.Thread(
            target=worker.work, args=(job, pictures, answers := io.BytesIO())
        )
        for _ in range(3):
            sent.write(worker.LENGTH.pack(5) + b"<htm>")
        sent.flush()
        thread.start()
        while not returned:
            time.sleep(0.01)
        # All three, before the first rest.
        assert answers.getvalue().count(b'"unknown"') == 3
        sent.close()
        thread.join()


def test_what_is_no_pipe_is_never_idle() -> None:
    assert not worker._is_idle(io.BytesIO())
