"""Compare `mlp-mixer serve` under many clients with the bare model.

    python benchmarks/serve.py CHECKPOINT FOLDER
        [--clients 64] [--seconds 120] [--rounds 2] [--engine torch] [--in-process]

The bare model decodes and computes the same files in batches of 32 in a process of its
own; it and the server take turns. The clients are this process, on the same cores: each
sends a picture, waits, and sends the next. CPU is that of an image, and `cpu_share` that
of the bare model by that of the server: what is left when nothing but the server runs.
With `--in-process` a second server, which decodes in its own threads, takes turns too.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

# The answers begin with 64 that warm up, and are counted by the batch.
BARE = """
import itertools, sys, time
from pathlib import Path
from mlp_mixer.inference.predictor import Predictor
checkpoint, folder, seconds, engine = sys.argv[1:]
files = [path for path in sorted(Path(folder).rglob("*")) if path.is_file()]
pictures = itertools.cycle([path.read_bytes() for path in files])
answers = Predictor(checkpoint, engine=engine).predict(pictures, batch_size=32)
for _ in range(64):
    next(answers)
count = 0
start = time.perf_counter()
cpu = time.process_time()
while time.perf_counter() - start < float(seconds):
    for _ in range(32):
        next(answers)
    count += 32
wall = time.perf_counter() - start
print(count / wall, (time.process_time() - cpu) / count)
"""

# The server without decoders: what they cost is the difference.
IN_PROCESS = """
import sys, torch
from mlp_mixer.cli import run
from mlp_mixer.images.decode import decode_image
from mlp_mixer.serve import batcher
from mlp_mixer.serve.decoders import Fitted
from mlp_mixer.serve.threads import Threads

class Crew:
    alive = True
    starts = 0

    def __init__(self, preprocess, limits, count):
        self.preprocess = preprocess
        self.threads = Threads(count, "decode", lambda: torch.set_num_threads(1))

    def submit(self, data, until):
        return self.threads.submit(lambda: self.decode(data))

    def decode(self, data):
        pixels = decode_image(data, channels=self.preprocess.channels)
        seen = self.preprocess.seen(*pixels.shape[:2])
        return Fitted(self.preprocess.fit(pixels), seen)

    def close(self, seconds):
        self.threads.close(seconds)

batcher.Crew = Crew
sys.exit(run(sys.argv[1:]))
"""


async def client(
    port: int, requests: list[bytes], first: int, until: float, seconds: list[float]
) -> None:
    """Send one request after the other, and note how long each takes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    number = first
    while (start := time.perf_counter()) < until:
        number = (number + 1) % len(requests)
        writer.write(requests[number])
        head = await reader.readuntil(b"\r\n\r\n")
        after_name = head.lower().partition(b"content-length: ")[2]
        length = int(after_name.partition(b"\r\n")[0])
        body = await reader.readexactly(length)
        assert head.startswith(b"HTTP/1.1 200"), head + body
        seconds.append(time.perf_counter() - start)
    writer.close()


async def load(
    server: int, port: int, requests: list[bytes], clients: int, seconds: float
) -> dict[str, float]:
    """Keep the server busy for a while."""
    waits = list[float]()
    start = time.perf_counter()
    cpu_before = cpu_seconds(server)
    until = start + seconds
    work = [client(port, requests, i, until, waits) for i in range(clients)]
    ended = await asyncio.gather(*work, return_exceptions=True)
    wall = time.perf_counter() - start
    cpu = cpu_seconds(server) - cpu_before
    percentiles = statistics.quantiles(waits, n=100)
    return {
        "rate": len(waits) / wall,
        "cpu_ms": 1e3 * cpu / len(waits),
        "errors": sum(error is not None for error in ended),
        "p50_ms": 1e3 * percentiles[49],
        "p99_ms": 1e3 * percentiles[98],
    }


def family(pid: int) -> list[int]:
    """Return a process and its children: the server's decoders."""
    children = Path(f"/proc/{pid}/task").glob("*/children")
    return [
        pid,
        *(int(child) for file in children for child in file.read_text().split()),
    ]


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a server and its decoders, those that ended among them."""
    ticks = 0
    for member in family(pid):
        stat = Path(f"/proc/{member}/stat").read_text()
        # After the name of the program, which may hold spaces (man proc_pid_stat): user
        # and system time, its own and that of children that it has waited for.
        times = stat.rpartition(")")[2].split()[11:15]
        ticks += sum(map(int, times))
    return ticks / os.sysconf("SC_CLK_TCK")


def peak_mib(pid: int) -> int:
    """Return the largest memory that a server and each of its decoders have had."""
    kib = 0
    for member in family(pid):
        status = Path(f"/proc/{member}/status").read_text()
        kib += int(status.partition("VmHWM:")[2].split()[0])
    return kib // 1024


def http_requests(folder: Path) -> list[bytes]:
    """Return a request for each picture of a folder."""
    head = (
        "POST /predict HTTP/1.1\r\nHost: localhost\r\n"
        "Content-Type: application/octet-stream\r\nContent-Length: "
    )
    requests = []
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            data = path.read_bytes()
            requests.append(f"{head}{len(data)}\r\n\r\n".encode() + data)
    return requests


def bare_model(options: argparse.Namespace) -> tuple[float, float]:
    """Run the bare model for a while: images per second, CPU seconds of an image."""
    given = (options.checkpoint, options.folder, options.seconds, options.engine)
    command = [sys.executable, "-c", BARE, *map(str, given)]
    process = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    rate, cpu = map(float, process.stdout.split())
    return rate, cpu


@contextlib.contextmanager
def server(options: argparse.Namespace, *how: str) -> Iterator[tuple[int, int]]:
    """Start a server, and yield its process and its port."""
    command = [sys.executable, *how, "serve", options.checkpoint, "--port", "0"]
    command += ["--engine", options.engine, "--timeout", "600"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        address = process.stdout.readline()
        yield process.pid, int(address.split("127.0.0.1:")[1].split("/")[0])
        process.terminate()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--engine", default="torch")
    parser.add_argument("--in-process", action="store_true")
    options = parser.parse_args()
    requests = http_requests(options.folder)
    ways = {"processes": ("-m", "mlp_mixer")}
    if options.in_process:
        ways["in_process"] = ("-c", IN_PROCESS)
    with contextlib.ExitStack() as stack:
        running = {
            way: stack.enter_context(server(options, *how)) for way, how in ways.items()
        }

        def serve(way: str, seconds: float) -> dict[str, float]:
            run = load(*running[way], requests, options.clients, seconds)
            return asyncio.run(run)

        for way in ways:
            # Warms up.
            serve(way, 5)
        for _ in range(options.rounds):
            bare_rate, bare_cpu = bare_model(options)
            for way in ways:
                row = serve(way, options.seconds)
                row["bare_rate"] = bare_rate
                row["bare_cpu_ms"] = 1e3 * bare_cpu
                row["share"] = row["rate"] / bare_rate
                row["cpu_share"] = row["bare_cpu_ms"] / row["cpu_ms"]
                rounded = {key: round(value, 3) for key, value in row.items()}
                rounded["peak_mib"] = peak_mib(running[way][0])
                print(json.dumps({"decoders": way, **rounded}), flush=True)


if __name__ == "__main__":
    main()
