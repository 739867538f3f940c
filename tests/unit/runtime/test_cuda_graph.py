"""What is kept, copied and forgotten around CUDA graphs.

A recording is imagined here, with its fixed memory.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from mlp_mixer.runtime import cuda_graph
from mlp_mixer.runtime.cuda_graph import MOST_GRAPHS, MOST_IMAGES, graphed

recordings: list[tuple[int, ...]] = []
replays: list[int] = []


def double(images: Tensor) -> Tensor:
    return 2 * images.flatten(1)


@pytest.fixture(autouse=True)
def _recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a capture: a replay reads one tensor and writes one, always the same two."""

    def record(run: Callable[[Tensor], Tensor], images: Tensor) -> cuda_graph.Recorded:
        recordings.append(tuple(images.shape))
        reads = images.clone()
        writes = torch.full_like(run(images), torch.nan)

        def replay() -> None:
            replays.append(len(images))
            # Other threads may come between.
            time.sleep(1e-4)
            writes.copy_(run(reads))

        return reads, replay, writes

    recordings.clear()
    replays.clear()
    monkeypatch.setattr(cuda_graph, "_record", record)


def test_answers_are_right_and_stay_as_they_were_given() -> None:
    run = graphed(double)
    questions = [torch.randn(2, 3, 4, 4) for _ in range(3)]
    kept = [question.clone() for question in questions]
    answers = [run(question) for question in questions]
    for question, before, answer in zip(questions, kept, answers, strict=True):
        assert torch.equal(question, before)
        assert torch.equal(answer, double(question))
    assert recordings == [(2, 3, 4, 4)]
    assert replays == [2, 2, 2]
    outside = answers[0].clone()
    assert outside.add(1).sum().isfinite()


def test_each_shape_and_dtype_has_its_own_and_the_oldest_is_forgotten() -> None:
    run = graphed(double)
    for n in (1, 2, 1):
        assert torch.equal(run(torch.ones(n, 1)), torch.full((n, 1), 2.0))
    assert run(torch.ones(1, 1, dtype=torch.float64)).dtype == torch.float64
    assert recordings == [(1, 1), (2, 1), (1, 1)]
    # Of eight places three are taken: by 2, by 1, and by 1 in float64.
    for n in range(3, MOST_GRAPHS):
        run(torch.ones(n, 1))
    run(torch.ones(1, 1))
    run(torch.ones(2, 1))
    recordings.clear()
    # One more: 1 in float64 was used longest ago.
    run(torch.ones(MOST_GRAPHS + 1, 1))
    run(torch.ones(1, 1))
    run(torch.ones(2, 1))
    assert recordings == [(MOST_GRAPHS + 1, 1)]
    run(torch.ones(1, 1, dtype=torch.float64))
    assert recordings == [(MOST_GRAPHS + 1, 1), (1, 1)]


def test_large_and_empty_batches_are_computed_as_they_are() -> None:
    run = graphed(double)
    for n in (0, MOST_IMAGES + 1):
        assert run(torch.ones(n, 2)).shape == (n, 2)
    assert recordings == []
    run(torch.ones(MOST_IMAGES, 2))
    assert recordings == [(MOST_IMAGES, 2)]


def test_what_cannot_be_recorded_is_said_once_and_computed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(run: object, images: Tensor) -> cuda_graph.Recorded:
        recordings.append(tuple(images.shape))
        raise RuntimeError("operation not permitted when stream is capturing\nand more")

    monkeypatch.setattr(cuda_graph, "_record", refuse)
    run = graphed(double)
    said = r"^no CUDA graph for \(2, 3\): operation not permitted [a-z ]*$"
    with pytest.warns(UserWarning, match=said):
        assert torch.equal(run(torch.ones(2, 3)), torch.full((2, 3), 2.0))
    assert torch.equal(run(torch.ones(2, 3)), torch.full((2, 3), 2.0))
    assert len(recordings) == 1


def test_threads_do_not_read_each_other_s_answers() -> None:
    run = graphed(double)
    wrong = list[int]()

    def ask(number: int) -> None:
        images = torch.full((4, 64), float(number))
        for _ in range(20):
            if not torch.equal(run(images), 2 * images):
                wrong.append(number)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert len(recordings) == 1
