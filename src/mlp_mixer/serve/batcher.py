"""Pictures of all clients, decoded side by side and computed together: bytes in,
futures of answers out.
"""

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

_STATUS: dict[type | None, int] = {
    UnidentifiedImageError: 415,
    Image.DecompressionBombError: 413,
}
# pixels: pictures of more are decoded one at a time, for each may take a gigabyte
_LARGE = 8_000_000


class Batcher:
    """A few threads decode, one computes. A batch is closed when it is full, when
    nothing else is on its way, or when
    it has waited for `limits.patience` seconds; while it is computed, the next one
    gathers.
    """

    def __init__(
        self,
        preprocess: Preprocess,
        compute: Callable[[Tensor], Tensor],
        limits: Limits,
    ) -> None:
        """compute: images (B, C, H, W) on the CPU to logits (B, K) on the CPU."""
        self._preprocess = preprocess
        self._compute = compute
        self._limits = limits
        self._queue: SimpleQueue[tuple[Future[Answer], Tensor] | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._large = threading.Lock()
        self.waiting = self.batches = self.computed = 0
        threads = torch.get_num_threads()
        # One torch thread in each that decodes, all of them in the one that computes.
        # MKL's number is the whole
        # process's, and who speaks last is right: so the others are there before that
        # one starts.
        self._pool = ThreadPoolExecutor(
            threads + 1, "decode", torch.set_num_threads, (1,)
        )
        list(
            self._pool.map(
                lambda barrier: barrier.wait(),
                [threading.Barrier(threads + 1)] * (threads + 1),
            )
        )
        self._thread = threading.Thread(
            target=self._run, args=(threads,), name="compute", daemon=True
        )
        self._thread.start()

    @property
    def ready(self) -> bool:
        """Whether another picture would be taken in."""
        return self._thread.is_alive() and self.waiting < self._limits.waiting

    def submit(self, pictures: Sequence[bytes]) -> list[Future[Answer]]:
        """Take in all of these pictures, or none: then `HTTPException`, which a bad
        picture has in its own future.
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
        if (
            not future.set_running_or_notify_cancel()
        ):  # its client was told that it took too long
            self._left(1)
            return
        try:
            self._queue.put((future, self._seen(data)))
        except Exception as error:
            self._left(1)
            if isinstance(error, UserError):
                error = HTTPException(
                    _STATUS.get(type(error.__cause__), 422), str(error)
                )
            future.set_exception(error)

    def _seen(self, data: bytes) -> Tensor:
        width = height = 0
        with (
            contextlib.suppress(Exception),
            Image.open(io.BytesIO(data)) as image,
        ):  # decoding will say it better
            width, height = image.size
        if width * height > self._limits.max_pixels:
            most = f"at most {self._limits.max_pixels / 1e6:g} million"
            raise HTTPException(
                413,
                f"the picture has {width} x {height} pixels, {most} are read; shrink it first",
            )
        if width * height <= _LARGE:
            return self._preprocess(
                decode_image(data, channels=self._preprocess.channels)
            )
        with self._large:
            seen = self._preprocess(
                decode_image(data, channels=self._preprocess.channels)
            )
            with contextlib.suppress(
                OSError, AttributeError
            ):  # other systems, other C libraries
                ctypes.CDLL("libc.so.6").malloc_trim(
                    0
                )  # else each thread keeps what its largest picture took
            return seen

    def _run(self, threads: int) -> None:
        torch.set_num_threads(threads)
        while first := self._queue.get():
            batch = [first]
            until = time.monotonic() + self._limits.patience
            with contextlib.suppress(Empty):
                while len(batch) < min(self._limits.batch, self.waiting):
                    if not (
                        another := self._queue.get(
                            timeout=max(0.0, until - time.monotonic())
                        )
                    ):
                        self._queue.put(None)  # for the loop around this one
                        break
                    batch.append(another)
            self._left(len(batch))
            self._answer(
                [future for future, _ in batch],
                torch.stack([seen for _, seen in batch]),
            )

    def _answer(self, futures: Sequence[Future[Answer]], seen: Tensor) -> None:
        self.batches = self.batches + 1
        self.computed = self.computed + len(futures)
        try:
            for future, *answer in zip(futures, seen, self._compute(seen), strict=True):
                future.set_result((answer[0], answer[1]))
        # ours, such as too little memory: their clients get a 500, and the next batch
        # comes
        except Exception as error:
            for future in futures:
                future.set_exception(error)

    def _left(self, number: int) -> None:
        with self._lock:
            self.waiting -= number
