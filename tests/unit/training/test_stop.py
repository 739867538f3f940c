"""A stop request remembers the first signal and puts the handlers back."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from mlp_mixer.training.stop import StopRequest


def test_the_first_signal_is_remembered_and_a_second_acts_as_usual() -> None:
    with StopRequest() as stop:
        assert stop.signal_number is None
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.signal_number == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_the_handlers_are_put_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with StopRequest():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before


def test_another_thread_sets_no_handlers() -> None:
    before = signal.getsignal(signal.SIGTERM)
    seen = []

    def work() -> None:
        with StopRequest():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]
