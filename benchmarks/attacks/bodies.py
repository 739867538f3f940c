"""Bodies of every shape that JSON and forms can have, while /healthz is asked."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from .target import FORM, JSON, PART, RAW, Row, Target


def bodies(size: int) -> Iterator[tuple[str, bytes, str]]:
    """Yield the name, the bytes and the type of each body, of about that many bytes."""
    for name, body in _json(size).items():
        yield name, body, JSON
    for name, body in _forms(size).items():
        yield name, body, FORM
    yield "zeros", bytes(size), RAW


def _json(size: int) -> dict[str, bytes]:
    keys = b",".join(b'"%07d":1' % number for number in range(size // 11))
    pairs = b"[]," * (size // 3) + b"1]}"
    wide = '{"image":"\u2200","x":[' + "[]," * (size // 6) + "1]}"
    return {
        "keys": b"{" + keys + b"}",
        "the same key": b"{" + b'"image":"A",' * (size // 12) + b'"top":1}',
        "lists": b"[" * size,
        "objects": b'{"a":' * (size // 5),
        "pairs": b'{"image":[' + pairs,
        "pairs behind an escaped quote": b'{"image":"\\"","x":[' + pairs,
        "pairs behind escaped backslashes": b'{"image":"\\\\\\\\\\"","x":[' + pairs,
        "pairs behind half a letter": wide.encode("utf-16"),
        "texts": b'{"image":[' + b'"",' * (size // 3) + b"1]}",
        "numbers": b'{"image":[' + b"1," * (size // 2) + b"1]}",
        "escapes": b'{"image":"' + b"\\n" * (size // 2) + b'"}',
        "escaped letters": b'{"image":"' + b"\\u0041" * (size // 6) + b'"}',
        "a wide letter": b'{"image":"\\ud83d\\ude00' + b"A" * size + b'"}',
        "letters": b'{"image":"' + "é".encode() * (size // 2) + b'"}',
        "blanks": b'{"image":"' + b"A " * (size // 2) + b'"}',
        "space": b" " * size + b'{"image":"QUJD"}',
        "digits": b'{"image":"x","top":' + b"9" * size + b"}",
        "a float": b'{"image":"x","top":1.' + b"9" * size + b"}",
        "a long key": b'{"' + b"k" * size + b'":1}',
        "an open text": b'{"image":"' + b"A" * size,
        "base64": b'{"image":"' + b"A" * (size - 20) + b'"}',
        "no base64": b'{"image":"' + b"?" * (size - 20) + b'"}',
    }


def _forms(size: int) -> dict[str, bytes]:
    end = b"\r\n--x--"
    return {
        "parts": (PART + b"\r\n") * (size // 70) + b"--x--",
        "near misses": PART + b"\r\n--" * (size // 4) + end,
        "returns": PART + b"\r\n" * (size // 2),
        "dashes": b"-" * size,
        "one file": PART + bytes(size - 200) + end,
        "a long head": b"--x\r\n" + b"a: b\r\n" * (size // 6) + end,
        "a long name": PART[:-5] + b"n" * size + b'"\r\n\r\n' + end,
        "a preamble": b"\r\n--y" * (size // 5) + b"\r\n" + PART + end,
        "an epilogue": PART + end + b"\r\n" + PART * (size // 70),
    }


def shapes(target: Target, size: int, at_once: int = 2) -> Iterator[Row]:
    """Send each body a few times at once while /healthz is asked again and again."""
    base = target.mib()
    crumbs = b"1\r\nx\r\n" * (size // 6) + b"0\r\n\r\n"
    for name, body, kind in bodies(size):
        yield {"body": name, **_attacked(target, body, kind, at_once, base)}
    yield {"body": "crumbs", **_attacked(target, crumbs, RAW, at_once, base, True)}


def _attacked(
    target: Target,
    body: bytes,
    kind: str,
    at_once: int,
    base: float,
    chunked: bool = False,
) -> Row:
    before = target.cpu()
    asked = []
    with ThreadPoolExecutor(at_once) as clients, target.watched() as memory:
        sent = [
            clients.submit(target.ask, body, kind, chunked=chunked)
            for _ in range(at_once)
        ]
        while not asked or not all(reply.done() for reply in sent):
            asked.append(target.health())
    statuses = [reply.result().status for reply in sent]
    return {
        "status": statuses,
        "health": sorted({health.status for health in asked}),
        "asked": len(asked),
        "slowest_seconds": round(max(health.seconds for health in asked), 3),
        "slowest_cpu_seconds": round(max(health.cpu for health in asked), 3),
        "cpu_seconds": round(target.cpu() - before, 2),
        "peak_over_base_mib": round(memory["peak"] - base),
    }
