"""The server behind a socket: slow clients, many clients, its beginning and its end."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import logging
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue

import pytest
from torch import Tensor

from mlp_mixer.cli import run
from mlp_mixer.images.preprocess import Preprocess
from mlp_mixer.inference import Predictor
from mlp_mixer.serve import Limits, connections, create_app
from mlp_mixer.serve.batcher import Batcher
from mlp_mixer.weights.checkpoint import save

PATIENCE = 300
"""Seconds until what should have come is missing: the machine may be busy."""
SIZE = struct.pack("<iiHHIIiiII", 40, 30, 1, 24, 0, 3600, 0, 0, 0, 0)
HEAD = struct.pack("<IHHI", 54 + 3600, 0, 0, 54) + struct.pack("<I", 40) + SIZE
PICTURE = b"BM" + HEAD + bytes(range(240)) * 15  # a BMP of 40 x 30 pixels
POST = (
    b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/x\r\n"
    b"Content-Length: %d\r\n\r\n"
)


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)


def everything(connection: socket.socket) -> bytes:
    """Return what comes until the other side closes; a hard close counts as one."""
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while data := connection.recv(2**16):
            received += data
    return received


def answered(port: int) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    with contextlib.closing(connection):
        connection.request("POST", "/predict", PICTURE, {"Content-Type": "image/x"})
        return connection.getresponse().status


def test_a_head_that_never_ends_is_cut_off_also_the_second_one(
    serving: Callable[..., int],
) -> None:
    port = serving(head_seconds=1)
    with connect(port) as silent, connect(port) as slow, connect(port) as second:
        slow.sendall(POST[:20])
        second.sendall(POST % len(PICTURE) + PICTURE)
        assert second.recv(2**16).startswith(b"HTTP/1.1 200")
        second.sendall(POST[:20])
        assert answered(port) == 200
        assert everything(silent) == everything(slow) == b""
        assert b"HTTP" not in everything(second)


def test_a_body_that_trickles_gets_408(serving: Callable[..., int]) -> None:
    port = serving(seconds=1)
    with connect(port) as slow:
        slow.sendall(POST % len(PICTURE) + PICTURE[:9])
        assert b" 408 " in everything(slow)[:20]
        assert answered(port) == 200


def test_a_client_that_does_not_fetch_its_answer_is_cut_off(
    serving: Callable[..., int],
) -> None:
    port = serving(head_seconds=0.5, seconds=0.2)
    with contextlib.closing(socket.socket()) as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        deaf.settimeout(PATIENCE)
        deaf.connect(("127.0.0.1", port))
        # The answers are more than the system's buffers hold.
        deaf.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 2000)
        time.sleep(2)
        received = everything(deaf)
        # It was aborted, and what it had not fetched is gone.
        assert received.count(b"HTTP/1.1 200") < 2000


def test_a_head_without_end_in_bytes_is_refused(serving: Callable[..., int]) -> None:
    port = serving()
    with connect(port) as greedy:
        with contextlib.suppress(OSError):
            greedy.sendall(b"GET / HTTP/1.1\r\nX: " + b"x" * 2**20)
        assert b"HTTP/1.1 200" not in everything(greedy)
    assert answered(port) == 200


def test_many_open_connections_do_not_keep_others_out(
    serving: Callable[..., int],
) -> None:
    port = serving()
    with contextlib.ExitStack() as stack:
        for number in range(int(os.environ.get("MLP_MIXER_OPEN_CONNECTIONS", "50"))):
            idle = stack.enter_context(connect(port))
            # Every other one sends the beginning of a head.
            if number % 2:
                idle.sendall((POST % len(PICTURE))[: number % 60])
        assert answered(port) == 200


def test_bytes_that_are_no_http_are_refused(serving: Callable[..., int]) -> None:
    port = serving()
    for nonsense in (b"\x16\x03\x01\x02\x00" * 9 + b"\r\n\r\n", b"GET /\r\n\r\n"):
        with connect(port) as connection:
            connection.sendall(nonsense)
            assert b" 400 " in everything(connection)[:20]
    assert answered(port) == 200


def test_a_signal_has_it_answer_what_it_has_begun(
    predictor: Predictor, tmp_path: Path
) -> None:
    weights = save(
        tmp_path / "w.safetensors",
        predictor.model,
        preprocess=predictor.checkpoint.preprocess,
    )
    options = [str(weights), "--port", "0", "--engine", "torch"]
    command = [sys.executable, "-m", "mlp_mixer", "serve", *options]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        assert process.stderr
        said = process.stdout.readline()
        try:
            port = int(said.split("127.0.0.1:")[1].split("/")[0])
            while True:
                with contextlib.suppress(OSError):
                    if answered(port) == 200:
                        break
            with connect(port) as begun:
                begun.sendall(POST % len(PICTURE) + PICTURE[:99])
                # Its head is read by then.
                time.sleep(1)
                process.send_signal(signal.SIGTERM)
                time.sleep(0.5)
                begun.sendall(PICTURE[99:])
                head, _, body = everything(begun).partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200")
            assert json.loads(body)["predictions"][0]["path"] == "picture"
            assert process.wait(PATIENCE) == 143
            assert "Traceback" not in process.stderr.read()
        finally:
            process.kill()


def test_a_server_ends_without_taking_python_apart() -> None:
    program = (
        "import atexit, sys; from mlp_mixer.cli import main; "
        "atexit.register(print, 'taken apart'); main()"
    )
    command = [sys.executable, "-c", program, "serve", "--help"]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "--allowed-hosts" in ended.stdout
    assert "taken apart" not in ended.stdout
    command[-2] = "models"
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "taken apart" in ended.stdout


def test_mistakes_at_the_start_are_one_sentence(
    predictor: Predictor,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    serving: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    weights = save(tmp_path / "w.safetensors", predictor.model)
    start = ["serve", str(weights), "--engine", "torch", "--port"]
    assert run([*start, str(serving())]) == 2
    assert "cannot listen on 127.0.0.1 port" in capsys.readouterr().err
    assert run([*start, "0", "--host", "no.such.host.invalid"]) == 2
    assert "choose another --host or --port" in capsys.readouterr().err
    # As if it could not be imported.
    monkeypatch.setitem(sys.modules, "mlp_mixer.serve", None)
    assert run([*start, "0"]) == 2
    assert "pip install fastapi uvicorn" in capsys.readouterr().err


def test_a_server_leaves_the_logs_of_others_alone(
    predictor: Predictor, caplog: pytest.LogCaptureFixture
) -> None:
    closed: list[logging.Handler] = []

    class Others(logging.StreamHandler[io.StringIO]):
        def close(self) -> None:
            closed.append(self)

    others = Others(io.StringIO())
    limits = Limits()
    connections.server(create_app(predictor, limits), limits)
    assert not closed
    logging.getLogger("uvicorn.error").error("still said")
    assert "still said" in caplog.text
    assert others.stream.getvalue() == "", "nor does it take them for its own"


def test_refusals_of_the_protocol_look_like_all_others(
    serving: Callable[..., int],
) -> None:
    port = serving(connections=2)
    with connect(port) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nno colon\r\n\r\n")
        head, _, body = everything(connection).partition(b"\r\n\r\n")
    assert b" 400 " in head[:20]
    assert set(json.loads(body)) == {"error"}
    assert b"x-content-type-options: nosniff" in head.lower()
    with connect(port) as first, connect(port) as second:
        for one in (first, second):
            one.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert one.recv(2**16).startswith(b"HTTP/1.1 200")
        with connect(port) as third:
            head, _, body = everything(third).partition(b"\r\n\r\n")
    assert b" 503 " in head[:20]
    assert b"retry-after: 1" in head.lower()
    assert b"content-security-policy" in head.lower()
    assert "too many connections" in json.loads(body)["error"]


def test_a_second_signal_and_the_end_of_the_grace_end_the_process(
    monkeypatch: pytest.MonkeyPatch, predictor: Predictor
) -> None:
    """Whatever hangs then: the process is left without asking any thread."""
    ended = SimpleQueue[int]()
    monkeypatch.setattr(connections.os, "_exit", ended.put)
    monkeypatch.setattr(connections, "_LAST_SECONDS", -1)
    running = connections.server(None, Limits(seconds=0))
    running.handle_exit(signal.SIGTERM, None)
    assert running.should_exit
    # The grace is over.
    assert ended.get(timeout=PATIENCE) == 143
    running.handle_exit(signal.SIGTERM, None)
    assert ended.get(timeout=PATIENCE) == 143


def test_a_signal_that_came_too_early_is_heard(predictor: Predictor) -> None:
    """Between the line that says the address and uvicorn's own handlers."""
    limits = Limits()
    running = connections.server(
        create_app(predictor, limits), limits, lambda: signal.SIGTERM
    )
    with connections.listen("127.0.0.1", 0) as listener:
        running.run(sockets=[listener])
    assert running.should_exit


def test_closing_does_not_wait_for_what_hangs() -> None:
    released = threading.Event()

    def hang(x_BCHW: Tensor) -> Tensor:
        released.wait()
        return x_BCHW

    running = Batcher(Preprocess((8, 8)), hang, Limits(seconds=0.2))
    (future,) = running.submit([PICTURE])
    while running.batches == 0:
        time.sleep(0.01)
    running.close()
    assert not future.done()
    released.set()
