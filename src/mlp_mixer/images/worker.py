"""Decode pictures of strangers, in a process that may be ended.

    python -m mlp_mixer.images.worker '{"channels": 3, ...}'

It reads pictures from its standard input and writes what a network sees of each to its
standard output. Too much memory is an error, and too much time is its end: the system
sees to both. It does not know torch, so it takes 40 MiB. `serve/decoders.py` starts it,
and believes nothing that it says but numbers.

A picture comes as its length (8 bytes, the last first) and its bytes. The answer is
the length of a JSON object (4 bytes), the object, and as many bytes as it promises.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import select
import signal
import struct
import sys
import traceback
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from PIL import Image, UnidentifiedImageError

from ..errors import UserError
from .claims import webp_pixels
from .decode import decode_upright
from .memory import Returned
from .opening import Bounds, open_image
from .orientation import ON_ITS_SIDE, turn_of
from .preprocess import Preprocess
from .refusals import CostlyError
from .tiff import read_bands

LENGTH = struct.Struct("<Q")
"""Before a picture."""

HEAD = struct.Struct("<I")
"""Before the object of an answer."""


# For each pixel of a WebP: two canvases, a frame, and Pillow's image.
_BYTES_OF_WEBP = 16


_SECONDS_TO_START = 60.0
_REST = 0.3  # seconds without a picture, after which memory is returned
_LONGEST_SENTENCE = 300  # letters; Pillow's own may repeat what is in the file
_LONGEST_TRACEBACK = 4_000


class Budget(NamedTuple):
    """What one picture may cost.

    Attributes:
        pixels: Width times height of a picture that is decoded here.
        memory: Bytes beyond those that the process has when it waits.
        seconds: Of processor time, for any picture.
        seconds_a_megapixel: Further ones.
    """

    pixels: int
    memory: int
    seconds: float
    seconds_a_megapixel: float

    def seconds_for(self, pixels: int) -> float:
        """Return the processor time of a picture.

        Args:
            pixels: Its width times height.
        """
        return self.seconds + self.seconds_a_megapixel * pixels / 1e6


class Job(NamedTuple):
    """What the process does with each picture.

    Attributes:
        preprocess: What a network wants to see.
        bounds: What a picture may be.
        budget: What it may cost.
    """

    preprocess: Preprocess
    bounds: Bounds
    budget: Budget

    def to_json(self) -> str:
        """Return it as an argument of the process."""
        fields = [self.preprocess.__dict__, self.bounds, self.budget]
        return json.dumps(fields)

    @staticmethod
    def from_json(text: str) -> Job:
        """Read what `to_json` wrote.

        Args:
            text: Its only argument.
        """
        preprocess, (formats, max_pixels), budget = json.loads(text)
        bounds = Bounds(formats and tuple(formats), max_pixels)
        return Job(Preprocess(**preprocess), bounds, Budget(*budget))


def answer(job: Job, data: bytes) -> tuple[dict[str, Any], bytes]:
    """Decode and fit one picture.

    Args:
        job: What is wanted.
        data: The bytes of its file.

    Returns:
        JSON values, and pixels as bytes. The values are "shape", "dtype" and "seen"
        (the part of the picture that the network sees, as `Preprocess.seen` says it),
        or "error" and "kind": "large" and "memory" for what a process with another
        budget may decode, "costly", "unknown", "broken", or "ours".
    """
    pixels = webp_pixels(data)
    too_much = _BYTES_OF_WEBP * pixels > job.budget.memory
    if too_much and pixels <= job.bounds.max_pixels:
        sentence = f"the image needs too much memory: {pixels:,} pixels of WebP"
        return {"error": f"{sentence}; shrink it first", "kind": "memory"}, b""
    try:
        if job.preprocess.channels not in (1, 3):
            return _answer_of_bands(job, data)
        with open_image(io.BytesIO(data), bounds=job.bounds) as image:
            pixels = image.width * image.height
            if pixels > job.budget.pixels:
                return {"error": "the image is too large", "kind": "large"}, b""
            _end_in(job.budget.seconds_for(pixels))
            seen = _seen(job.preprocess, image)
            upright = decode_upright(image, channels=job.preprocess.channels)
            fitted = job.preprocess.fit_image(upright)
    except UserError as error:
        sentence = str(error)[:_LONGEST_SENTENCE]
        return {"error": sentence, "kind": _kind(error)}, b""
    except MemoryError:
        sentence = "the image needs too much memory; shrink it first"
        return {"error": sentence, "kind": "memory"}, b""
    except Exception:
        return {
            "error": traceback.format_exc()[-_LONGEST_TRACEBACK:],
            "kind": "ours",
        }, b""
    told = {"shape": fitted.shape, "dtype": str(fitted.dtype), "seen": seen}
    return told, fitted.tobytes()


def _answer_of_bands(job: Job, data: bytes) -> tuple[dict[str, Any], bytes]:
    """Decode and fit an image of other channels than a picture has."""
    preprocess = job.preprocess
    if job.bounds.formats is not None and "TIFF" not in job.bounds.formats:
        raise UserError(
            f"the network takes images of {preprocess.channels} channels, which only "
            "TIFFs hold, and they are not read here (--formats tiff)"
        )
    image = read_bands(io.BytesIO(data), preprocess.channels, "the image")
    fitted = preprocess.fit(image)
    seen = preprocess.seen(*image.shape[:2])
    told = {"shape": fitted.shape, "dtype": str(fitted.dtype), "seen": seen}
    return told, fitted.tobytes()


def _kind(error: UserError) -> str:
    if isinstance(error.__cause__, MemoryError):
        return "memory"
    if isinstance(error, CostlyError):
        return "costly"
    if isinstance(error.__cause__, UnidentifiedImageError):
        return "unknown"
    return "broken"


def _seen(preprocess: Preprocess, image: Image.Image) -> tuple[float, ...]:
    width, height = image.size
    if turn_of(image) in ON_ITS_SIDE:
        return preprocess.seen(width, height)
    return preprocess.seen(height, width)


def work(job: Job, pictures: BinaryIO, answers: BinaryIO) -> None:
    """Answer pictures until there are no more.

    Args:
        job: What is done with each.
        pictures: They come from here.
        answers: What they become goes there.
    """
    memory = Returned()
    while True:
        # Not between two pictures of many: the next one takes the same memory.
        if _is_idle(pictures):
            memory.again()
        head = pictures.read(LENGTH.size)
        if len(head) < LENGTH.size:
            return
        (length,) = LENGTH.unpack(head)
        data = pictures.read(length)
        if len(data) < length:
            return
        _end_in(job.budget.seconds)
        told, pixels = answer(job, data)
        _end_in(0)
        text = json.dumps(told).encode()
        answers.write(HEAD.pack(len(text)) + text + pixels)
        answers.flush()
        del data, pixels


def _is_idle(pictures: BinaryIO) -> bool:
    """Wait a little, and tell whether no picture has come."""
    # What is no pipe, or no pipe that this system waits for, is never idle.
    with contextlib.suppress(OSError, ValueError):
        ready, _, _ = select.select([pictures], [], [], _REST)
        return not ready
    return False


def _end_in(seconds: float) -> None:
    """Have the system end this process after so much processor time; 0: never."""
    # Windows has no such timer; there only the parent's patience ends a process.
    if hasattr(signal, "ITIMER_PROF"):
        signal.setitimer(signal.ITIMER_PROF, seconds)


def _limit_memory(more: int) -> None:
    """Let the process take so many bytes more than it has now."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + more
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _ignore_signals() -> None:
    """Leave Ctrl-C and SIGTERM to the parent, whose end is the end of the pictures."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)


def main() -> None:
    """Work as the only argument says."""
    _ignore_signals()
    job = Job.from_json(sys.argv[1])
    # Decoders are loaded, and have taken their memory, before it is limited.
    warm = io.BytesIO()
    Image.new("RGB", (16, 16)).save(warm, "JPEG")
    patient = job._replace(budget=job.budget._replace(seconds=_SECONDS_TO_START))
    answer(patient, warm.getvalue())
    _end_in(0)
    _limit_memory(job.budget.memory)
    # Only answers go to the standard output, whatever a library prints.
    with os.fdopen(os.dup(1), "wb") as answers:
        os.dup2(2, 1)
        # The parent is gone when nobody reads.
        with contextlib.suppress(BrokenPipeError):
            ready = json.dumps({"ready": True}).encode()
            answers.write(HEAD.pack(len(ready)) + ready)
            answers.flush()
            work(job, sys.stdin.buffer, answers)


if __name__ == "__main__":
    main()
