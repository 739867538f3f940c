"""What `mlp-mixer serve` costs beside the bare model: many clients for a while, against
the same pictures in batches.

    python benchmarks/serve.py CHECKPOINT FOLDER [--clients 64] [--seconds 120]
    [--rounds 2] [--engine torch]

The bare model decodes and computes the same files in batches of 32 in its own process;
it and the server take turns. The clients are this process, on the same cores: each
sends a picture, waits, and sends the next. CPU is per picture.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

BARE = """
import itertools, sys, time
from pathlib import Path
from mlp_mixer.inference.predictor import Predictor
checkpoint, folder, seconds, engine = sys.argv[1:]
pictures = [path.read_bytes() for path in sorted(Path(folder).rglob("*")) if path.is_file()]
answers = Predictor(checkpoint, engine=engine).predict(itertools.cycle(pictures), batch_size=32)
n = 0 * sum(1 for _ in zip(range(64), answers))
begun, cpu = time.perf_counter(), time.process_time()
while time.perf_counter() - begun < float(seconds):
    n += sum(1 for _ in zip(range(32), answers))
print(n / (time.perf_counter() - begun), (time.process_time() - cpu) / n)
"""


async def client(
    port: int, requests: list[bytes], at: int, until: float, times: list[float]
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    while (begun := time.perf_counter()) < until:
        writer.write(requests[at := (at + 1) % len(requests)])
        head = await reader.readuntil(b"\r\n\r\n")
        body = await reader.readexactly(
            int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        )
        assert head.startswith(b"HTTP/1.1 200"), head + body
        times.append(time.perf_counter() - begun)
    writer.close()


async def load(
    server: int, port: int, requests: list[bytes], clients: int, seconds: float
) -> dict[str, float]:
    times = list[float]()
    begun = time.perf_counter()
    before = cpu_seconds(server)
    work = (client(port, requests, i, begun + seconds, times) for i in range(clients))
    errors = [x for x in await asyncio.gather(*work, return_exceptions=True) if x]
    rate = len(times) / (time.perf_counter() - begun)
    cuts = statistics.quantiles(times, n=100)
    cpu = (cpu_seconds(server) - before) / len(times)
    waits = {"p50_ms": 1e3 * cuts[49], "p99_ms": 1e3 * cuts[98]}
    return {"rate": rate, "cpu_ms": 1e3 * cpu, "errors": len(errors), **waits}


def cpu_seconds(pid: int) -> float:
    user, system = (
        Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    )
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("checkpoint")
parser.add_argument("folder", type=Path)
for name, default in (
    ("clients", 64),
    ("seconds", 120.0),
    ("rounds", 2),
    ("engine", "torch"),
):
    parser.add_argument(f"--{name}", type=type(default), default=default)
args = parser.parse_args()
post = "POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/octet-stream\r\nContent-Length: "
pictures = [
    path.read_bytes() for path in sorted(args.folder.rglob("*")) if path.is_file()
]
requests = [f"{post}{len(data)}\r\n\r\n".encode() + data for data in pictures]
command = [
    sys.executable,
    "-m",
    "mlp_mixer",
    "serve",
    args.checkpoint,
    "--port",
    "0",
    "--engine",
    args.engine,
]
bare = [
    sys.executable,
    "-c",
    BARE,
    args.checkpoint,
    str(args.folder),
    str(args.seconds),
    args.engine,
]
with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
    port = int(server.stdout.readline().split("127.0.0.1:")[1].split("/")[0])
    asyncio.run(load(server.pid, port, requests, args.clients, 5))  # warm
    for _ in range(args.rounds):
        alone, cpu = map(
            float,
            subprocess.run(bare, stdout=subprocess.PIPE, check=True).stdout.split(),
        )
        row = asyncio.run(load(server.pid, port, requests, args.clients, args.seconds))
        row |= {
            "bare_rate": alone,
            "bare_cpu_ms": 1e3 * cpu,
            "share": row["rate"] / alone,
        }
        peak = (
            Path(f"/proc/{server.pid}/status")
            .read_text()
            .partition("VmHWM:")[2]
            .split()[0]
        )
        print(
            json.dumps(
                {k: round(v, 3) for k, v in row.items()}
                | {"peak_mib": int(peak) // 1024}
            ),
            flush=True,
        )
    server.terminate()
