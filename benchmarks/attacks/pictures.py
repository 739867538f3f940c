"""Each hostile picture three times at once, and ordinary pictures beside and behind."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from .target import GOOD, Row, Target

AT_ONCE = 3
REST = 1.5  # seconds; the server returns memory every one


def pictures(
    target: Target, files: Mapping[str, bytes], rest: float = REST
) -> Iterator[Row]:
    """Attack with each file, and yield what became of it after some seconds of rest."""
    base = Base(target.mib(), target.anonymous_mib())
    for name, data in files.items():
        yield {
            "picture": name,
            "bytes": len(data),
            **_attacked(target, data, base, rest),
        }


class Base(NamedTuple):
    """What a server has before it is attacked, in MiB."""

    resident: float
    anonymous: float


def _attacked(target: Target, data: bytes, base: Base, rest: float) -> Row:
    before = target.cpu()
    with target.watched() as memory, ThreadPoolExecutor(AT_ONCE + 1) as clients:
        sent = [clients.submit(target.ask, data) for _ in range(AT_ONCE)]
        # So that the ordinary one comes when all decoders are busy.
        time.sleep(0.1)
        beside = target.cpu()
        good_beside = target.ask(GOOD).status
        beside = target.cpu() - beside
        statuses = [reply.result().status for reply in sent]
        behind = target.cpu()
        good_behind = target.ask(GOOD).status
        behind = target.cpu() - behind
        time.sleep(rest)
    return {
        "status": statuses,
        "good": [good_beside, good_behind],
        # Of the server and its decoders, until the ordinary picture was answered.
        "good_cpu_seconds": [round(beside, 2), round(behind, 2)],
        "cpu_seconds": round(target.cpu() - before, 2),
        "peak_over_base_mib": round(memory["peak"] - base.resident),
        "peak_bound_mib": round(memory["bound"] - base.resident),
        "after_over_base_mib": round(target.mib() - base.resident),
        "anonymous_over_base_mib": round(target.anonymous_mib() - base.anonymous),
    }
