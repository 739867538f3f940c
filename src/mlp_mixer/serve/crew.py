"""Give each picture to a process, and large ones to a process of their own.

    a body (bytes) -> a thread -> its process -> (H, W, C) -> the batch

So the memory of all decoders is bounded: each process may take `_MEMORY` beyond what it
has when it waits, and the one for large pictures `_MEMORY_OF_LARGE`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from time import monotonic

import torch
from starlette.exceptions import HTTPException

from ..errors import UserError
from ..images.opening import Bounds
from ..images.preprocess import Preprocess
from ..images.worker import Budget, Job
from .decoders import Decoder, Fitted, Guard, LargeError
from .limits import Limits, without_frames
from .threads import Threads

# Pictures with more pixels are decoded by one process alone.
_LARGE = 8_000_000
# Bytes that a picture may take in its process, besides twice the largest file.
# A turned picture takes 8 bytes a pixel.
_MEMORY = 80 * 2**20
_MEMORY_OF_LARGE = 256 * 2**20
# Seconds of processor time; an ordinary photo takes a hundredth of them.
_SECONDS = 1.0
_SECONDS_A_MEGAPIXEL = 0.2


class _Picture:
    """A picture that waits; its bytes go as soon as nobody waits for it any more."""

    def __init__(self, data: bytes, until: float) -> None:
        self.data: bytes | None = data
        self.until = until
        self.future: Future[Fitted] = Future()
        self.future.add_done_callback(self._forget)

    def _forget(self, _: object) -> None:
        self.data = None

    def settle(self, decode: Callable[[bytes, float], Fitted]) -> None:
        """Decode it, and set what comes of that.

        Raises:
            LargeError: It is not for this process, and waits further.
        """
        data = self.data
        if data is None:
            return
        try:
            if monotonic() > self.until:
                raise TimeoutError
            fitted = decode(data, self.until)
        except LargeError:
            raise
        except Exception as error:
            self._set(None, without_frames(error))
        else:
            self._set(fitted, None)

    def _set(self, fitted: Fitted | None, error: Exception | None) -> None:
        # False: nobody waits any more.
        if not self.future.set_running_or_notify_cancel():
            return
        if error:
            self.future.set_exception(error)
        else:
            assert fitted
            self.future.set_result(fitted)


class Crew:
    """Threads with a process each, and one more for large pictures."""

    def __init__(self, preprocess: Preprocess, limits: Limits, count: int) -> None:
        """Start the threads and their processes.

        Args:
            preprocess: What the network wants to see.
            limits: What a picture may be.
            count: Threads for pictures of ordinary size.

        Raises:
            UserError: The system lets no process start.
        """
        bounds = Bounds(limits.formats, limits.max_pixels)
        files = 2 * limits.max_bytes
        time = (_SECONDS, _SECONDS_A_MEGAPIXEL)
        ordinary = Budget(min(_LARGE, limits.max_pixels), files + _MEMORY, *time)
        large = Budget(limits.max_pixels, files + _MEMORY_OF_LARGE, *time)
        self._guard = Guard()
        self._own = threading.local()

        self._job_of_large = Job(preprocess, bounds, large)

        def prepare() -> None:
            _compute_alone()
            job = Job(preprocess, bounds, ordinary)
            self._own.decoder = self._guard.add(Decoder(job))
            # The first client should not wait for that.
            self._own.decoder.get_ready()

        try:
            self._threads = Threads(count, "decode", prepare)
        except HTTPException as error:
            self._guard.close()
            raise UserError(
                "cannot start the processes that decode pictures; allow this user more "
                "processes"
            ) from error
        self._large = Threads(1, "decode large", _compute_alone)

    @property
    def alive(self) -> bool:
        """Whether all threads run and have their processes."""
        return self._threads.alive and self._large.alive and self._guard.alive

    @property
    def starts(self) -> int:
        """How many processes were started so far."""
        return self._guard.starts

    def submit(self, data: bytes, until: float) -> Future[Fitted]:
        """Have a picture decoded.

        Args:
            data: The bytes of its file; they are let go when the future is cancelled.
            until: When that must be done, on the clock of `time.monotonic`.

        Returns:
            What the network sees of it, to come; or an `HTTPException`, or a
            `TimeoutError`.
        """
        picture = _Picture(data, until)
        self._threads.submit(lambda: self._decode(picture))
        return picture.future

    def close(self, seconds: float) -> None:
        """Finish what waits, then end all threads and processes.

        Args:
            seconds: Waited for that at most.
        """
        until = monotonic() + seconds
        self._threads.close(seconds)
        self._large.close(max(0.0, until - monotonic()))
        self._guard.close()

    def _decode(self, picture: _Picture) -> None:
        try:
            picture.settle(self._own.decoder.decode)
        except LargeError:
            self._large.submit(lambda: picture.settle(self._decode_large))

    def _decode_large(self, data: bytes, until: float) -> Fitted:
        # Its process is started by the first large picture.
        if not hasattr(self._own, "decoder"):
            self._own.decoder = self._guard.add(Decoder(self._job_of_large))
        try:
            return self._own.decoder.decode(data, until)
        except LargeError as error:
            # There is no process that may take more.
            raise HTTPException(413, str(error)) from error


def _compute_alone() -> None:
    """Have a thread compute without others.

    MKL's number of threads is the whole process's, and the last one to set it wins:
    these must all have set it before the thread that computes batches does.
    """
    torch.set_num_threads(1)
