"""Every item has one answer, and no process is left behind."""

from __future__ import annotations

import os
import select
import signal

from mlp_mixer.check.isolated import WorkerFailure, map_isolated


def _deadly(number: int) -> int:
    if number % 14 == 0:
        os._exit(1)
    if number % 7 == 0:
        raise RuntimeError("no")
    return -number


def test_every_item_has_one_answer_however_many_die() -> None:
    answers = dict(map_isolated(_deadly, range(101), workers=3))
    assert sorted(answers) == list(range(101))
    for number, answer in answers.items():
        if number % 7 == 0:
            assert isinstance(answer, WorkerFailure)
        else:
            assert answer == -number


def test_a_failure_says_how_the_process_ended() -> None:
    answers = dict(map_isolated(_deadly, [7, 14], workers=1))
    assert answers[0] == WorkerFailure("cannot be read (RuntimeError: no)")
    assert isinstance(answers[1], WorkerFailure)
    assert "ends the process that reads it (exit code 1)" in answers[1].reason


def test_without_items_nothing_is_started() -> None:
    assert list(map_isolated(_deadly, [], workers=3)) == []


def test_a_killed_parent_leaves_no_process_behind() -> None:
    """They hold the write ends of a pipe, which ends with the last of them."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        for _ in map_isolated(_deadly, range(1, 6), workers=3):
            os.kill(os.getpid(), signal.SIGKILL)
    os.close(writing)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    assert select.select([reading], [], [], 20)[0] == [reading]
    assert os.read(reading, 1) == b""
    os.close(reading)
