"""What all output of the command passes through: `safe_streams`.

Names of files and of classes come from strangers. They must not steer the terminal, a
letter that the console lacks must not end a command, and a full disk is one sentence.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterator
from typing import Any, TextIO, cast

from ..errors import UserError, without_secrets

# Control characters but the end of a line and the tab, those that turn the direction of
# a line, and bytes of names that are not UTF-8.
_STEERING = re.compile(
    "[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\u200e\\u200f\\u2028-\\u202e\\u2066-\\u2069"
    "\\ud800-\\udfff]"
)
_BREAKING = re.compile(r"[\n\t]")


def visible(text: str) -> str:
    r"""Return text whose control characters are escapes that JSON reads back.

    Args:
        text: Any text; ends of lines and tabs stay.
    """
    return _STEERING.sub(_escape, text)


def printable(text: str) -> str:
    """Return text without what would break the line or steer the terminal.

    Args:
        text: Such as the name of a file, which may hold any character.
    """
    return _BREAKING.sub(_escape, visible(text))


def _escape(match: re.Match[str]) -> str:
    letter = match[0]
    return repr(letter)[1:-1] if letter < " " else f"\\u{ord(letter):04x}"


@contextlib.contextmanager
def safe_streams() -> Iterator[None]:
    """Let stdout and stderr take any text, for the block.

    Yields:
        Nothing. A result that cannot be written is a `UserError`; progress on stderr
        that cannot be written is lost.
    """
    before = sys.stdout, sys.stderr
    for stream in before:
        # A file or a pipe on Windows has an encoding of few letters.
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")
    out = _Stream(before[0], needed=True)
    err = _Stream(before[1], needed=False)
    sys.stdout, sys.stderr = cast(TextIO, out), cast(TextIO, err)
    try:
        yield
        out.flush()
    finally:
        sys.stdout, sys.stderr = before


class _Stream:
    """A stream of text that escapes what would steer the terminal."""

    def __init__(self, stream: TextIO, *, needed: bool, escapes: bool = True) -> None:
        self._stream = stream
        self._needed = needed
        self._escapes = escapes

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @property
    def rich_proxied_file(self) -> _Stream:
        """What Rich writes to instead: its colours are meant to steer."""
        return _Stream(self._stream, needed=self._needed, escapes=False)

    def write(self, text: str) -> int:
        """Write text."""
        # Bars of other libraries go back to the beginning of their line.
        parts = text.split("\r") if not self._needed else [text]
        shown = "\r".join(map(visible, parts)) if self._escapes else text
        shown = without_secrets(shown)
        with self._refused():
            self._stream.write(shown)
        return len(text)

    def flush(self) -> None:
        """Write what waits."""
        with self._refused():
            self._stream.flush()

    @contextlib.contextmanager
    def _refused(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            # Python would try once more at the end, and complain.
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
            if not self._needed:
                return
            if isinstance(error, BrokenPipeError):
                raise
            raise UserError(
                f"cannot write to the standard output: {error.strerror}; free some "
                "space, or write to another place"
            ) from error
