"""When a batch closes, and what becomes of pictures that are given up.

Nothing is timed: the crew that decodes, and the queue, are replaced by ones that record
or wait for the test. `test_crew.py` has the real crew.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np
import pytest
import torch
from starlette.exceptions import HTTPException
from torch import Tensor

from mlp_mixer.images.preprocess import Preprocess
from mlp_mixer.serve import Limits, batcher
from mlp_mixer.serve.batcher import Batcher
from mlp_mixer.serve.decoders import Fitted

PATIENCE = 20  # seconds until a test that hangs fails
FITTED = Fitted(np.zeros((8, 8, 3), np.uint8), (0.0, 0.0, 1.0, 1.0))
SLOW = b"slow"
BAD = b"bad"


class FakeCrew:
    """Decodes at once; bad pictures never, and slow ones when they are let go."""

    alive = True
    starts = 1

    def __init__(self) -> None:
        self.slow: list[Future[Fitted]] = []

    def submit(self, data: bytes, until: float) -> Future[Fitted]:
        future: Future[Fitted] = Future()
        if data == SLOW:
            self.slow.append(future)
        elif data == BAD:
            future.set_exception(HTTPException(415, "not an image"))
        else:
            future.set_result(FITTED)
        return future

    def let_go(self) -> None:
        for future in self.slow:
            if future.set_running_or_notify_cancel():
                future.set_result(FITTED)
        self.slow.clear()

    def close(self, seconds: float) -> None:
        self.let_go()


def no_logits(x_BCHW: Tensor) -> Tensor:
    return torch.zeros(len(x_BCHW), 3)


Start = Callable[..., Batcher]


@pytest.fixture
def crew() -> FakeCrew:
    return FakeCrew()


@pytest.fixture
def start(crew: FakeCrew) -> Iterator[Start]:
    """Starts batchers of pictures of 8 x 8 pixels."""
    started: list[Batcher] = []

    def start(compute: Any = no_logits, **limits: Any) -> Batcher:
        one = Batcher(Preprocess((8, 8)), compute, Limits(**limits), crew)
        started.append(one)
        return one

    yield start
    for one in started:
        one.close()


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
        (future,) = running.submit([b"picture"])
        future.result(PATIENCE)
        assert running.batches == running.computed == number
    assert recording.waits == []


def test_a_batch_waits_for_a_picture_that_is_being_decoded(
    start: Start, recording: type[Recording], crew: FakeCrew
) -> None:
    running = start(patience=PATIENCE)
    futures = running.submit([b"picture", SLOW])
    assert recording.waited.wait(PATIENCE)
    crew.let_go()
    for future in futures:
        future.result(PATIENCE)
    assert (running.batches, running.computed) == (1, 2)
    assert len(recording.waits) == 1


def test_a_full_batch_is_computed_without_the_next_picture(
    start: Start, recording: type[Recording]
) -> None:
    running = start(batch=1)
    for future in running.submit([b"picture"] * 3):
        future.result(PATIENCE)
    assert (running.batches, running.computed) == (3, 3)
    assert recording.waits == []


def test_patience_ends_the_waiting(
    start: Start, monkeypatch: pytest.MonkeyPatch, crew: FakeCrew
) -> None:
    """A picture that decodes for ever keeps no other one waiting."""

    class OutOfPatience(SimpleQueue):
        def get(self, block: bool = True, timeout: float | None = None) -> Any:
            if timeout is not None:
                raise Empty
            return super().get(block, timeout)

    monkeypatch.setattr(batcher, "SimpleQueue", OutOfPatience)
    first, second = start().submit([b"picture", SLOW])
    first.result(PATIENCE)
    assert not second.done()
    crew.let_go()
    second.result(PATIENCE)


def test_too_many_pictures_are_refused_together(start: Start) -> None:
    running = start(waiting=2)
    with pytest.raises(HTTPException) as refused:
        running.submit([b"picture"] * 3)
    assert refused.value.status_code == 503
    assert running.waiting == 0
    assert running.ready


def test_a_bad_picture_has_its_status_and_gives_its_place_back(start: Start) -> None:
    running = start()
    bad, good = running.submit([BAD, b"picture"])
    error = bad.exception(PATIENCE)
    assert isinstance(error, HTTPException)
    assert error.status_code == 415
    answer = good.result(PATIENCE)
    assert (answer.seen.shape, answer.logits.shape) == ((3, 8, 8), (3,))
    assert answer.box == FITTED.box
    assert running.waiting == 0


def test_a_picture_that_is_given_up_is_not_decoded_and_gives_its_place_back(
    start: Start, crew: FakeCrew
) -> None:
    running = start()
    (future,) = running.submit([SLOW])
    assert future.cancel()
    assert crew.slow[0].cancelled()
    assert running.waiting == 0


def test_a_picture_that_is_given_up_while_it_is_decoded_is_not_computed(
    start: Start, crew: FakeCrew
) -> None:
    running = start()
    (future,) = running.submit([SLOW])
    crew.slow[0].set_running_or_notify_cancel()
    assert future.cancel()
    crew.slow.pop().set_result(FITTED)
    assert running.waiting == 0
    running.submit([b"picture"])[0].result(PATIENCE)
    assert running.computed == 1


@pytest.mark.parametrize(
    ("error", "status"),
    [(ZeroDivisionError(), None), (MemoryError(), 503), (RuntimeError("torch"), None)],
)
@pytest.mark.parametrize("where", ["stack", "compute"])
def test_any_error_of_the_thread_that_computes_is_told_and_the_next_batch_comes(
    start: Start,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    status: int | None,
    where: str,
) -> None:
    broken = threading.Event()
    broken.set()

    def fail_once(*arguments: Any) -> Any:
        if broken.is_set():
            raise error
        return kept(*arguments)

    kept = torch.stack if where == "stack" else no_logits
    if where == "stack":
        monkeypatch.setattr(batcher.torch, "stack", fail_once)
    running = start(fail_once if where == "compute" else no_logits)
    (future,) = running.submit([b"picture"])
    found = future.exception(PATIENCE)
    if status is None:
        assert found is error
    else:
        assert isinstance(found, HTTPException)
        assert found.status_code == status
    broken.clear()
    running.submit([b"picture"])[0].result(PATIENCE)
    assert running.alive
    assert running.waiting == 0


def test_a_dead_crew_is_noticed(start: Start, crew: FakeCrew) -> None:
    running = start()
    assert running.alive
    crew.alive = False
    assert not running.alive
    assert not running.ready


def test_closing_answers_what_was_taken_in(start: Start) -> None:
    running = start()
    futures = running.submit([b"picture"] * 5)
    running.close()
    assert all(future.done() for future in futures)
    assert not running.ready
