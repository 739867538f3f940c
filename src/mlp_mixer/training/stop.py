"""A polite stop: the run finishes its step, saves, and then ends.

Ctrl-C, SIGTERM, and SIGHUP of a terminal that is closed ask for it.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any


class Interrupted(Exception):  # noqa: N818 - not an error
    """Says that a signal stopped the run after a state was saved."""

    def __init__(self, step: int, signal_number: int) -> None:
        """Remember where the run stopped.

        Args:
            step: How many steps are done and saved.
            signal_number: The signal, such as `signal.SIGTERM`.
        """
        super().__init__(f"stopped at step {step}")
        self.step = step
        self.signal_number = signal_number


class StopRequest:
    """Remembers the first such signal inside its block; a second acts as usual.

    Attributes:
        signal_number: The signal that came, None before one came.
    """

    def __init__(self) -> None:
        self.signal_number: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        # Python lets only the main thread set handlers; in another thread a signal acts
        # as it would without us.
        if threading.current_thread() is threading.main_thread():
            for number in _polite_signals():
                self._previous[number] = signal.signal(number, self._remember)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self._restore()

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.signal_number = number
        # A second Ctrl-C must end a program that hangs.
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()


def _polite_signals() -> list[signal.Signals]:
    """Return the signals that ask for a stop; under nohup SIGHUP is none of them."""
    asked = [signal.SIGINT, signal.SIGTERM]
    # Windows has no such signal.
    hangup = getattr(signal, "SIGHUP", None)
    if hangup is not None and signal.getsignal(hangup) != signal.SIG_IGN:
        asked.append(hangup)
    return asked
