"""Turn whatever happens inside a decoder into one sentence for the user."""

from __future__ import annotations

import contextlib
import threading
import warnings
from collections.abc import Iterator, Sequence

from PIL import Image, UnidentifiedImageError

from ..errors import UserError


class CostlyError(UserError):
    """A picture asks for more work or memory than its bounds allow."""


@contextlib.contextmanager
def refuse_broken(name: str, formats: Sequence[str], max_pixels: int) -> Iterator[None]:
    """Turn whatever Pillow raises on hostile bytes into `UserError`.

    It may be OSError, struct.error, ZeroDivisionError and many others.

    Args:
        name: Of the picture, as the sentence calls it.
        formats: Those that could have been read.
        max_pixels: Those that could have been decoded.
    """
    try:
        with _quiet:
            yield
    except UserError:
        raise
    except MemoryError as error:
        raise CostlyError(
            f"{name} needs more memory than there is to decode it; shrink it first"
        ) from error
    except Image.DecompressionBombError as error:
        raise CostlyError(
            f"{name} is too large: at most {max_pixels} pixels are read; shrink it first"
        ) from error
    except UnidentifiedImageError as error:
        raise UserError(
            f"{name} is not an image in a known format ({', '.join(formats)})"
        ) from error
    except Exception as error:
        cut_short = isinstance(error, EOFError) or "truncated" in str(error)
        kind = "cut short" if cut_short else "damaged"
        raise UserError(f"{name} is {kind} and cannot be decoded: {error}") from error


class _Quiet:
    """Ignore Pillow's warnings while any thread decodes.

    `warnings.catch_warnings` alone is not for threads: of two that overlap, the last
    restores the silence of the first.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._depth = 0
        self._caught = warnings.catch_warnings()

    def __enter__(self) -> None:
        with self._lock:
            if self._depth == 0:
                self._caught = warnings.catch_warnings()
                self._caught.__enter__()
                warnings.filterwarnings("ignore", module=r"PIL\b")
            self._depth += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._depth -= 1
            if self._depth == 0:
                self._caught.__exit__(None, None, None)


_quiet = _Quiet()
