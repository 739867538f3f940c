"""Pictures in processes: the same pixels, and an end to what takes too much.

Processes are killed, stopped and starved; the next picture is answered all the same.
"""

from __future__ import annotations

import gc
import io
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.exceptions import HTTPException

from mlp_mixer.errors import UserError
from mlp_mixer.images.decode import decode_image
from mlp_mixer.images.preprocess import Preprocess
from mlp_mixer.serve import Limits, crew, decoders
from mlp_mixer.serve.crew import Crew
from mlp_mixer.serve.decoders import Fitted

PATIENCE = 60  # seconds until a test that hangs fails
Start = Callable[..., Crew]


def picture(
    size: tuple[int, int] = (60, 40), form: str = "PNG", **options: Any
) -> bytes:
    file = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), np.uint8)
    Image.fromarray(noise).save(file, form, **options)
    return file.getvalue()


def submit(running: Crew, data: bytes) -> Future[Fitted]:
    return running.submit(data, time.monotonic() + PATIENCE)


def status(running: Crew, data: bytes) -> int:
    error = submit(running, data).exception(PATIENCE)
    assert isinstance(error, HTTPException), error
    return error.status_code


def processes(running: Crew) -> list[int]:
    return [decoder._process.pid for decoder in running._guard._decoders]


@pytest.fixture
def start() -> Iterator[Start]:
    started: list[Crew] = []

    def start(preprocess: Preprocess | None = None, **limits: Any) -> Crew:
        one = Crew(preprocess or Preprocess((8, 8)), Limits(**limits), 1)
        started.append(one)
        return one

    yield start
    for one in started:
        one.close(0)


@pytest.mark.parametrize(
    "preprocess",
    [
        Preprocess((8, 8)),
        Preprocess((8, 12), resize="resize", interpolation="bilinear"),
        Preprocess((8, 8), channels=1),
        Preprocess((8, 8), resampler="vit_jax", interpolation="bilinear"),
        Preprocess((60, 60), resampler="opencv", crop_pct=0.9),
    ],
    ids=str,
)
def test_a_process_sees_what_python_sees(start: Start, preprocess: Preprocess) -> None:
    lying = Image.Exif()
    lying[0x0112] = 6
    running = start(preprocess)
    for data in (
        picture(),
        picture((60, 60)),
        picture(form="JPEG", exif=lying),
        picture((900, 2)),
    ):
        pixels = decode_image(data, channels=preprocess.channels)
        fitted = submit(running, data).result(PATIENCE)
        np.testing.assert_array_equal(fitted.pixels, preprocess._fit(pixels))
        assert fitted.box == preprocess.seen(*pixels.shape[:2])
    assert running.starts == 1


def test_a_large_picture_goes_to_a_process_of_its_own(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crew, "_LARGE", 100)
    running = start()
    large = picture((11, 11))
    expected = Preprocess((8, 8)).fit(decode_image(large))
    for _ in range(2):
        fitted = submit(running, large).result(PATIENCE)
        np.testing.assert_array_equal(fitted.pixels, expected)
    submit(running, picture((8, 8))).result(PATIENCE)
    assert running.starts == 2


