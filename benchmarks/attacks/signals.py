"""SIGTERM at random instants, under load: all that was accepted is answered."""

from __future__ import annotations

import contextlib
import http.client
import json
import math
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .target import GOOD, RAW, Row, Target

TIMEOUT = 5  # seconds, of --timeout
GRACE = TIMEOUT + 6
LINGER = 1.0  # seconds; the server waits so long for who has connected
HALF = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\nhalf"

# Loads the model once, then forks: what runs is what `mlp-mixer serve` runs, but it starts
# in a part of the time.
FORKS = """
import json, os, sys
import mlp_mixer.inference, mlp_mixer.runtime.engines, mlp_mixer.serve
from mlp_mixer.cli import main
sys.argv[1:] = json.loads(sys.argv[1])
loaded = mlp_mixer.inference.Predictor(sys.argv[2], device="cpu", engine="torch")
mlp_mixer.inference.Predictor = lambda *_, **__: loaded
for line in sys.stdin:
    child = os.fork()
    if not child:
        main()
    print("pid", child, flush=True)
    _, status, used = os.wait4(child, 0)
    code = os.waitstatus_to_exitcode(status)
    print("ended", code, used.ru_utime + used.ru_stime, flush=True)
"""


class Server:
    """One after the other of a few servers, in a process that forks."""

    def __init__(self, checkpoint: str) -> None:
        options = ["--port", "0", "--engine", "torch", "--timeout", str(TIMEOUT)]
        arguments = json.dumps(["serve", checkpoint, *options])
        self._process = subprocess.Popen(
            [sys.executable, "-c", FORKS, arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def start(self) -> Target:
        """Start a server, and return it as soon as it says its address."""
        assert self._process.stdin
        self._process.stdin.write("start\n")
        self._process.stdin.flush()
        # The lines of the two processes may come in any order.
        pid = 0
        port = 0
        while not (pid and port):
            said = self._said()
            if said.startswith("pid"):
                pid = int(said.split()[1])
            elif said.startswith("serving"):
                port = int(said.partition("127.0.0.1:")[2].split("/")[0])
        return Target(pid, port)

    def end(self) -> tuple[int, float]:
        """Wait until it has ended, and return its exit code and its CPU seconds."""
        while not (said := self._said()).startswith("ended"):
            pass
        _, code, used = said.split()
        return int(code), float(used)

    def close(self) -> None:
        """End the process that forks."""
        # Its pipes, too.
        with self._process:
            self._process.kill()

    def _said(self) -> str:
        assert self._process.stdout
        said = self._process.stdout.readline()
        if not said:
            raise EOFError("the process that forks has ended")
        return said


class Clients:
    """Threads that ask until there is no server any more.

    Attributes:
        counts: What they got. "closed" is a connection that was taken, on which a whole
            request was sent and nothing came back; "late" is one on which it was sent
            more than a second after the signal.
        signalled: When the server was told to end.
    """

    def __init__(self, target: Target, seed: int) -> None:
        self.counts: Counter[str] = Counter()
        self.signalled = math.inf
        self._target = target
        asks = [self._new, self._new, self._kept, self._kept, self._slow]
        self._threads = [
            threading.Thread(target=self._run, args=(ask, random.Random(seed + number)))
            for number, ask in enumerate(asks)
        ]
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        """Wait until all of them have found the server gone."""
        for thread in self._threads:
            thread.join()

    def _run(self, ask: Any, dice: random.Random) -> None:
        kept = http.client.HTTPConnection("127.0.0.1", self._target.port, timeout=60)
        with contextlib.closing(kept):
            while True:
                told = ask(kept, dice)
                self.counts[told] += 1
                if told == "refused":
                    return

    def _new(self, kept: http.client.HTTPConnection, dice: random.Random) -> str:
        """Ask on a connection of its own."""
        kept.close()
        return self._ask(kept, GOOD)

    def _kept(self, kept: http.client.HTTPConnection, dice: random.Random) -> str:
        """Ask on a connection that stays open."""
        time.sleep(0.05 * dice.random())
        return self._ask(kept, GOOD)

    def _slow(self, kept: http.client.HTTPConnection, dice: random.Random) -> str:
        """Ask with a body that takes up to a second."""

        def pieces() -> Iterator[bytes]:
            step = len(GOOD) // 4
            for start in range(0, len(GOOD), step):
                time.sleep(dice.random() / 4)
                yield GOOD[start : start + step]

        kept.close()
        return self._ask(kept, pieces())

    def _ask(
        self, connection: http.client.HTTPConnection, body: bytes | Iterator[bytes]
    ) -> str:
        if connection.sock is None:
            try:
                connection.connect()
            except OSError:
                return "refused"
        sent = time.monotonic()
        # The answer may come before the whole body has gone.
        with contextlib.suppress(OSError):
            connection.request("POST", "/predict", body, {"Content-Type": RAW})
        try:
            answer = connection.getresponse()
            answer.read()
        except (OSError, http.client.HTTPException):
            connection.close()
            return "late" if sent > self.signalled + LINGER else "closed"
        return str(answer.status)


def signals(checkpoint: str, count: int, seed: int = 0) -> Iterator[Row]:
    """End servers at random instants under load, and count what clients got.

    Of every few one is signalled as soon as it says its address.
    """
    told: Counter[str] = Counter()
    codes: Counter[int] = Counter()
    ends: list[float] = []
    used: list[float] = []
    server = Server(checkpoint)
    for number in range(count):
        dice = random.Random(f"{seed} {number}")
        target = server.start()
        clients = Clients(target, number)
        time.sleep(dice.choice([0, 1, 1, 2]) * dice.random())
        before = target.cpu()
        started = time.monotonic()
        clients.signalled = started
        os.kill(target.pid, signal.SIGTERM)
        code, cpu = server.end()
        ends.append(time.monotonic() - started)
        used.append(cpu - before)
        codes[code] += 1
        clients.join()
        told += clients.counts
        if number % 10 == 9 or number == count - 1:
            yield {
                "signals": number + 1,
                "told": dict(sorted(told.items())),
                "codes": dict(codes),
                "end_seconds": _summary(ends),
                "end_cpu_seconds": _summary(used),
                "grace_seconds": GRACE,
            }
    yield _twice(server)
    server.close()


def _twice(server: Server) -> Row:
    """Signal a server that waits for the rest of a body, and then once more."""
    target = server.start()
    with socket.create_connection(("127.0.0.1", target.port)) as slow:
        slow.sendall(HALF)
        # Its head has been read when the next one is answered.
        target.ask(GOOD)
        os.kill(target.pid, signal.SIGTERM)
        time.sleep(1)
        waits = Path(f"/proc/{target.pid}/cmdline").read_bytes() != b""
        started = time.monotonic()
        os.kill(target.pid, signal.SIGTERM)
        code, _ = server.end()
        seconds = time.monotonic() - started
    return {
        "waited after one": waits,
        "seconds after a second": round(seconds, 2),
        "code": code,
    }


def _summary(values: list[float]) -> Row:
    return {
        "median": round(statistics.median(values), 2),
        "most": round(max(values), 2),
    }
