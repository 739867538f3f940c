"""Attack a live server, and print what it cost.

    python benchmarks/attack.py CHECKPOINT [--size 16777216] [--minutes 10]
        [--signals 200] [--fuzzed 10000] [--folder FILES] [--what pictures,bodies]

`pictures`: each hostile file three times at once, then an ordinary picture. `bodies`:
JSON and forms of every shape, while `/healthz` is asked. `soak`: good, bad, slow and
vanishing clients while decoders are killed. `fuzz`: damaged bodies. `signals`: SIGTERM
at random instants under load. A line of JSON for each, with the worst figure.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import importlib.util
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).parents[1]
SECONDS = 120  # until a client gives up
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
figures = load(ROOT / "benchmarks" / "serve.py")
GOOD = hostile.picture("JPEG", (300, 200))


class Target:
    """A server of this machine: what is sent to it, and what it costs."""

    def __init__(self, pid: int, port: int) -> None:
        self.pid = pid
        self.port = port

    def send(self, body: bytes, kind: str = "image/x", path: str = "/predict") -> int:
        """Post a body and return the status; 0 if there is no answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=SECONDS)
        with contextlib.closing(connection):
            try:
                connection.request("POST", path, body, {"Content-Type": kind})
                answer = connection.getresponse()
                answer.read()
            except (OSError, http.client.HTTPException):
                return 0
            return answer.status

    def health(self) -> tuple[int, float]:
        """Return the status of /healthz, and how many seconds it took."""
        started = time.perf_counter()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=SECONDS)
        with contextlib.closing(connection):
            connection.request("GET", "/healthz")
            status = connection.getresponse().status
        return status, time.perf_counter() - started

    def cpu(self) -> float:
        """Return the CPU seconds of the server and of decoders that live."""
        with contextlib.suppress(OSError):
            return float(figures.cpu_seconds(self.pid))
        return self.cpu()

    def mib(self) -> float:
        """Return the resident memory of the server and its decoders."""
        total = 0
        for member in figures.family(self.pid):
            with contextlib.suppress(OSError, ValueError):
                pages = Path(f"/proc/{member}/statm").read_text().split()[1]
                total += int(pages) * os.sysconf("SC_PAGE_SIZE")
        return total / 2**20

    @contextlib.contextmanager
    def watched(self) -> Iterator[dict[str, float]]:
        """Note the largest memory within a block, and the memory behind it."""
        figures: dict[str, float] = {"peak_mib": self.mib()}
        ended = threading.Event()

        def watch() -> None:
            while not ended.wait(0.05):
                figures["peak_mib"] = max(figures["peak_mib"], self.mib())

        thread = threading.Thread(target=watch)
        thread.start()
        try:
            yield figures
        finally:
            ended.set()
            thread.join()
            figures["after_mib"] = self.mib()


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
            while target.send(GOOD) != 200:
                time.sleep(0.1)
            yield target
        finally:
            process.kill()


def pictures(target: Target, files: dict[str, bytes]) -> Iterator[dict[str, Any]]:
    """Send each file three times at once, then an ordinary picture."""
    base = target.mib()
    with ThreadPoolExecutor(3) as clients:
        for name, data in files.items():
            before = target.cpu()
            with target.watched() as cost:
                statuses = list(clients.map(target.send, [data] * 3))
                good = target.send(GOOD)
                # The guard of the decoders returns memory now and then.
                time.sleep(0.6)
            yield {
                "picture": name,
                "bytes": len(data),
                "status": statuses,
                "good": good,
                "cpu_seconds": round(target.cpu() - before, 2),
                "peak_over_base_mib": round(cost["peak_mib"] - base),
                "after_over_base_mib": round(cost["after_mib"] - base),
            }


