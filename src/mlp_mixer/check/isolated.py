"""A function over many items in processes that may die on one of them: its end is that
item's answer, not ours.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import Pipe, Process
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")

_AHEAD = 4  # items on their way to a process, so that it need not wait for the next one
_MEMORY = (
    4 * 2**30
)  # bytes that an item may take beyond what the process has at its start


@dataclass(frozen=True)
class WorkerFailure:
    """There is no answer for an item, and why."""

    reason: str


def map_isolated(
    function: Callable[[T], R],
    items: Sequence[T],
    *,
    workers: int,
    patience: float = 120.0,
) -> Iterator[tuple[int, R | WorkerFailure]]:
    """(position, answer) of every item exactly once, as they come; the function must be
    importable by name.

    `WorkerFailure` stands for an item on which the process raised, died, or stayed
    longer than `patience` seconds; on Linux one that asks for more than 4 GiB gets a
    MemoryError.
    """
    todo = deque(range(len(items)))
    crew = [_Worker(function) for _ in range(min(workers, len(items)))]
    try:
        while todo or any(worker.queue for worker in crew):
            for worker in crew:
                worker.give(todo, items)
            ready = wait([worker.link for worker in crew], timeout=1.0)
            for number, worker in enumerate(crew):
                late = bool(worker.queue) and time.monotonic() - worker.since > patience
                try:
                    if worker.link in ready:
                        answer, worker.since = worker.link.recv(), time.monotonic()
                        yield worker.queue.popleft(), answer
                    if worker.link in ready or not late:
                        continue
                    reason = f"takes longer than {patience:g} seconds to read"
                    worker.end()
                except (EOFError, OSError):
                    reason = worker.end(grace=5.0)
                if worker.queue:
                    yield worker.queue.popleft(), WorkerFailure(reason)
                todo.extendleft(reversed(worker.queue))
                crew[number] = _Worker(function)
    finally:
        for worker in crew:
            worker.end()


class _Worker:
    def __init__(self, function: Callable[[Any], Any]) -> None:
        self.link, theirs = Pipe()
        self.queue: deque[int] = deque()
        self.since = 0.0  # when it began with the first of the queue
        self.process = Process(
            target=_work, args=(theirs, self.link, function), daemon=True
        )
        self.process.start()
        theirs.close()

    def give(self, todo: deque[int], items: Sequence[Any]) -> None:
        self.since = self.since if self.queue else time.monotonic()
        while todo and len(self.queue) < _AHEAD:
            self.queue.append(todo.popleft())
            with contextlib.suppress(OSError):  # it is dead, and will be found so
                self.link.send(items[self.queue[-1]])

    def end(self, grace: float = 0.0) -> str:
        """Make sure that the process is gone, and say how it went."""
        self.process.join(grace)
        self.process.kill()
        self.process.join()
        self.link.close()
        code = self.process.exitcode or 0
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return f"ends the process that reads it ({how}): too large for the memory, or a crash of the decoder"


def _work(link: Connection, other: Connection, function: Callable[[Any], Any]) -> None:
    """Answer until the other end closes; a killed parent closes it too, and the newest
    process holds no copy of it.
    """
    other.close()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's
    os.dup2(
        os.open(os.devnull, os.O_WRONLY), 2
    )  # libtiff and others print their opinion of a file
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        taken = (
            int(Path("/proc/self/statm").read_text().split()[0])
            * resource.getpagesize()
        )
        resource.setrlimit(
            resource.RLIMIT_AS,
            (taken + _MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]),
        )
    with contextlib.suppress(EOFError, OSError):
        while True:
            item = link.recv()
            try:
                answer = function(item)
            except Exception as error:
                answer = WorkerFailure(
                    f"cannot be read ({type(error).__name__}: {error})"
                )
            link.send(answer)
