"""Bound what a client may ask for: the memory of a server is the sum of these bounds."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from ..errors import UserError, unknown
from ..images.opening import known_formats

BROWSER_FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP")
"""What a browser or a telephone sends; MPO is a JPEG with a second picture behind it.

Other decoders are older, larger, or seldom attacked before.
"""


_SPELLINGS = {"JPG": "JPEG", "TIF": "TIFF", "JP2": "JPEG2000", "HEIC": "HEIF"}


@dataclass(frozen=True)
class Limits:
    """Hold the bounds of one server.

    A request over them gets 413 (too large), 408 (slow), 503 (too many) or 504 (too
    much).

    Attributes:
        max_bytes: Of one request's body.
        max_pixels: Of one picture, by its header.
        files: Pictures in one request.
        waiting: Pictures taken in and not yet computed, of all clients.
        held_bytes: Of all clients' bodies in memory.
        connections: Open at the same time.
        seconds: For a body to come, and again for its answer.
        head_seconds: For a request's first lines to come, and for an answer to be
            fetched.
        batch: Pictures computed at once.
        patience: Seconds that a batch waits for pictures that are being decoded.
        formats: Of `images.opening.FORMATS`, those that are decoded; None for all.
    """

    max_bytes: int = 20 * 2**20
    max_pixels: int = 50_000_000
    files: int = 16
    waiting: int = 256
    held_bytes: int = 256 * 2**20
    connections: int = 4_000
    seconds: float = 30.0
    head_seconds: float = 10.0
    batch: int = 32
    patience: float = 0.004
    formats: tuple[str, ...] | None = BROWSER_FORMATS


def formats_of(text: str) -> tuple[str, ...] | None:
    """Return the formats that a user lists.

    Args:
        text: Their names with commas between them, in any case; "all" is all that can
            be decoded here.

    Raises:
        UserError: One of them cannot be decoded here.
    """
    words = [word for word in text.replace(",", " ").upper().split() if word]
    if words == ["ALL"]:
        return None
    known = known_formats()
    chosen = [_SPELLINGS.get(word, word) for word in words]
    for word in chosen:
        if word not in known:
            raise unknown("format", word.lower(), [kind.lower() for kind in known])
    if not chosen:
        raise UserError("no format is left to decode; name some, such as jpeg,png")
    return tuple(chosen)


def busy(sentence: str) -> HTTPException:
    """Return a refusal that invites to try again.

    Args:
        sentence: Why; without a full stop.
    """
    retry = {"Retry-After": "1"}
    return HTTPException(503, f"{sentence}; try again in a second", retry)


def without_frames(error: Exception) -> Exception:
    """Return a refusal that holds nothing but its words.

    The frames that an error has come through hold the body that it is about, and whoever
    waits for the error. Together they would stay until Python searches for such circles.

    Args:
        error: A mistake of ours is left as it is, for the log.
    """
    if isinstance(error, HTTPException):
        return HTTPException(error.status_code, error.detail, error.headers)
    if isinstance(error, TimeoutError):
        return TimeoutError(*error.args)
    return error


class Bodies:
    """Read the bodies of requests within the limits.

    Attributes:
        held: The bytes of all bodies in memory.
    """

    def __init__(self, limits: Limits) -> None:
        """Begin without a body.

        Args:
            limits: The bounds.
        """
        self.limits = limits
        self.held = 0

    @contextlib.asynccontextmanager
    async def read(self, request: Request) -> AsyncIterator[bytes]:
        """Read a body and count its bytes as held until the block ends.

        Args:
            request: Whose body to read.

        Yields:
            The whole body.

        Raises:
            HTTPException: It is too large, too slow, or all bodies together are too
                large. Of a body that is too large uvicorn throws the rest away.
        """
        declared = request.headers.get("content-length", "")
        if declared.isdecimal() and int(declared) > self.limits.max_bytes:
            raise self._too_large()
        received = bytearray()
        size = 0
        try:
            async with _in_time(self.limits.seconds):
                async for chunk in request.stream():
                    received += chunk
                    size += len(chunk)
                    self.held += len(chunk)
                    self._check(size)
            # Whoever takes the body may let it go: there is no name for it here.
            yield _taken(received)
        finally:
            # Also after a refusal, a timeout or a cancelled request: what stayed
            # counted here would be lost to all later clients.
            self.held -= size

    def _check(self, size: int) -> None:
        """Refuse a body of this size, or any while too many bytes are held."""
        if size > self.limits.max_bytes:
            raise self._too_large()
        if self.held > self.limits.held_bytes:
            raise busy("the server holds as many pictures as it can")

    def _too_large(self) -> HTTPException:
        most = f"{self.limits.max_bytes / 2**20:.3g} MiB"
        sentence = f"a request has at most {most}; send a smaller picture"
        return HTTPException(413, sentence)


def _taken(received: bytearray) -> bytes:
    """Return the bytes, which are then held once."""
    body = bytes(received)
    received.clear()
    return body


@contextlib.asynccontextmanager
async def _in_time(seconds: float) -> AsyncIterator[None]:
    """Refuse a client that takes longer than the block may, or goes away."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except (TimeoutError, ClientDisconnect) as error:
        late = f"the whole request did not come within {seconds:g} s; send it again"
        raise HTTPException(408, late, {"Connection": "close"}) from error
