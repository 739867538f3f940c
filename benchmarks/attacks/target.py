"""A server of this machine: what is sent to it, and what that costs."""

from __future__ import annotations

import contextlib
import http.client
import importlib.util
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from serve import cpu_seconds, family

ROOT = Path(__file__).parents[2]
_MIB_A_PAGE = os.sysconf("SC_PAGE_SIZE") / 2**20
SECONDS = 300  # until a client gives up
WORKER = b"mlp_mixer.images.worker"
RAW = "application/octet-stream"
JSON = "application/json"
FORM = "multipart/form-data; boundary=x"
PART = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'


def load(path: Path) -> ModuleType:
    """Import a file by its path."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


hostile = load(ROOT / "tests" / "hostile_files.py")
GOOD = hostile.picture("JPEG", (300, 200))


class Reply(NamedTuple):
    """What came back; status 0: nothing, and -1: no connection."""

    status: int
    body: bytes = b""

    @property
    def reason(self) -> str:
        """Return the sentence of a refusal; empty if there is none."""
        with contextlib.suppress(ValueError, AttributeError):
            return str(json.loads(self.body).get("error") or "")
        return ""


class Health(NamedTuple):
    """An answer of /healthz.

    `cpu` is what the server and its decoders computed meanwhile: however busy the machine
    is, the answer waited for no more than that.
    """

    status: int
    seconds: float
    cpu: float


class Target:
    """A server by its process and its port."""

    def __init__(self, pid: int, port: int) -> None:
        self.pid = pid
        self.port = port

    def ask(
        self,
        body: bytes | Iterator[bytes] | None = None,
        kind: str = RAW,
        path: str = "/predict",
        chunked: bool = False,
    ) -> Reply:
        """Post a body, or get an address if there is none.

        An iterator is sent in pieces; `chunked` says that a body has its pieces already.
        """
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=SECONDS)
        with contextlib.closing(connection):
            try:
                connection.connect()
            except OSError:
                return Reply(-1)
            method = "GET" if body is None else "POST"
            head = {"Content-Type": kind}
            if chunked:
                head["Transfer-Encoding"] = "chunked"
            # A server may answer, and close, before all has been sent.
            with contextlib.suppress(OSError):
                connection.request(method, path, body, head)
            with contextlib.suppress(OSError, http.client.HTTPException):
                answer = connection.getresponse()
                return Reply(answer.status, answer.read())
        return Reply(0)

    def health(self) -> Health:
        """Ask whether the server lives, and note what that took."""
        before = self.cpu()
        started = time.perf_counter()
        status = self.ask(path="/healthz").status
        seconds = time.perf_counter() - started
        return Health(status, seconds, self.cpu() - before)

    def metric(self, name: str) -> float:
        """Return one figure of /metrics."""
        for line in self.ask(path="/metrics").body.decode().splitlines():
            if line.startswith(f"{name} "):
                return float(line.rpartition(" ")[2])
        raise KeyError(name)

    def cpu(self) -> float:
        """Return the CPU seconds of the server and of all its decoders so far."""
        # A decoder may end while its figures are read.
        while True:
            with contextlib.suppress(OSError):
                return float(cpu_seconds(self.pid))

    def members(self) -> list[int]:
        """Return the server and its decoders, without one that is just being started.

        That has the memory of the server until it runs its own program.
        """
        members = [self.pid]
        for child in family(self.pid)[1:]:
            with contextlib.suppress(OSError):
                if WORKER in Path(f"/proc/{child}/cmdline").read_bytes():
                    members.append(child)
        return members

    def mib(self, own: bool = False) -> float:
        """Return the resident memory of the server and its decoders, or its own."""
        members = [self.pid] if own else self.members()
        return sum(_pages(member)[0] for member in members) * _MIB_A_PAGE

    def anonymous_mib(self, own: bool = False) -> float:
        """Return the memory behind which no file is.

        A system that is short of memory drops pages of files, which come back.
        """
        members = [self.pid] if own else self.members()
        pages = [_pages(member) for member in members]
        return sum(resident - shared for resident, shared in pages) * _MIB_A_PAGE

    def most_mib(self) -> float:
        """Return the sum of what each process had at most since `forget_most`."""
        total = 0
        for member in self.members():
            with contextlib.suppress(OSError, ValueError, IndexError):
                status = Path(f"/proc/{member}/status").read_text()
                total += int(status.partition("VmHWM:")[2].split()[0])
        return total / 2**10

    def forget_most(self) -> None:
        """Have the system begin anew to note how much each process has."""
        for member in self.members():
            with contextlib.suppress(OSError):
                Path(f"/proc/{member}/clear_refs").write_text("5")

    @contextlib.contextmanager
    def watched(self) -> Iterator[dict[str, float]]:
        """Note the largest memory within a block.

        `peak` is what was seen, `bound` the sum of all processes' own peaks: the truth
        lies between them.
        """
        memory = {"peak": self.mib()}
        self.forget_most()
        ended = threading.Event()

        def watch() -> None:
            while not ended.wait(0.02):
                memory["peak"] = max(memory["peak"], self.mib())

        thread = threading.Thread(target=watch)
        thread.start()
        try:
            yield memory
        finally:
            ended.set()
            thread.join()
            memory["bound"] = max(memory["peak"], self.most_mib())


def _pages(pid: int) -> tuple[int, int]:
    """Return the resident pages of a process, and those of them with a file behind."""
    with contextlib.suppress(OSError, ValueError):
        _, resident, shared = Path(f"/proc/{pid}/statm").read_text().split()[:3]
        return int(resident), int(shared)
    return 0, 0


@contextlib.contextmanager
def server(checkpoint: str, *options: str) -> Iterator[Target]:
    """Start a server, and end it behind the block."""
    command = [sys.executable, "-m", "mlp_mixer", "serve", checkpoint, "--port", "0"]
    command += ["--engine", "torch", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            said = process.stdout.readline()
            target = Target(process.pid, int(said.rpartition(":")[2].split("/")[0]))
            while target.ask(GOOD).status != 200:
                time.sleep(0.1)
            yield target
        finally:
            process.kill()


Row = dict[str, Any]
