"""Return to the system what large pictures took, which glibc would keep for later."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
from pathlib import Path

_STATM = Path("/proc/self/statm")
_WORTH = 32 * 2**20  # bytes; less may come back by itself


def resident() -> int:
    """Return the bytes of this process in memory; 0 where that is not told."""
    with contextlib.suppress(OSError):
        return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


class Returned:
    """Remembers how much a process had when it last returned memory."""

    def __init__(self) -> None:
        """Begin with what it has now."""
        self._had = resident()

    def again(self) -> None:
        """Return memory if the process has taken much since."""
        if resident() <= self._had + _WORTH:
            return
        gc.collect()
        # Other systems and other C libraries have no such function.
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL("libc.so.6").malloc_trim(0)
        self._had = resident()
