"""Decode the pictures of all clients side by side, and compute them together."""

from __future__ import annotations

import contextlib
import ctypes
import io
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from queue import Empty, SimpleQueue

import torch
from PIL import Image, UnidentifiedImageError
from starlette.exceptions import HTTPException
from torch import Tensor

from ..errors import UserError
from ..images.decode import decode_image
from ..images.preprocess import Preprocess
from .limits import Limits, busy

Answer = tuple[Tensor, Tensor]
"""A picture as the network saw it, float32 (C, H, W), and its logits (K,)."""

_Waiting = tuple[Future[Answer], Tensor]

_STATUS: dict[type | None, int] = {
    UnidentifiedImageError: 415,
    Image.DecompressionBombError: 413,
}
# Pixels. Pictures of more are decoded one at a time, for each may take a gigabyte.
_LARGE = 8_000_000


class Batcher:
    """Turn bytes into futures of answers: a few threads decode, one computes.

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
    ) -> None:
        """Start the threads.

        Args:
            preprocess: From decoded pictures to images (C, H, W).
            compute: From images (B, C, H, W) on the CPU to logits (B, K) on the CPU.
            limits: How many pictures may wait, and for how long.
        """
        self._preprocess = preprocess
        self._compute = compute
        self._limits = limits
        self._queue: SimpleQueue[_Waiting | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._large = threading.Lock()
        self.waiting = 0
        self.batches = 0
        self.computed = 0
        threads = torch.get_num_threads()
        self._pool = _decoders(threads + 1)
        self._thread = threading.Thread(
            target=self._run, args=(threads,), name="compute", daemon=True
        )
        self._thread.start()

    @property
    def ready(self) -> bool:
        """Whether another picture would be taken in."""
        return self._thread.is_alive() and self.waiting < self._limits.waiting

    def submit(self, pictures: Sequence[bytes]) -> list[Future[Answer]]:
        """Take in all of some pictures, or none of them.

        Args:
            pictures: The bytes of files.

        Returns:
            The answer to come of each. A bad picture has an `HTTPException` there.

        Raises:
            HTTPException: Too many pictures wait already.
        """
        with self._lock:
            if self.waiting + len(pictures) > self._limits.waiting:
                raise busy(f"{self.waiting} pictures are waiting already")
            self.waiting += len(pictures)
        futures: list[Future[Answer]] = [Future() for _ in pictures]
        for future, data in zip(futures, pictures, strict=True):
            self._pool.submit(self._read, future, data)
        return futures

    def close(self) -> None:
        """Answer what has been taken in, then stop all threads."""
        self._pool.shutdown()
        self._queue.put(None)
        self._thread.join()

    def _read(self, future: Future[Answer], data: bytes) -> None:
        # A cancelled future: its client was told that it took too long.
        if not future.set_running_or_notify_cancel():
            self._left(1)
            return
        try:
            self._queue.put((future, self._seen(data)))
        except UserError as error:
            self._left(1)
            status = _STATUS.get(type(error.__cause__), 422)
            future.set_exception(HTTPException(status, str(error)))
        except Exception as error:
            self._left(1)
            future.set_exception(error)

    def _seen(self, data: bytes) -> Tensor:
        """Decode and preprocess a picture, within the bounds of memory."""
        width, height = _size(data)
        pixels = width * height
        if pixels > self._limits.max_pixels:
            most = f"at most {self._limits.max_pixels / 1e6:g} million"
            raise HTTPException(
                413,
                f"the picture has {width} x {height} pixels, {most} are read; shrink "
                "it first",
            )
        if pixels <= _LARGE:
            return self._decode(data)
        with self._large:
            seen = self._decode(data)
            _return_memory()
            return seen

    def _decode(self, data: bytes) -> Tensor:
        channels = self._preprocess.channels
        return self._preprocess(decode_image(data, channels=channels))

    def _run(self, threads: int) -> None:
        """Compute batch after batch, until a None comes."""
        torch.set_num_threads(threads)
        while first := self._queue.get():
            batch = self._gather(first)
            self._left(len(batch))
            self._answer(batch)

    def _gather(self, first: _Waiting) -> list[_Waiting]:
        """Wait for the pictures that are being decoded, but not for long."""
        batch = [first]
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
        return batch

    def _answer(self, batch: Sequence[_Waiting]) -> None:
        self.batches += 1
        self.computed += len(batch)
        futures = [future for future, _ in batch]
        try:
            seen_BCHW = torch.stack([seen for _, seen in batch])
            logits_BK = self._compute(seen_BCHW)
            for future, seen, logits in zip(futures, seen_BCHW, logits_BK, strict=True):
                future.set_result((seen, logits))
        # A mistake of ours, or too little memory: these clients get a 500, and the
        # next batch comes.
        except Exception as error:
            for future in futures:
                future.set_exception(error)

    def _left(self, number: int) -> None:
        with self._lock:
            self.waiting -= number


def _decoders(count: int) -> ThreadPoolExecutor:
    """Start threads that decode, each with one torch thread.

    MKL's number of threads is the whole process's, and the last one to set it wins. So
    all of them must have set it before the thread that computes sets its own.
    """
    pool = ThreadPoolExecutor(count, "decode", torch.set_num_threads, (1,))
    # Every thread waits here for all others, so none can take two of the tasks.
    barrier = threading.Barrier(count)
    for future in [pool.submit(barrier.wait) for _ in range(count)]:
        future.result()
    return pool


def _size(data: bytes) -> tuple[int, int]:
    """Return width and height by the header; (0, 0) where decoding will say why not."""
    with contextlib.suppress(Exception), Image.open(io.BytesIO(data)) as image:
        return image.size
    return 0, 0


def _return_memory() -> None:
    """Have glibc return freed memory: each thread would keep its largest picture's."""
    # Other systems and other C libraries have no such function.
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
