"""Listen, and bound how long a connection may wait: uvicorn with timeouts."""

from __future__ import annotations

import asyncio
import contextlib
import http
import json
import logging
import os
import socket
import threading
from types import FrameType
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from ..errors import UserError
from .headers import HEADERS
from .limits import Limits

_LAST_SECONDS = 5  # after the requests, for threads and processes


class ProtocolWithTimeouts(H11Protocol):
    """End connections that wait too long.

    uvicorn's own HTTP/1.1 waits for ever for a request's head and for a slow reader.

    Attributes:
        limits: The bounds; `server` makes a subclass with its own.
    """

    limits = Limits()
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first head, if there is room for a connection."""
        super().connection_made(transport)
        self._abort_in(self.limits.head_seconds)
        if len(self.connections) > self.limits.connections:
            self._refuse(503, "too many connections; try again in a second")

    def handle_events(self) -> None:
        """Give a request whose head has come time for its body and its answer."""
        before = self.cycle
        super().handle_events()
        if self.cycle is not before:
            # The body, the answer, and the refusal that either may end in.
            self._abort_in(2 * self.limits.seconds + self.limits.head_seconds)

    def on_response_complete(self) -> None:
        """Begin to wait for the answer to be fetched and for the next head."""
        # uvicorn's keep-alive closes a connection with nothing left to send earlier.
        self._abort_in(self.limits.head_seconds)
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP, in the form of all other refusals.

        Args:
            msg: uvicorn's own sentence.
        """
        self._refuse(400, "this is no HTTP request that can be read")

    def _refuse(self, status: int, sentence: str) -> None:
        body = json.dumps({"error": sentence}).encode()
        headers = [
            *HEADERS.items(),
            ("content-type", "application/json"),
            ("content-length", str(len(body))),
            ("connection", "close"),
        ]
        if status == 503:
            headers.append(("retry-after", "1"))
        reason = http.HTTPStatus(status).phrase.encode()
        pairs = [(name.encode(), value.encode()) for name, value in headers]
        start = h11.Response(status_code=status, headers=pairs, reason=reason)
        # An answer may have begun; then only the end of the connection can follow.
        with contextlib.suppress(h11.LocalProtocolError):
            for event in (start, h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        super().connection_lost(exc)
        self._abort_in(None)

    def _abort_in(self, seconds: float | None) -> None:
        if self._timer:
            self._timer.cancel()
        self._timer = None
        if seconds is not None:
            self._timer = self.loop.call_later(seconds, self.transport.abort)


def server(app: Any, limits: Limits) -> uvicorn.Server:
    """Return a server, to be started with `run(sockets=[listen(...)])`.

    A signal has it answer what it has begun, and then stop.

    Args:
        app: An ASGI application, such as `create_app` returns.
        limits: How long and for how many connections it waits.
    """
    # It logs a line for every broken form, which any client could fill a disk with.
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
    config = uvicorn.Config(
        app,
        http=type("BoundProtocol", (ProtocolWithTimeouts,), {"limits": limits}),
        ws="none",
        # uvicorn's own would close the log handlers of all other libraries, and absl's
        # closes with it what was stderr when it was imported. Errors go to stderr so, too.
        log_config=None,
        log_level="error",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=int(limits.seconds) + 1,
    )
    return _Server(config)


class _Server(uvicorn.Server):
    """Ends within its grace, whatever hangs, and at once when it is asked twice."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to end, or end.

        Args:
            sig: The signal.
            frame: Where it came.
        """
        if self.should_exit:
            os._exit(128 + sig)
        super().handle_exit(sig, frame)
        # Requests in time, then threads in time: what is left then hangs.
        grace = (self.config.timeout_graceful_shutdown or 0) + _LAST_SECONDS
        last = threading.Timer(grace, os._exit, (128 + sig,))
        last.daemon = True
        last.start()


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens, and let the process open as many files as it can.

    Args:
        host: A name or an address; with a colon it is IPv6.
        port: 0 takes a free one.

    Raises:
        UserError: The address cannot be had.
    """
    # Every connection is an open file. Windows has no such bound.
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=1024)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(
            f"cannot listen on {host} port {port} ({reason}); choose another --host or "
            "--port"
        ) from error
