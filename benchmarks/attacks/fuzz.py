"""Damaged pictures, forms, JSON and heads, by the thousand."""

from __future__ import annotations

import base64
import random
import socket
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from .target import FORM, GOOD, JSON, PART, RAW, Row, Target, hostile

CLIENTS = 4
STARTS = "mlp_mixer_decoder_starts"
HTTP = ""  # the type of what is a whole request
FORMATS = (
    ("JPEG", {}),
    ("JPEG", {"progressive": True}),
    ("PNG", {}),
    ("GIF", {}),
    ("BMP", {}),
    ("WEBP", {}),
    ("WEBP", {"lossless": True}),
    ("TIFF", {}),
    ("TIFF", {"compression": "tiff_lzw"}),
    ("PPM", {}),
    ("ICO", {}),
    ("JPEG2000", {}),
    ("AVIF", {}),
)


def whole_bodies() -> list[tuple[bytes, str]]:
    """Return bodies that are answered, with their types."""
    bodies = [(hostile.picture(form, **how), RAW) for form, how in FORMATS]
    text = base64.b64encode(GOOD[:300])
    bodies.append((b'{"image": "%s", "top": 3, "explain": false}' % text, JSON))
    bodies.append((PART + GOOD + b"\r\n--x--", FORM))
    head = (
        b"POST /predict?top=2 HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/x\r\n"
    )
    bodies.append((head + b"Content-Length: %d\r\n\r\n" % len(GOOD) + GOOD, HTTP))
    bodies.append((b"GET /model HTTP/1.1\r\nHost: localhost\r\nA: b\r\n\r\n", HTTP))
    return bodies


def damaged(whole: bytes, others: bytes, dice: random.Random) -> bytes:
    """Return bytes with some flipped, cut, doubled, or taken from elsewhere."""
    data = bytearray(whole)
    for _ in range(dice.choice([1, 2, 5, 30])):
        place = dice.randrange(len(data) + 1)
        length = min(dice.choice([1, 1, 2, 4, 64]), len(data))
        how = dice.randrange(6)
        if how == 0:
            del data[place : place + length]
        elif how == 1:
            data[place:place] = data[place : place + length]
        elif how == 2:
            start = dice.randrange(len(others))
            data[place : place + length] = others[start : start + length]
        elif how == 3:
            # Sizes and counts are often so many bytes.
            many = dice.choice([b"\xff", b"\0", b"\x7f", b"\x80"])
            data[place : place + length] = many * length
        elif data:
            data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
    if dice.random() < 0.1:
        del data[dice.randrange(len(data) + 1) :]
    return bytes(data)


def fuzz(target: Target, count: int, seed: int = 0) -> Row:
    """Send that many damaged bodies, and ask whether anything has crashed."""
    bodies = whole_bodies()
    before = target.metric(STARTS)
    cpu = target.cpu()

    def one(number: int) -> str:
        dice = random.Random(f"{seed} {number}")
        whole, kind = dice.choice(bodies)
        body = damaged(whole, dice.choice(bodies)[0], dice)
        if kind == HTTP:
            return f"http {_raw(target, body)}"
        return str(target.ask(body, kind).status)

    with ThreadPoolExecutor(CLIENTS) as clients:
        counts = Counter(clients.map(one, range(count)))
    return {
        "fuzzed": count,
        "status": dict(sorted(counts.items())),
        # A decoder that ends, by a signal or its limits, is started anew.
        "decoders_ended": target.metric(STARTS) - before,
        "good": target.ask(GOOD).status,
        "health": target.health().status,
        "cpu_seconds": round(target.cpu() - cpu, 1),
    }


def _raw(target: Target, request: bytes) -> str:
    """Send a request as it is, and nothing after it; return the first status."""
    with socket.create_connection(("127.0.0.1", target.port), timeout=60) as connection:
        try:
            connection.sendall(request)
            connection.shutdown(socket.SHUT_WR)
            received = connection.makefile("rb").readline()
        except ConnectionError:
            return "closed"
    words = received.split()
    return words[1].decode() if len(words) > 1 else "closed"
