"""Decode the pictures of all clients side by side, and compute them together."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import NamedTuple

import torch
from torch import Tensor

from ..images.preprocess import Preprocess
from .crew import Crew
from .decoders import Fitted
from .limits import Limits, busy


class Answer(NamedTuple):
    """What became of a picture.

    Attributes:
        seen: What the network saw, float32 (C, H, W).
        logits: Its answer (K,).
        box: Where that lies in the upright picture: top, left, bottom, right, 0 to 1.
    """

    seen: Tensor
    logits: Tensor
    box: tuple[float, ...]


class _Decoded(NamedTuple):
    """A picture that waits for its batch."""

    future: Future[Answer]
    seen: Tensor
    box: tuple[float, ...]


class Batcher:
    """Turn bytes into futures of answers: a crew decodes, one thread computes.

    A batch is closed when it is full, when nothing else is on its way, or when it has
    waited for `limits.patience` seconds; while it is computed, the next one gathers.

    Attributes:
        waiting: Pictures taken in and not yet computed.
        batches: Batches computed so far.
        computed: Pictures computed so far.
    """

    def __init__(
        self,
        preprocess: Preprocess,
        compute: Callable[[Tensor], Tensor],
        limits: Limits,
        crew: Crew | None = None,
    ) -> None:
        """Start the threads.

        Args:
            preprocess: From decoded pictures to images (C, H, W).
            compute: From images (B, C, H, W) on the CPU to logits (B, K) on the CPU.
            limits: How many pictures may wait, and for how long.
            crew: Decodes; by default one with a process more than torch has threads.
        """
        self._preprocess = preprocess
        self._compute = compute
        self._limits = limits
        self._queue: SimpleQueue[_Decoded | None] = SimpleQueue()
        self._lock = threading.Lock()
        self.waiting = 0
        self.batches = 0
        self.computed = 0
        threads = torch.get_num_threads()
        self._crew = crew or Crew(preprocess, limits, threads + 1)
        self._thread = threading.Thread(
            target=self._run, args=(threads,), name="compute", daemon=True
        )
        self._thread.start()

    @property
    def ready(self) -> bool:
        """Whether another picture would be taken in."""
        return self.alive and self.waiting < self._limits.waiting

    @property
    def alive(self) -> bool:
        """Whether everything runs that answers a picture."""
        return self._thread.is_alive() and self._crew.alive

    @property
    def decoder_starts(self) -> int:
        """How many processes that decode were started so far."""
        return self._crew.starts

    def submit(self, pictures: Sequence[bytes]) -> list[Future[Answer]]:
        """Take in all of some pictures, or none of them.

        Args:
            pictures: The bytes of files.

        Returns:
            The answer to come of each. A bad picture has an `HTTPException` there, a
            late one a `TimeoutError`.

        Raises:
            HTTPException: Too many pictures wait already.
        """
        with self._lock:
            if self.waiting + len(pictures) > self._limits.waiting:
                raise busy(f"{self.waiting} pictures are waiting already")
            self.waiting += len(pictures)
        until = time.monotonic() + self._limits.seconds
        return [self._submit(data, until) for data in pictures]

    def _submit(self, data: bytes, until: float) -> Future[Answer]:
        future: Future[Answer] = Future()
        fitted = self._crew.submit(data, until)

        def give_up(future: Future[Answer]) -> None:
            # Its client was told that it took too long.
            if future.cancelled():
                fitted.cancel()

        future.add_done_callback(give_up)
        fitted.add_done_callback(lambda fitted: self._fitted(future, fitted))
        return future

    def close(self) -> None:
        """Answer what has been taken in, if that ends, then stop all threads."""
        # No picture waits longer than that to be decoded.
        self._crew.close(self._limits.seconds + 1)
        self._queue.put(None)
        self._thread.join(self._limits.seconds)

    def _fitted(self, future: Future[Answer], fitted: Future[Fitted]) -> None:
        """Put a decoded picture into the queue, or tell why it cannot be."""
        if fitted.cancelled() or not future.set_running_or_notify_cancel():
            self._left(1)
            return
        if error := fitted.exception():
            self._left(1)
            _fail([future], error)
            return
        try:
            pixels, box = fitted.result()
            seen = self._preprocess.normalize_fitted(pixels)
            self._queue.put(_Decoded(future, seen, box))
        except Exception as error:
            self._left(1)
            _fail([future], error)

    def _run(self, threads: int) -> None:
        """Compute batch after batch, until a None comes."""
        torch.set_num_threads(threads)
        while first := self._queue.get():
            batch = [first]
            # A mistake of ours, or too little memory: these clients are told, and the
            # next batch comes.
            try:
                try:
                    self._gather(batch)
                finally:
                    self._left(len(batch))
                self._answer(batch)
            except Exception as error:
                _fail([decoded.future for decoded in batch], error)
            del first, batch

    def _gather(self, batch: list[_Decoded]) -> None:
        """Wait for the pictures that are being decoded, but not for long."""
        until = time.monotonic() + self._limits.patience
        with contextlib.suppress(Empty):
            # `waiting` counts the pictures of the batch and all that are on their way
            # to it, so a single request is computed at once.
            while len(batch) < min(self._limits.batch, self.waiting):
                left = max(0.0, until - time.monotonic())
                another = self._queue.get(timeout=left)
                if another is None:
                    # The end is for the loop in `_run`, once this batch is answered.
                    self._queue.put(None)
                    break
                batch.append(another)

    def _answer(self, batch: Sequence[_Decoded]) -> None:
        self.batches += 1
        self.computed += len(batch)
        seen_BCHW = torch.stack([decoded.seen for decoded in batch])
        logits_BK = self._compute(seen_BCHW)
        for decoded, seen, logits in zip(batch, seen_BCHW, logits_BK, strict=True):
            decoded.future.set_result(Answer(seen, logits, decoded.box))

    def _left(self, number: int) -> None:
        with self._lock:
            self.waiting -= number


def _fail(futures: Sequence[Future[Answer]], error: BaseException) -> None:
    """Give the futures that have no answer yet an error."""
    if isinstance(error, MemoryError):
        error = busy("the server has too little memory just now")
    for future in futures:
        if not future.done():
            future.set_exception(error)
