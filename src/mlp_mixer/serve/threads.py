"""Threads that take work from a queue and never keep the process alive."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")

_Work = tuple[Future[Any], Callable[[], Any]]


class Threads:
    """A few daemon threads; `ThreadPoolExecutor` would be joined at the very end.

    A thread that hangs inside a library must not keep a server from ending.
    """

    def __init__(
        self, count: int, name: str, prepare: Callable[[], None] | None = None
    ) -> None:
        """Start the threads, and wait until each is prepared.

        Args:
            count: How many.
            name: Of each.
            prepare: Called by each thread before its first work. Its error is that of
                the constructor.
        """
        self._queue: SimpleQueue[_Work | None] = SimpleQueue()
        prepared = threading.Barrier(count + 1)

        errors: list[Exception] = []

        def run() -> None:
            try:
                if prepare:
                    prepare()
            except Exception as error:
                errors.append(error)
            prepared.wait()
            if not errors:
                self._run()

        self._threads = [
            threading.Thread(target=run, name=name, daemon=True) for _ in range(count)
        ]
        for thread in self._threads:
            thread.start()
        prepared.wait()
        if errors:
            raise errors[0]

    @property
    def alive(self) -> bool:
        """Whether every thread runs."""
        return all(thread.is_alive() for thread in self._threads)

    def submit(self, function: Callable[[], T]) -> Future[T]:
        """Have one of the threads call a function.

        Args:
            function: Without arguments.

        Returns:
            Its value to come. Cancelled, it is not called any more.
        """
        future: Future[T] = Future()
        self._queue.put((future, function))
        return future

    def close(self, seconds: float) -> None:
        """Finish what was submitted, then stop.

        Args:
            seconds: Waited for that at most; the threads are left alone then.
        """
        until = time.monotonic() + seconds
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))

    def _run(self) -> None:
        while work := self._queue.get():
            future, function = work
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(function())
            except Exception as error:
                future.set_exception(error)
            # Neither the work nor its value stays until the next one comes.
            del work, future, function
