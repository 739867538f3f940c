"""Attack a live server, and write what it cost.

    python benchmarks/attack.py CHECKPOINT [--what pictures,bodies,soak,fuzz,signals]
        [--folder FILES] [--size 16777216] [--side 7000] [--minutes 10]
        [--fuzzed 10000] [--signals 200] [--out benchmarks/results/attack.jsonl]

`pictures`: each hostile or costly picture three times at once, and ordinary ones beside
and behind them. `bodies`: JSON and forms of every shape, while `/healthz` is asked.
`soak`: good, bad, slow and vanishing clients while decoders are killed; each answer is
compared. `fuzz`: damaged bodies. `signals`: SIGTERM at random instants under load.

A line of JSON for each, and one with the worst figures of all lines. Seconds of CPU are
the server's and its decoders'; MiB are those beyond what they have when they begin.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import torch
from attacks.bodies import shapes
from attacks.fuzz import fuzz
from attacks.pictures import pictures
from attacks.signals import signals
from attacks.soak import Soak
from attacks.target import ROOT, Row, hostile, load, server

from mlp_mixer.machine import environment

OUT = ROOT / "benchmarks" / "results" / "attack.jsonl"
FACTS = ("mlp_mixer", "commit", "python", "torch", "device", "cpu_count", "threads")
# Decoders take their limits in processor time; those of waiting would tell of a busy
# machine, so they are far away.
PATIENT = ("--timeout", "120")


def files(folder: Path | None, size: int, side: int) -> Iterator[tuple[str, bytes]]:
    """Yield all pictures: hostile ones, costly ones, and those of a folder."""
    yield from hostile.hostile_files(size)
    yield from load(ROOT / "tests" / "costly_files.py").costly_files(side)
    for path in sorted(folder.glob("*.*")) if folder else []:
        if path.suffix != ".md":
            yield path.name, path.read_bytes()


def worst(rows: list[Row], what: str) -> Row:
    """Return the largest of each figure, with the row that it comes from."""
    keys = [key for key, value in rows[0].items() if isinstance(value, (int, float))]
    told: Row = {"worst of": len(rows)}
    for key in (*keys, "good_cpu_seconds"):
        if key in rows[0] and key != "bytes":
            row = max(rows, key=lambda row: _largest(row[key]))
            told[key] = [_largest(row[key]), row[what]]
    return told


def _largest(value: object) -> float:
    return float(max(value) if isinstance(value, list) else value)  # type: ignore[arg-type, call-overload]


def attack(options: argparse.Namespace) -> Iterator[Row]:
    """Run what was asked for, and yield its rows."""
    what = options.what.split(",")
    checkpoint = options.checkpoint
    if "signals" in what:
        yield from signals(checkpoint, options.signals, options.seed)
    if not {"pictures", "bodies", "soak", "fuzz"} & set(what):
        return
    with server(checkpoint, "--formats", "all", *PATIENT) as target:
        yield {"base_mib": round(target.mib()), "server_mib": round(target.mib(True))}
        if "pictures" in what:
            made = dict(files(options.folder, options.size, options.side))
            yield from _with_worst(pictures(target, made), "picture")
        if "bodies" in what:
            yield from _with_worst(shapes(target, options.size), "body")
        if "soak" in what:
            soak = Soak(target, checkpoint, options.seed, options.pause)
            yield soak.run(60 * options.minutes)
        if "fuzz" in what:
            yield fuzz(target, options.fuzzed, options.seed)


def _with_worst(rows: Iterable[Row], what: str) -> Iterator[Row]:
    seen = []
    for row in rows:
        seen.append(row)
        yield row
    yield worst(seen, what)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint")
    parser.add_argument("--what", default="pictures,bodies,soak,fuzz,signals")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--size", type=int, default=2**24)
    parser.add_argument("--side", type=int, default=7000)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--pause", type=float, default=0.2, help="of a client")
    parser.add_argument("--fuzzed", type=int, default=10_000)
    parser.add_argument("--signals", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    facts = environment(torch.device("cpu"))
    begun = {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "checkpoint": Path(options.checkpoint).name,
        **{name: facts[name] for name in FACTS},
        "what": options.what,
    }
    with options.out.open("a") as file:
        for row in itertools.chain([begun], attack(options)):
            print(json.dumps(row), flush=True)
            file.write(json.dumps(row) + "\n")
            file.flush()


if __name__ == "__main__":
    main()
