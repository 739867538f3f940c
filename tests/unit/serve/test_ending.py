"""A server that ends answers or refuses every request that it has taken in."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import uvicorn

from mlp_mixer.inference import Predictor
from mlp_mixer.serve import Limits, connections, create_app
from mlp_mixer.serve.service import Service

PATIENCE = 300
"""Seconds until what should have come is missing: the machine may be busy."""
BEGUN = threading.Event()
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
LENGTH = [(b"content-length", b"4")]
Start = Callable[..., tuple[uvicorn.Server, int]]


async def slow(scope: Any, receive: Any, send: Any) -> None:
    """An application that reads a body, and takes the seconds that its query says."""
    while (await receive()).get("more_body"):
        pass
    BEGUN.set()
    await asyncio.sleep(float(scope["query_string"] or 0))
    await send({"type": "http.response.start", "status": 200, "headers": LENGTH})
    await send({"type": "http.response.body", "body": b"done"})


@pytest.fixture
def start() -> Iterator[Start]:
    with contextlib.ExitStack() as stack:

        def start(app: Any = slow, **bounds: Any) -> tuple[uvicorn.Server, int]:
            listener = stack.enter_context(connections.listen("127.0.0.1", 0))
            running = connections.server(app, Limits(**bounds))
            running.config.lifespan = "off"
            options = {"sockets": [listener]}
            thread = threading.Thread(target=running.run, kwargs=options)
            thread.start()

            def stop() -> None:
                running.should_exit = True
                thread.join()

            stack.callback(stop)
            while not running.started:
                time.sleep(0.01)
            return running, listener.getsockname()[1]

        yield start


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)


def everything(connection: socket.socket) -> bytes:
    received = b""
    while data := connection.recv(2**16):
        received += data
    return received


def one_answer(connection: socket.socket) -> bytes:
    """Return what comes until the end of the body; it may come in several parts."""
    received = b""
    while not received.endswith(b"done"):
        received += connection.recv(2**16)
    return received


def wait_until_it_stops_to_listen(port: int) -> None:
    with contextlib.suppress(ConnectionError):
        while True:
            connect(port).close()
            time.sleep(0.01)


def test_who_has_connected_and_asks_a_little_later_is_answered(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A busy machine may take longer than a second for the lines below.
    monkeypatch.setattr(connections, "_LINGER", 20)
    running, port = start()
    with connect(port) as fresh, connect(port) as kept:
        kept.sendall(GET)
        assert one_answer(kept).startswith(b"HTTP/1.1 200")
        running.should_exit = True
        # Who comes now is taken in, or does not come to be connected.
        wait_until_it_stops_to_listen(port)
        for late in (fresh, kept):
            late.sendall(GET)
            head, _, body = everything(late).partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200")
            assert b"connection: close" in head.lower()
            assert body == b"done"


def test_an_answer_under_way_says_that_it_is_the_last(start: Start) -> None:
    running, port = start()
    BEGUN.clear()
    with connect(port) as asking:
        asking.sendall(b"GET /?1 HTTP/1.1\r\nHost: x\r\n\r\n")
        assert BEGUN.wait(PATIENCE)
        running.should_exit = True
        head, _, body = everything(asking).partition(b"\r\n\r\n")
    assert b"connection: close" in head.lower()
    assert body == b"done"


def test_who_says_nothing_does_not_hold_it_up(start: Start) -> None:
    running, port = start()
    with connect(port) as silent:
        running.should_exit = True
        assert everything(silent) == b""


@pytest.mark.parametrize(
    "crumbs",
    [
        b"1\r\nx\r\n" * 9_000,
        b"1;name=value\r\nx\r\n" * 3_000,
        b"A0\r\n" + b"x" * 160 + b"\r\n" + b"2\r\nxx\r\n" * 2_000,
    ],
    ids=["bytes", "with extensions", "behind a piece"],
)
def test_a_body_in_crumbs_is_refused(start: Start, crumbs: bytes) -> None:
    _, port = start()
    head = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    with connect(port) as asking:
        asking.sendall(head + crumbs)
        told, _, body = everything(asking).partition(b"\r\n\r\n")
    assert b" 400 " in told[:20]
    assert "too many pieces" in json.loads(body)["error"]


def test_a_body_in_pieces_of_the_usual_size_is_not(start: Start) -> None:
    _, port = start()
    head = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    with connect(port) as asking:
        for _ in range(2):
            asking.sendall(head + (b"400\r\n" + b"x" * 1024 + b"\r\n") * 2_000)
            asking.sendall(b"0\r\n\r\n")
            assert one_answer(asking).startswith(b"HTTP/1.1 200")


def test_what_is_not_answered_within_the_grace_is_refused(
    start: Start, predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """uvicorn alone would answer it with 500 and plain text."""

    BEGUN.clear()

    async def hang(self: Service) -> dict[str, str]:
        BEGUN.set()
        await asyncio.Event().wait()
        raise AssertionError("it waits for ever")

    monkeypatch.setattr(Service, "healthz", hang)
    # One second, since it counts whole ones.
    running, port = start(create_app(predictor, Limits(seconds=0.1)), seconds=0.1)
    with connect(port) as asking:
        asking.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert BEGUN.wait(PATIENCE)
        running.should_exit = True
        head, _, body = everything(asking).partition(b"\r\n\r\n")
    assert b" 503 " in head[:20]
    assert b"x-content-type-options: nosniff" in head.lower()
    assert "the server is ending" in json.loads(body)["error"]
