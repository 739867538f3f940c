"""When a batch closes, and how many large pictures are decoded at once.

Nothing is timed: decoders, locks and queues are replaced by ones that record, or wait
for each other.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from starlette.exceptions import HTTPException
from torch import Tensor

from mlp_mixer.images.preprocess import Preprocess
from mlp_mixer.serve import Limits, batcher
from mlp_mixer.serve.batcher import Batcher

PATIENCE = 20  # seconds until a test that hangs fails


def picture(side: int = 8) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (side, side)).save(file, "PNG")
    return file.getvalue()


def no_logits(x_BCHW: Tensor) -> Tensor:
    return torch.zeros(len(x_BCHW), 3)


Start = Callable[..., Batcher]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts batchers of pictures of 8 x 8 pixels."""
    started: list[Batcher] = []

    def start(**limits: Any) -> Batcher:
        one = Batcher(Preprocess((8, 8)), no_logits, Limits(**limits))
        started.append(one)
        return one

    yield start
    for one in started:
        one.close()


class Meeting:
    """Counts the threads inside the decoder and at the lock, and waits for both."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.lock = threading.Lock()
        self.inside = 0
        self.most_inside = 0
        self.asked = 0
        self.may_leave = False

    def decode(self, data: bytes, *, channels: int) -> np.ndarray:
        """Stand for the decoder: stay inside until the test has seen enough."""
        with self.changed:
            self.inside += 1
            self.most_inside = max(self.most_inside, self.inside)
            self.changed.notify_all()
            assert self.changed.wait_for(lambda: self.may_leave, PATIENCE)
            self.inside -= 1
        return np.zeros((8, 8, channels), np.uint8)

    def __enter__(self) -> None:
        """Stand for the lock of large pictures."""
        with self.changed:
            self.asked += 1
            self.changed.notify_all()
        assert self.lock.acquire(timeout=PATIENCE)

    def __exit__(self, *error: object) -> None:
        self.lock.release()

    def wait_for_two(self) -> None:
        """Wait until two threads are at the lock, or inside without having asked."""
        with self.changed:
            ready = self.changed.wait_for(
                lambda: self.inside >= 2 or (self.asked >= 2 and self.inside >= 1),
                PATIENCE,
            )
            assert ready
            self.may_leave = True
            self.changed.notify_all()


def test_large_pictures_are_decoded_one_at_a_time(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each may take a gigabyte, and the limits promise how much memory a server takes."""
    meeting = Meeting()
    monkeypatch.setattr(batcher, "_LARGE", 100)
    monkeypatch.setattr(batcher, "decode_image", meeting.decode)
    running = start()
    monkeypatch.setattr(running, "_large", meeting)
    futures = running.submit([picture(side=11), picture(side=11)])
    meeting.wait_for_two()
    for future in futures:
        future.result(PATIENCE)
    assert meeting.most_inside == 1


def test_small_pictures_are_decoded_side_by_side(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    meeting = Meeting()
    monkeypatch.setattr(batcher, "decode_image", meeting.decode)
    futures = start().submit([picture(), picture()])
    meeting.wait_for_two()
    for future in futures:
        future.result(PATIENCE)
    assert meeting.most_inside == 2


class Recording(SimpleQueue):
    """A queue that records each wait for a further picture."""

    waits: list[float]
    waited: threading.Event

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        if timeout is not None:
            self.waits.append(timeout)
            self.waited.set()
        return super().get(block, timeout)


@pytest.fixture
def recording(monkeypatch: pytest.MonkeyPatch) -> type[Recording]:
    monkeypatch.setattr(Recording, "waits", [], raising=False)
    monkeypatch.setattr(Recording, "waited", threading.Event(), raising=False)
    monkeypatch.setattr(batcher, "SimpleQueue", Recording)
    return Recording


def test_a_batch_does_not_wait_when_no_other_picture_is_on_its_way(
    start: Start, recording: type[Recording]
) -> None:
    running = start(patience=0.001)
    for number in range(1, 4):
        (future,) = running.submit([picture()])
        future.result(PATIENCE)
        assert running.batches == running.computed == number
    assert recording.waits == []


def test_a_batch_waits_for_a_picture_that_is_being_decoded(
    start: Start, recording: type[Recording], monkeypatch: pytest.MonkeyPatch
) -> None:
    decode = batcher.decode_image
    slow = picture(side=9)

    def decode_late(data: bytes, *, channels: int) -> Any:
        if data == slow:
            assert recording.waited.wait(PATIENCE)
        return decode(data, channels=channels)

    monkeypatch.setattr(batcher, "decode_image", decode_late)
    running = start(patience=PATIENCE)
    for future in running.submit([picture(), slow]):
        future.result(PATIENCE)
    assert (running.batches, running.computed) == (1, 2)
    assert len(recording.waits) == 1


def test_a_full_batch_is_computed_without_the_next_picture(
    start: Start, recording: type[Recording]
) -> None:
    running = start(batch=1)
    for future in running.submit([picture()] * 3):
        future.result(PATIENCE)
    assert (running.batches, running.computed) == (3, 3)
    assert recording.waits == []


def test_patience_ends_the_waiting(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A picture that decodes for ever keeps no other one waiting."""
    may_go_on = threading.Event()
    decode = batcher.decode_image
    slow = picture(side=9)

    class OutOfPatience(SimpleQueue):
        def get(self, block: bool = True, timeout: float | None = None) -> Any:
            if timeout is not None:
                raise Empty
            return super().get(block, timeout)

    def decode_late(data: bytes, *, channels: int) -> Any:
        if data == slow:
            assert may_go_on.wait(PATIENCE)
        return decode(data, channels=channels)

    monkeypatch.setattr(batcher, "SimpleQueue", OutOfPatience)
    monkeypatch.setattr(batcher, "decode_image", decode_late)
    first, second = start().submit([picture(), slow])
    first.result(PATIENCE)
    assert not second.done()
    may_go_on.set()
    second.result(PATIENCE)


def test_too_many_pictures_are_refused_together(start: Start) -> None:
    running = start(waiting=2)
    with pytest.raises(HTTPException) as refused:
        running.submit([picture()] * 3)
    assert refused.value.status_code == 503
    assert running.waiting == 0
    assert running.ready


def test_a_bad_picture_has_its_status_and_gives_its_place_back(start: Start) -> None:
    running = start()
    bad, good = running.submit([b"nothing", picture()])
    error = bad.exception(PATIENCE)
    assert isinstance(error, HTTPException)
    assert error.status_code == 415
    seen, logits = good.result(PATIENCE)
    assert (seen.shape, logits.shape) == ((3, 8, 8), (3,))
    assert running.waiting == 0


def test_closing_answers_what_was_taken_in(start: Start) -> None:
    running = start()
    futures = running.submit([picture()] * 5)
    running.close()
    assert all(future.done() for future in futures)
    assert not running.ready
