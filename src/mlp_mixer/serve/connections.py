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
from collections.abc import Callable
from types import FrameType
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from ..errors import UserError
from .headers import HEADERS
from .limits import Limits

_LAST_SECONDS = 5  # after the requests, for threads and processes
_LINGER = 1.0  # seconds for a request that is on its way when the server ends

# Pieces of a body cost the event loop some ten microseconds each. A body has some for
# nothing, and one more for each so many bytes: clients send thousands at a time.
_FREE_PIECES = 1_000
_BYTES_OF_A_PIECE = 256
_LONGEST_HEAD = 2**14  # bytes; h11's own default
_UNREADABLE = "this is no HTTP request that can be read"


class _Conversation(h11.Connection):
    """Reads HTTP, and refuses a body that comes in very many pieces.

    Attributes:
        problem: Why it was refused.
    """

    problem = _UNREADABLE
    _pieces = 0
    _bytes = 0

    def next_event(self) -> Any:
        """Return what comes next.

        Raises:
            h11.RemoteProtocolError: It is no HTTP, or a body in crumbs.
        """
        event = super().next_event()
        if isinstance(event, h11.Request):
            self._pieces = 0
            self._bytes = 0
        elif isinstance(event, h11.Data):
            self._pieces += 1
            self._bytes += len(event.data)
            if self._pieces > _FREE_PIECES + self._bytes // _BYTES_OF_A_PIECE:
                self.problem = "the body comes in too many pieces; send larger ones"
                raise h11.RemoteProtocolError(self.problem)
        return event


class ProtocolWithTimeouts(H11Protocol):
    """End connections that wait too long.

    uvicorn's own HTTP/1.1 waits for ever for a request's head and for a slow reader.

    Attributes:
        limits: The bounds; `server` makes a subclass with its own.
        ending: Whether the server has been asked to end.
    """

    limits = Limits()
    ending: Callable[[], bool] = staticmethod(lambda: False)
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first head, if there is room for a connection."""
        super().connection_made(transport)
        # uvicorn has made one of h11's own.
        self.conn = _Conversation(h11.SERVER, _LONGEST_HEAD)
        self._abort_in(self.limits.head_seconds)
        if self.ending():
            self.loop.call_later(_LINGER, self._close_if_idle)
        if len(self.connections) > self.limits.connections:
            self._refuse(503, "too many connections; try again in a second")

    def handle_events(self) -> None:
        """Give a request whose head has come time for its body and its answer."""
        before = self.cycle
        super().handle_events()
        if self.cycle is not before:
            # The body, the answer, and the refusal that either may end in.
            self._abort_in(2 * self.limits.seconds + self.limits.head_seconds)
            if self.ending():
                self._say_goodbye()

    def shutdown(self) -> None:
        """Answer the request that has come, or is on its way, and no other one."""
        if self._is_idle():
            self.loop.call_later(_LINGER, self._close_if_idle)
        else:
            self._say_goodbye()

    def _is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _close_if_idle(self) -> None:
        if self._is_idle() and not self.transport.is_closing():
            self.conn.send(h11.ConnectionClosed())
            self.transport.close()

    def _say_goodbye(self) -> None:
        """Have the answer say that it is the last one of its connection."""
        close = (b"connection", b"close")
        self.cycle.default_headers = [*self.cycle.default_headers, close]
        self.cycle.keep_alive = False

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
        self._refuse(400, getattr(self.conn, "problem", _UNREADABLE))

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


def server(
    app: Any, limits: Limits, stopped: Callable[[], int | None] = lambda: None
) -> uvicorn.Server:
    """Return a server, to be started with `run(sockets=[listen(...)])`.

    A signal has it answer what it has begun, and then stop.

    Args:
        app: An ASGI application, such as `create_app` returns.
        limits: How long and for how many connections it waits.
        stopped: Returns a signal that came before the server listened to signals.
    """
    # It logs a line for every broken form, which any client could fill a disk with.
    logging.getLogger("python_multipart").setLevel(logging.ERROR)

    class BoundProtocol(ProtocolWithTimeouts):
        """That of this server."""

    BoundProtocol.limits = limits
    config = uvicorn.Config(
        app,
        http=BoundProtocol,
        ws="none",
        # uvicorn's own would close the log handlers of all other libraries, and absl's
        # closes with it what was stderr when it was imported. Errors go to stderr so, too.
        log_config=None,
        log_level="error",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=int(limits.seconds) + 1,
    )
    running = _Server(config, stopped)
    BoundProtocol.ending = staticmethod(lambda: running.should_exit)
    return running


class _Server(uvicorn.Server):
    """Ends within its grace, whatever hangs, and at once when it is asked twice."""

    def __init__(
        self, config: uvicorn.Config, stopped: Callable[[], int | None]
    ) -> None:
        """Begin to wait for a signal.

        Args:
            config: What it serves.
            stopped: As `server` says.
        """
        super().__init__(config)
        self._stopped = stopped
        self._signal = 0
        self._asked = threading.Event()
        self._ended = threading.Event()
        # Here, since a thread cannot be started safely by the handler of a signal: that
        # may interrupt the start of another one.
        threading.Thread(target=self._end_in_time, name="end", daemon=True).start()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to end, or end.

        Args:
            sig: The signal.
            frame: Where it came.
        """
        if self.should_exit:
            os._exit(128 + sig)
        super().handle_exit(sig, frame)
        self._ends_by(sig)

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer until a signal comes, and a little longer.

        Args:
            sockets: They listen.
        """
        try:
            await super().serve(sockets)
        finally:
            self._ended.set()

    async def on_tick(self, counter: int) -> bool:
        """Begin to end if a signal came before this server heard them.

        Args:
            counter: Of the ticks.
        """
        if not self.should_exit and (sig := self._stopped()):
            self.should_exit = True
            self._ends_by(sig)
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take in who has come already, then answer what was asked.

        Args:
            sockets: They are closed.
        """
        loop = asyncio.get_running_loop()
        for server in self.servers:
            for listener in server.sockets:
                # Windows has another kind of loop.
                with contextlib.suppress(NotImplementedError):
                    loop.remove_reader(listener.fileno())
        # Those that the loop has accepted become connections.
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        # And those that only the system has accepted: it would reset them. Between the
        # last one and the end of listening lie some microseconds.
        accepted: list[socket.socket] = []
        for server, listener in zip(self.servers, sockets or [], strict=False):
            _accept(listener, accepted)
            server.close()
        late = []
        for connection in accepted:
            connection.setblocking(False)
            coming = loop.connect_accepted_socket(self._protocol, connection)
            late.append(loop.create_task(coming))
        await super().shutdown(sockets)
        await asyncio.gather(*late, return_exceptions=True)

    def _protocol(self) -> ProtocolWithTimeouts:
        protocol: type[ProtocolWithTimeouts] = self.config.http  # type: ignore[assignment]
        return protocol(self.config, self.server_state, self.lifespan.state)

    def _ends_by(self, sig: int) -> None:
        self._signal = sig
        self._asked.set()

    def _end_in_time(self) -> None:
        self._asked.wait()
        # Requests in time, then threads in time: what is left then hangs.
        grace = (self.config.timeout_graceful_shutdown or 0) + _LAST_SECONDS
        if not self._ended.wait(grace):
            os._exit(128 + self._signal)


def _accept(listener: socket.socket, accepted: list[socket.socket]) -> None:
    """Accept the connections that the system has taken in for a socket."""
    # Nobody has come, or it is closed.
    with contextlib.suppress(OSError):
        while True:
            accepted.append(listener.accept()[0])


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