def test_what_needs_too_much_memory_is_refused_and_the_next_one_answered(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("resource")
    if not os.path.exists("/proc/self/statm"):  # noqa: PTH110
        pytest.skip("this system has no limit of a process's memory")
    monkeypatch.setattr(crew, "_MEMORY", 2**24)
    monkeypatch.setattr(crew, "_MEMORY_OF_LARGE", 2**25)
    running = start(max_bytes=2**20)
    blank = io.BytesIO()
    Image.new("RGB", (7000, 2000)).save(blank, "PNG")
    assert status(running, blank.getvalue()) == 413
    # Twice the memory is enough for this one.
    half = io.BytesIO()
    Image.new("RGB", (2000, 2500)).save(half, "PNG")
    submit(running, half.getvalue()).result(PATIENCE)
    submit(running, picture()).result(PATIENCE)
    assert running.alive


def test_what_takes_too_much_processor_time_is_refused(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crew, "_SECONDS", 0.03)
    monkeypatch.setattr(crew, "_SECONDS_A_MEGAPIXEL", 0.0)
    running = start()
    slow = picture((2500, 2500))
    # 6 megapixels of noise take some hundred milliseconds.
    assert status(running, slow) == 413
    assert running.starts == 2
    submit(running, picture((8, 8))).result(PATIENCE)


def test_a_process_that_is_killed_is_replaced_and_its_picture_answered(
    start: Start,
) -> None:
    running = start()
    submit(running, picture()).result(PATIENCE)
    for number in range(3):
        (process,) = processes(running)
        os.kill(process, signal.SIGKILL)
        submit(running, picture()).result(PATIENCE)
        assert running.starts == 2 + number


def test_a_process_that_hangs_is_ended_in_time(start: Start) -> None:
    running = start()
    submit(running, picture()).result(PATIENCE)
    (process,) = processes(running)
    os.kill(process, signal.SIGSTOP)
    late = running.submit(picture(), time.monotonic() + 0.1)
    assert isinstance(late.exception(PATIENCE), TimeoutError)
    submit(running, picture()).result(PATIENCE)
    assert processes(running) != [process]


def test_a_process_that_ended_before_it_was_ready_is_no_illness(start: Start) -> None:
    """It was ended from outside, and nobody looks at the next until a picture comes."""
    running = start()
    (decoder,) = running._guard._decoders
    decoder._replace()
    # It is just being started.
    os.kill(decoder._process.pid, signal.SIGKILL)
    decoder._replace()
    assert running.alive
    submit(running, picture()).result(PATIENCE)
    assert running.alive


def test_a_system_without_processes_left_is_told_at_the_start(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_more(*_: object, **__: object) -> None:
        raise BlockingIOError("Resource temporarily unavailable")

    monkeypatch.setattr(decoders.subprocess, "Popen", no_more)
    with pytest.raises(UserError, match="allow this user more processes"):
        start()


REFUSED = {
    "no picture": b"<html>" * 100,
    "a broken one": picture()[:200],
    "a costly one": picture((11, 11)) + bytes(100),
}


@pytest.mark.parametrize("data", REFUSED.values(), ids=REFUSED)
def test_the_bytes_of_a_refused_picture_go_at_once(
    data: bytes, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error that held its frames would hold them until Python searches circles."""
    monkeypatch.setattr(crew, "_LARGE", 100)
    running = start(max_pixels=120)
    held = sys.getrefcount(data)
    gc.disable()
    try:
        assert status(running, data) >= 400
        # Threads let go of their work after they have told what came of it.
        running.close(PATIENCE)
        assert sys.getrefcount(data) == held
    finally:
        gc.enable()


def test_what_waits_too_long_is_not_decoded(start: Start) -> None:
    running = start()
    late = running.submit(b"never read", time.monotonic() - 1)
    assert isinstance(late.exception(PATIENCE), TimeoutError)


def test_the_bytes_of_a_picture_go_when_it_is_given_up() -> None:
    waiting = crew._Picture(b"bytes", math.inf)
    assert waiting.future.cancel()
    assert waiting.data is None
    # And it is not decoded when its turn comes.
    waiting.settle(lambda data, until: pytest.fail("it was decoded"))


def test_formats_that_were_not_chosen_are_refused(start: Start) -> None:
    running = start()
    for form in ("TIFF", "PPM", "ICO", "JPEG2000"):
        assert status(running, picture((16, 16), form)) == 415
    for form in ("JPEG", "PNG", "WEBP", "GIF", "BMP"):
        submit(running, picture((16, 16), form)).result(PATIENCE)


def test_a_decoder_that_cannot_start_is_told(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoders.sys, "executable", "/bin/false")
    running = start()
    assert status(running, picture()) == 503
    assert not running.alive
    monkeypatch.undo()
    submit(running, picture()).result(PATIENCE)
    assert running.alive


HOSTILE_ANSWERS = {
    "another shape": b'{"shape": [9, 9, 3], "dtype": "uint8", "seen": [0, 0, 1, 1]}',
    "another type": b'{"shape": [8, 8, 3], "dtype": "object", "seen": [0, 0, 1, 1]}',
    "no box": b'{"shape": [8, 8, 3], "dtype": "uint8", "seen": "abcd"}',
    "NaN": b'{"shape": [8, 8, 3], "dtype": "uint8", "seen": [0, 0, 1, NaN]}',
    "no object": b"[1]",
    "no JSON": b"\x80\x04pickle",
    "nothing": b"{}",
}


@pytest.mark.parametrize("said", HOSTILE_ANSWERS.values(), ids=HOSTILE_ANSWERS)
def test_nothing_but_pixels_is_believed(start: Start, said: bytes) -> None:
    """A picture may have taken its process over."""
    running = start()
    (decoder,) = running._guard._decoders
    answers = io.BytesIO(decoders.HEAD.pack(len(said)) + said + bytes(300))
    with pytest.raises(decoders._NO_ANSWER):
        decoder._fitted(decoders._read_head(answers), answers)


def test_closing_ends_the_processes(start: Start) -> None:
    running = start()
    future = submit(running, picture())
    running.close(PATIENCE)
    assert future.done()
    for decoder in running._guard._decoders:
        assert decoder._process.poll() is not None
