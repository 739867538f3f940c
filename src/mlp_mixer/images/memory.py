"""Return to the system what large pictures took, which glibc would keep for later."""

from __future__ import annotations

import contextlib
import ctypes
import os
from pathlib import Path

_STATM = Path("/proc/self/statm")
_WORTH = 8 * 2**20  # bytes; less may come back by itself
# What stays after all is taken for needed in some twenty steps.
_BELIEVED = 1 / 16


def resident() -> int:
    """Return the bytes of this process in memory; 0 where that is not told."""
    with contextlib.suppress(OSError):
        return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


class Returned:
    """Remembers how little memory a process needs, and returns what it has besides."""

    def __init__(self) -> None:
        """Begin with what it has now."""
        self._needed = float(resident())

    def again(self) -> None:
        """Return memory if the process has much more than it needs."""
        has = resident()
        # Pictures that were on their way last time may be gone since then.
        self._needed = min(self._needed, has)
        if has <= self._needed + _WORTH:
            return
        # Other systems and other C libraries have no such function.
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL("libc.so.6").malloc_trim(0)
        self._needed += _BELIEVED * max(0.0, resident() - self._needed)
