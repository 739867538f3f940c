"""Run a function over many items in processes that may die on one of them.

The end of a process is the answer for that item, not the end of the program: image
decoders crash, hang, or ask for all of the memory when a file is made for it.
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

# Items on their way to a process, so that it need not wait for the next one.
_AHEAD = 4
# Bytes that an item may take beyond what the process has at its start.
_MEMORY = 4 * 2**30


@dataclass(frozen=True)
class WorkerFailure:
    """Say why there is no answer for an item."""

    reason: str


def map_isolated(
    function: Callable[[T], R],
    items: Sequence[T],
    *,
    workers: int,
    patience: float = 120.0,
) -> Iterator[tuple[int, R | WorkerFailure]]:
    """Call a function on every item, each exactly once, in isolated processes.

    Args:
        function: It must be importable by name.
        items: What it is called with, one at a time.
        workers: Processes.
        patience: Seconds that one item may take.

    Yields:
        (position, answer), as they come. The answer is a `WorkerFailure` if the process
        raised, died, or took too long; on Linux a process that asks for more than 4 GiB
        gets a MemoryError.
    """
    todo = deque(range(len(items)))
    crew = [_Worker(function) for _ in range(min(workers, len(items)))]
    try:
        while todo or any(worker.queue for worker in crew):
            for worker in crew:
                worker.give(todo, items)
            ready = wait([worker.link for worker in crew], timeout=1.0)
            for number, worker in enumerate(crew):
                try:
                    if worker.link in ready:
                        answer = worker.link.recv()
                        worker.since = time.monotonic()
                        yield worker.queue.popleft(), answer
                        continue
                    if not worker.is_late(patience):
                        continue
                    reason = f"takes longer than {patience:g} seconds to read"
                    worker.end()
                except (EOFError, OSError):
                    # The pipe of a dying process closes before it has an exit code.
                    reason = worker.end(grace=5.0)
                if worker.queue:
                    yield worker.queue.popleft(), WorkerFailure(reason)
                # The items behind the fatal one go to other processes, first of all.
                todo.extendleft(reversed(worker.queue))
                crew[number] = _Worker(function)
    finally:
        for worker in crew:
            worker.end()


class _Worker:
    """A process, the pipe to it, and the positions of the items it was given."""

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
        """Send it the next items."""
        if not self.queue:
            self.since = time.monotonic()
        while todo and len(self.queue) < _AHEAD:
            self.queue.append(todo.popleft())
            # A dead process is noticed at the next answer, with its reason.
            with contextlib.suppress(OSError):
                self.link.send(items[self.queue[-1]])

    def is_late(self, patience: float) -> bool:
        """Tell whether its first item takes longer than `patience` seconds."""
        return bool(self.queue) and time.monotonic() - self.since > patience

    def end(self, grace: float = 0.0) -> str:
        """Make sure that the process is gone, and say how it went."""
        self.process.join(grace)
        self.process.kill()
        self.process.join()
        self.link.close()
        code = self.process.exitcode or 0
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return (
            f"ends the process that reads it ({how}): too large for the memory, or a "
            "crash of the decoder"
        )


def _work(link: Connection, other: Connection, function: Callable[[Any], Any]) -> None:
    """Answer until the other end closes.

    A killed parent closes it too: the newest process holds no copy of that end, so it
    stops first, and with it the copies that it held of the ends of the others.
    """
    other.close()
    # Ctrl-C is for the parent, which ends its processes.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # libtiff and others print their opinion of a file.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    with contextlib.suppress(ImportError, OSError, ValueError):
        _limit_memory()
    with contextlib.suppress(EOFError, OSError):
        while True:
            item = link.recv()
            try:
                answer = function(item)
            except Exception as error:
                reason = f"cannot be read ({type(error).__name__}: {error})"
                answer = WorkerFailure(reason)
            link.send(answer)


def _limit_memory() -> None:
    """Let the process take `_MEMORY` bytes more than it has now."""
    import resource

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + _MEMORY
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (most, hard))
