"""What a client may ask for and how long it may take: the memory of a server is the sum
of these bounds.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from dataclasses import dataclass
from typing import Any

import uvicorn
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from uvicorn.protocols.http.h11_impl import H11Protocol

from ..errors import UserError


@dataclass(frozen=True)
class Limits:
    """Bounds of one server; a request over them gets 413 (too large), 408 (slow), 503
    (too many) or 504 (too much).
    """

    max_bytes: int = 20 * 2**20  # of one request's body
    max_pixels: int = 50_000_000  # of one picture, by its header
    files: int = 16  # pictures in one request
    waiting: int = 256  # pictures taken in and not yet computed, of all clients
    held_bytes: int = 256 * 2**20  # of all clients' bodies in memory
    connections: int = 4_000
    seconds: float = 30.0  # for a body to come, and again for its answer
    head_seconds: float = (
        10.0  # for a request's first lines to come, and for an answer to be fetched
    )
    batch: int = 32  # pictures computed at once
    patience: float = 0.004  # seconds that a batch waits for pictures being decoded


def busy(sentence: str) -> HTTPException:
    """A refusal that invites to try again."""
    return HTTPException(
        503, f"{sentence}; try again in a second", {"Retry-After": "1"}
    )


class Bodies:
    """Reads bodies within the limits. `held` counts their bytes in memory; who is done
    with a body takes it off.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.held = 0

    async def read(self, request: Request) -> bytes:
        """The whole body; `HTTPException` if it is too large (uvicorn reads the rest
        away), too slow, or too much.
        """
        most = self.limits.max_bytes
        body = bytearray()
        declared = request.headers.get("content-length", "")
        too_large = HTTPException(
            413, f"a request has at most {most / 2**20:.3g} MiB; send a smaller picture"
        )
        if declared.isdecimal() and int(declared) > most:
            raise too_large
        try:
            async with asyncio.timeout(self.limits.seconds):
                async for chunk in request.stream():
                    body += chunk
                    self.held += len(chunk)
                    if len(body) > most:
                        raise too_large
                    if self.held > self.limits.held_bytes:
                        raise busy("the server holds as many pictures as it can")
            return bytes(body)
        except BaseException as error:
            self.held -= len(body)
            if isinstance(error, (TimeoutError, ClientDisconnect)):
                late = f"the whole request did not come within {self.limits.seconds:g} s; send it again"
                raise HTTPException(408, late, {"Connection": "close"}) from error
            raise


class Impatient(H11Protocol):
    """uvicorn's HTTP/1.1, which waits for ever for a request's head and for a slow
    reader: here waiting has an end.
    """

    limits = Limits()
    _end: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._end_in(self.limits.head_seconds)

    def handle_events(self) -> None:
        before = self.cycle
        super().handle_events()
        if (
            self.cycle is not before
        ):  # a head has come: now for the body, the answer and what is to be said of them
            self._end_in(2 * self.limits.seconds + self.limits.head_seconds)

    def on_response_complete(self) -> None:
        self._end_in(
            self.limits.head_seconds
        )  # to be fetched; a connection without anything to do is closed earlier
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._end_in(None)

    def _end_in(self, seconds: float | None) -> None:
        if self._end:
            self._end.cancel()
        self._end = (
            None
            if seconds is None
            else self.loop.call_later(seconds, self.transport.abort)
        )


def server(app: Any, limits: Limits) -> uvicorn.Server:
    """A server for `run(sockets=[listen(...)])`: a signal has it answer what it has
    begun, and then stop.
    """
    logging.getLogger("python_multipart").setLevel(
        logging.ERROR
    )  # it has something to say to every broken form
    how: dict[str, Any] = {
        "ws": "none",
        "log_level": "error",
        "access_log": False,
        "server_header": False,
    }
    how |= {
        "http": type("Bounded", (Impatient,), {"limits": limits}),
        "limit_concurrency": limits.connections,
    }
    return uvicorn.Server(
        uvicorn.Config(app, timeout_graceful_shutdown=int(limits.seconds) + 1, **how)
    )


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens, in a process that may open as many files as it can;
    `UserError` if it cannot be had.
    """
    with contextlib.suppress(
        ImportError, ValueError, OSError
    ):  # Windows has no such bound
        import resource

        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    try:
        return socket.create_server(
            (host, port),
            family=socket.AF_INET6 if ":" in host else socket.AF_INET,
            backlog=1024,
        )
    except OSError as error:
        reason = error.strerror or error
        raise UserError(
            f"cannot listen on {host} port {port} ({reason}); choose another --host or --port"
        ) from error
