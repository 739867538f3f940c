"""Have pictures decoded in processes that are ended when they take too much.

A thread writes a picture to its process and reads what the network sees of it. Memory
and processor time are bounded by the system inside the process; a guard ends one that
takes too long all the same. Only numbers are taken from a process, since a picture may
have taken it over: nothing is unpickled, and every size is checked.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import os
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from starlette.exceptions import HTTPException

from ..images.memory import Returned
from ..images.worker import HEAD, LENGTH, Job
from .limits import busy

Array = np.ndarray[Any, Any]

_STATUS = {"costly": 413, "memory": 413, "unknown": 415, "broken": 422}
_LONGEST_HEAD = 2**16  # bytes
_PIPE = 2**20  # bytes, so that a picture needs few turns of two processes
_TICK = 0.25  # seconds between two looks of the guard
_TICKS_OF_MEMORY = 4  # between two looks at the memory, which cost some milliseconds
_SECONDS_TO_START = 60.0
_CANNOT_START = "the server cannot start what decodes pictures"

# What comes of a process that has ended, or says something else than it should.
_NO_ANSWER = (OSError, EOFError, ValueError, TypeError, KeyError, struct.error)


class Fitted(NamedTuple):
    """What the network sees of a picture.

    Attributes:
        pixels: (H, W, C), 0-255, uint8 or float32, as `Preprocess.fit_image` says.
        box: Where it lies in the upright picture: top, left, bottom, right, 0 to 1.
    """

    pixels: Array
    box: tuple[float, ...]


class LargeError(Exception):
    """A picture is for a process that may take more."""


class Decoder:
    """One process, for one thread at a time.

    Attributes:
        starts: How many processes there have been.
        broken: The last two processes ended before they were ready. One may have been
            ended from outside, and nobody would look at the next until a picture comes.
    """

    def __init__(self, job: Job) -> None:
        """Start the process; it gets ready by itself.

        Args:
            job: What it does with each picture.

        Raises:
            HTTPException: The system lets no process start.
        """
        self._job = job
        self._until = math.inf
        self._late = False
        self._ready = False
        self._closed = False
        self._lock = threading.Lock()
        self._failed = 0
        self.starts = 0
        try:
            self._process = self._start()
        except OSError as error:
            raise busy(_CANNOT_START) from error

    @property
    def broken(self) -> bool:
        return self._failed > 1

    def get_ready(self) -> None:
        """Wait until the process can decode; if it cannot, `broken` says so."""
        for _ in range(2):
            try:
                self._wait_for_it()
                return
            except _NO_ANSWER:
                self._replace()

    def decode(self, data: bytes, until: float) -> Fitted:
        """Return what the network sees of a picture.

        Args:
            data: The bytes of its file.
            until: When the process is ended, on the clock of `time.monotonic`.

        Raises:
            HTTPException: The picture is refused, or no process can be started.
            LargeError: It may be for a process with another budget.
            TimeoutError: It took too long.
        """
        # A process may be ended by others, such as the system when memory is short. So
        # a picture has a second one before it is to blame.
        for _ in range(2):
            try:
                return self._decode_once(data, until)
            except _NO_ANSWER:
                code = self._replace()
            if self._closed:
                raise busy("the server is ending")
            if self._late:
                raise TimeoutError
            if code == -getattr(signal, "SIGPROF", 0):
                raise HTTPException(
                    413, "the image takes too long to decode; shrink it or save it anew"
                )
        if self.broken:
            raise busy(_CANNOT_START)
        if code == -getattr(signal, "SIGKILL", 0):
            # The system does that when memory is short, whatever the picture is.
            raise busy("what decodes pictures was ended from outside")
        raise HTTPException(422, "the image ends the process that decodes it")

    def end_if_late(self, now: float) -> None:
        """End the process if it works for too long; its thread starts another.

        Args:
            now: On the clock of `time.monotonic`.
        """
        with self._lock:
            if now > self._until:
                self._late = True
                self._process.kill()

    def close(self) -> None:
        """End the process for good."""
        with self._lock:
            self._closed = True
            self._end()

    def _decode_once(self, data: bytes, until: float) -> Fitted:
        if not self._ready:
            # That is no time of the picture.
            self._wait_for_it()
        process = self._process
        assert process.stdin
        assert process.stdout
        with self._in_time(until):
            process.stdin.write(LENGTH.pack(len(data)))
            process.stdin.write(data)
            process.stdin.flush()
            told = _read_head(process.stdout)
            if "error" in told:
                raise _refusal(told)
            return self._fitted(told, process.stdout)

    def _wait_for_it(self) -> None:
        """Read the first words of a process, which say that it can decode."""
        answers = self._process.stdout
        assert answers
        with self._in_time(time.monotonic() + _SECONDS_TO_START):
            _read_head(answers)
        self._ready = True
        self._failed = 0

    @contextlib.contextmanager
    def _in_time(self, until: float) -> Iterator[None]:
        """Let the guard end the process in this block when it is late."""
        with self._lock:
            self._until = until
            self._late = False
        try:
            yield
        finally:
            with self._lock:
                self._until = math.inf

    def _fitted(self, told: dict[str, Any], answers: IO[bytes]) -> Fitted:
        """Read the pixels, which have the one shape that was asked for."""
        preprocess = self._job.preprocess
        shape = (*preprocess.image_size, preprocess.channels)
        dtype = {"uint8": np.uint8, "float32": np.float32}[str(told["dtype"])]
        box = tuple(map(float, told["seen"]))
        if tuple(told["shape"]) != shape or len(box) != 4:
            raise ValueError("a decoder answered with another shape")
        if not all(map(math.isfinite, box)):
            raise ValueError("a decoder answered with a box that is none")
        data = _read(answers, math.prod(shape) * np.dtype(dtype).itemsize)
        return Fitted(np.frombuffer(data, dtype).reshape(shape), box)

    def _start(self) -> subprocess.Popen[bytes]:
        package = str(Path(__file__).parents[2])
        paths = [package, os.environ.get("PYTHONPATH", "")]
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            # Each thread and each arena would count as memory.
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "MALLOC_ARENA_MAX": "1",
        }
        # Not from the working folder, which may hold anything (-P).
        module = ["-P", "-m", "mlp_mixer.images.worker", self._job.to_json()]
        process = subprocess.Popen(
            [sys.executable, *module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # Libraries print their opinion of a file there.
            stderr=subprocess.DEVNULL,
            env=environment,
            # Ctrl-C in a terminal is for the server.
            start_new_session=True,
        )
        self.starts += 1
        for pipe in (process.stdin, process.stdout):
            _widen(pipe)
        return process

    def _replace(self) -> int:
        """Start another process, and return the exit code of the one before."""
        with self._lock:
            code = self._end()
            self._failed += not self._ready
            self._ready = False
            if not self._closed:
                # Then the next picture finds the old process ended, and tries again.
                with contextlib.suppress(OSError):
                    self._process = self._start()
        return code

    def _end(self) -> int:
        process = self._process
        with contextlib.suppress(subprocess.TimeoutExpired):
            # The pipe of a dying process closes before it has an exit code.
            process.wait(0.05)
        process.kill()
        code = process.wait()
        for pipe in (process.stdin, process.stdout):
            # What was not written yet is lost with the process.
            with contextlib.suppress(OSError):
                assert pipe
                pipe.close()
        return code


class Guard:
    """Ends the processes that work for too long."""

    def __init__(self) -> None:
        """Watch nothing yet."""
        self._decoders: list[Decoder] = []
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="guard", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether processes are watched, and can be started."""
        ready = not any(decoder.broken for decoder in self._decoders)
        return ready and self._thread.is_alive()

    @property
    def starts(self) -> int:
        """How many processes were started so far."""
        return sum(decoder.starts for decoder in self._decoders)

    def add(self, decoder: Decoder) -> Decoder:
        """Watch a decoder.

        Args:
            decoder: Started by any thread.

        Returns:
            The same.
        """
        self._decoders.append(decoder)
        return decoder

    def close(self) -> None:
        """End all processes."""
        self._closed.set()
        for decoder in self._decoders:
            decoder.close()

    def _run(self) -> None:
        memory = Returned()
        for tick in itertools.count():
            if self._closed.wait(_TICK):
                return
            if tick % _TICKS_OF_MEMORY == 0:
                # The bodies of large pictures were the server's own.
                memory.again()
            now = time.monotonic()
            for decoder in list(self._decoders):
                decoder.end_if_late(now)


def _refusal(told: dict[str, Any]) -> Exception:
    """Return what a process said of a picture as an error."""
    kind = str(told.get("kind"))
    sentence = str(told["error"])
    if kind in ("large", "memory"):
        return LargeError(sentence)
    if kind in _STATUS:
        return HTTPException(_STATUS[kind], sentence)
    return RuntimeError(sentence)


def _read_head(answers: IO[bytes]) -> dict[str, Any]:
    (length,) = HEAD.unpack(_read(answers, HEAD.size))
    if length > _LONGEST_HEAD:
        raise ValueError("a decoder answered with too much")
    told = json.loads(_read(answers, length))
    if not isinstance(told, dict):
        raise ValueError("a decoder answered with something else")
    return told


def _read(answers: IO[bytes], length: int) -> bytes:
    data = answers.read(length)
    if len(data) < length:
        raise EOFError("a decoder has ended")
    return data


def _widen(pipe: Any) -> None:
    # Linux only, and the system may allow less.
    with contextlib.suppress(ImportError, AttributeError, OSError):
        import fcntl

        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE)