def bodies(size: int) -> dict[str, tuple[bytes, str]]:
    """Return bodies of other shapes than a picture, with their types."""
    keys = b",".join(b'"%07d":1' % number for number in range(size // 11))
    return {
        "keys": (b"{" + keys + b"}", JSON),
        "lists": (b"[" * size, JSON),
        "pairs": (b'{"image":[' + b"[]," * (size // 3) + b"1]}", JSON),
        "escapes": (b'{"image":"' + b"\\n" * (size // 2) + b'"}', JSON),
        "blanks": (b'{"image":"' + b"A " * (size // 2) + b'"}', JSON),
        "letters": (b'{"image":"' + "é".encode() * (size // 2) + b'"}', JSON),
        "digits": (b'{"image":"x","top":' + b"9" * size + b"}", JSON),
        "long key": (b'{"' + b"k" * size + b'":1}', JSON),
        "base64": (b'{"image":"' + b"A" * (size - 20) + b'"}', JSON),
        "parts": ((PART + b"\r\n") * (size // 70) + b"--x--", FORM),
        "near misses": (PART + b"\r\n--" * (size // 4) + b"\r\n--x--", FORM),
        "returns": (PART + b"\r\n" * (size // 2), FORM),
        "one file": (PART + bytes(size - 200) + b"\r\n--x--", FORM),
        "long head": (b"--x\r\n" + b"a: b\r\n" * (size // 6) + b"\r\n--x--", FORM),
        "zeros": (bytes(size), "image/x"),
    }


def shapes(target: Target, size: int) -> Iterator[dict[str, Any]]:
    """Send each body while /healthz is asked again and again."""
    for name, (body, kind) in bodies(size).items():
        slowest = 0.0
        with ThreadPoolExecutor(1) as clients, target.watched() as cost:
            sent = clients.submit(target.send, body, kind)
            while True:
                status, seconds = target.health()
                slowest = max(slowest, seconds)
                if status != 200 or sent.done():
                    break
        yield {
            "body": name,
            "status": sent.result(),
            "health": status,
            "slowest_health_seconds": round(slowest, 3),
            "peak_mib": round(cost["peak_mib"]),
        }


def soak(target: Target, seconds: float, seed: int = 0) -> dict[str, Any]:
    """Mix clients, and kill decoders; good pictures must all be answered."""
    dice = random.Random(seed)
    counts: Counter[str] = Counter()
    until = time.monotonic() + seconds
    base = target.mib()

    def good() -> None:
        counts[f"good {target.send(GOOD)}"] += 1

    def bad() -> None:
        counts[f"bad {target.send(GOOD[: dice.randrange(len(GOOD))])}"] += 1

    def vanishing() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", target.port, timeout=1)
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection.putrequest("POST", "/predict")
            connection.putheader("Content-Length", str(len(GOOD)))
            connection.endheaders(GOOD[: dice.randrange(len(GOOD))])
            time.sleep(dice.random())
        connection.close()
        counts["vanished"] += 1

    def killing() -> None:
        decoders = figures.family(target.pid)[1:]
        with contextlib.suppress(OSError, IndexError):
            os.kill(dice.choice(decoders), signal.SIGKILL)
            counts["killed"] += 1
        time.sleep(dice.random())

    def client(act: Callable[[], None]) -> None:
        while time.monotonic() < until:
            act()

    with ThreadPoolExecutor(8) as clients:
        list(clients.map(client, [good, good, good, bad, bad, vanishing, killing]))
    health, _ = target.health()
    growth = round(target.mib() - base)
    return {"soak": dict(sorted(counts.items())), "health": health, "grew_mib": growth}


def fuzz(target: Target, count: int, seed: int = 0) -> dict[str, Any]:
    """Send damaged pictures, forms and JSON."""
    dice = random.Random(seed)
    forms = ("PNG", "JPEG", "GIF", "BMP", "WEBP")
    whole = [(hostile.picture(form), "image/x") for form in forms]
    whole.append((PART + GOOD + b"\r\n--x--", FORM))
    whole.append((b'{"image": "QUJD", "top": 3}', JSON))
    counts: Counter[int] = Counter()
    for _ in range(count):
        body, kind = dice.choice(whole)
        damaged = bytearray(body)
        for _ in range(dice.choice([1, 3, 30])):
            damaged[dice.randrange(len(damaged))] = dice.randrange(256)
        counts[target.send(bytes(damaged), kind)] += 1
    return {"fuzzed": dict(sorted(counts.items())), "health": target.health()[0]}


def signals(checkpoint: str, count: int, seed: int = 0) -> dict[str, Any]:
    """End servers at random instants under load."""
    dice = random.Random(seed)
    slowest = 0.0
    counts: Counter[int] = Counter()
    for _ in range(count):
        with server(checkpoint, "--timeout", "5") as target:
            with ThreadPoolExecutor(8) as clients:
                sent = [clients.submit(target.send, GOOD) for _ in range(40)]
                time.sleep(dice.random() / 2)
                os.kill(target.pid, signal.SIGTERM)
                started = time.monotonic()
                while Path(f"/proc/{target.pid}/fd").exists() and _runs(target.pid):
                    time.sleep(0.02)
                slowest = max(slowest, time.monotonic() - started)
            counts.update(future.result() for future in sent)
    # 0: not accepted any more.
    return {"signals": count, "status": dict(counts), "slowest_end_seconds": slowest}


def _runs(pid: int) -> bool:
    state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return state != "Z"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint")
    parser.add_argument("--size", type=int, default=2**24)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--signals", type=int, default=200)
    parser.add_argument("--fuzzed", type=int, default=10_000)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--what", default="pictures,bodies,soak,fuzz,signals")
    options = parser.parse_args()
    what = options.what.split(",")
    files = dict(hostile.hostile_files(options.size)) if "pictures" in what else {}
    for path in sorted(options.folder.glob("*.*")) if options.folder else []:
        files[path.name] = path.read_bytes()
    with server(options.checkpoint, "--formats", "all") as target:
        rows: list[Iterator[dict[str, Any]]] = [pictures(target, files)]
        if "bodies" in what:
            rows.append(shapes(target, options.size))
        for row in (row for some in rows for row in some):
            print(json.dumps(row), flush=True)
        if "soak" in what:
            print(json.dumps(soak(target, 60 * options.minutes)), flush=True)
        if "fuzz" in what:
            print(json.dumps(fuzz(target, options.fuzzed)), flush=True)
    if "signals" in what:
        print(json.dumps(signals(options.checkpoint, options.signals)), flush=True)


if __name__ == "__main__":
    main()
