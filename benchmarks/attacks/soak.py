"""Minutes of good, bad, slow and vanishing clients, while decoders are killed."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import random
import signal
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from serve import family

from .target import FORM, GOOD, JSON, PART, RAW, Reply, Row, Target, hostile

BLOCK = 15  # seconds; memory is averaged over them
CLOSE = 1e-3  # of scores: batches of another size are summed in another order


def good_pictures() -> list[bytes]:
    """Return pictures of several formats and sizes; one is for the large process."""
    made = []
    for number, form in enumerate(("JPEG", "PNG", "WEBP", "GIF", "BMP", "PNG")):
        made.append(hostile.picture(form, (90 + 40 * number, 200 - 30 * number)))
    return [*made, hostile.picture("JPEG", (3000, 2800))]


def known_answers(checkpoint: str, pictures: list[bytes]) -> list[dict[int, float]]:
    """Return the score of each label, of a predictor in this process."""
    from mlp_mixer.inference import Predictor

    predictor = Predictor(checkpoint, device="cpu", engine="torch", top=1000)
    told = predictor.predict(pictures, batch_size=1)
    return [_scores(prediction.to_dict()) for prediction in told]


def _scores(prediction: dict[str, Any]) -> dict[int, float]:
    return {one["label"]: one["score"] for one in prediction["top"]}


class Soak:
    """Clients that note what they get.

    Attributes:
        counts: Replies by client and status, kills, and answers that are wrong.
        reasons: Sentences of 503 and 504.
    """

    def __init__(
        self, target: Target, checkpoint: str, seed: int, pause: float
    ) -> None:
        self.target = target
        self.pictures = good_pictures()
        self.known = known_answers(checkpoint, self.pictures)
        self.pause = pause
        self.dice = random.Random(seed)
        self.counts: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()

    def run(self, seconds: float) -> Row:
        """Let all clients work for a while."""
        until = time.monotonic() + seconds
        cpu = self.target.cpu()
        before = _open_files(self.target.pid)
        acts = [self.good, self.good, self.bad, self.slow, self.vanishing, self.killing]
        threads = [threading.Thread(target=self._repeat, args=(a, until)) for a in acts]
        for thread in threads:
            thread.start()
        memory = list(self._watch(until))
        for thread in threads:
            thread.join()
        return {
            "soak": dict(sorted(self.counts.items())),
            "reasons": dict(self.reasons),
            "seconds": seconds,
            "cpu_seconds": round(self.target.cpu() - cpu, 1),
            "health": self.target.health().status,
            "open_files": [before, _open_files(self.target.pid)],
            "all_anonymous_mib": slope([one for one, _ in memory]),
            "server_anonymous_mib": slope([own for _, own in memory]),
        }

    def _repeat(self, act: Callable[[], None], until: float) -> None:
        while time.monotonic() < until:
            act()
            time.sleep(self.pause * self.dice.random())

    def _watch(self, until: float) -> Iterator[tuple[float, float]]:
        while time.monotonic() < until:
            target = self.target
            yield target.anonymous_mib(), target.anonymous_mib(own=True)
            time.sleep(1)

    def good(self) -> None:
        """Send one or two pictures in any form, and compare the answers."""
        first = self.dice.randrange(len(self.pictures))
        second = self.dice.randrange(len(self.pictures))
        data = self.pictures[first]
        form = self.dice.choice(["raw", "json", "form"])
        if form == "raw":
            self._expect("good", self.target.ask(data), first)
        elif form == "json":
            text = base64.b64encode(data).decode()
            body = json.dumps({"image": text, "top": 1000}).encode()
            self._expect("good", self.target.ask(body, JSON), first)
        else:
            other = self.pictures[second]
            body = PART + data + b"\r\n" + PART + other + b"\r\n--x--"
            self._expect("good", self.target.ask(body, FORM), first, second)

    def bad(self) -> None:
        """Send what is no picture, or only the beginning of one."""
        data = self.dice.choice(self.pictures[:-1])
        cut = data[: self.dice.randrange(len(data) // 2)]
        body = self.dice.choice([cut, self.dice.randbytes(300), b"<html>" + data])
        reply = self.target.ask(body)
        self._note("bad", reply)
        if reply.status == 200:
            self.counts["wrong: an answer to what is no picture"] += 1

    def slow(self) -> None:
        """Send a picture in pieces with pauses."""
        number = self.dice.randrange(len(self.pictures))
        data = self.pictures[number]
        step = len(data) // 7 + 1

        def pieces() -> Iterator[bytes]:
            for start in range(0, len(data), step):
                yield data[start : start + step]
                time.sleep(0.2 * self.dice.random())

        self._expect("slow", self.target.ask(pieces()), number)

    def vanishing(self) -> None:
        """Go away in the middle of a picture, or without waiting for the answer."""
        port = self.target.port
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        with (
            contextlib.closing(connection),
            contextlib.suppress(OSError, http.client.HTTPException),
        ):
            connection.putrequest("POST", "/predict")
            connection.putheader("Content-Type", RAW)
            connection.putheader("Content-Length", str(len(GOOD)))
            sent = self.dice.choice([len(GOOD), self.dice.randrange(len(GOOD))])
            connection.endheaders(GOOD[:sent])
            time.sleep(0.1 * self.dice.random())
        self.counts["vanished"] += 1

    def killing(self) -> None:
        """Kill a decoder."""
        decoders = family(self.target.pid)[1:]
        with contextlib.suppress(OSError, IndexError):
            os.kill(self.dice.choice(decoders), signal.SIGKILL)
            self.counts["killed"] += 1
        time.sleep(2 * self.dice.random())

    def _expect(self, who: str, reply: Reply, *numbers: int) -> None:
        self._note(who, reply)
        if reply.status != 200:
            return
        told = json.loads(reply.body)["predictions"]
        if len(told) != len(numbers):
            self.counts["wrong: another number of answers"] += 1
        for one, number in zip(told, numbers, strict=False):
            if "error" in one:
                # Of one among several pictures; 503 if it stood alone.
                self.counts[f"{who}, one of two: error"] += 1
                self.reasons[one["error"]] += 1
            elif not _agree(_scores(one), self.known[number]):
                self.counts["wrong: another picture's answer"] += 1

    def _note(self, who: str, reply: Reply) -> None:
        self.counts[f"{who} {reply.status}"] += 1
        if reply.status >= 500:
            self.reasons[f"{reply.status} {reply.reason}"] += 1


def _agree(told: dict[int, float], known: dict[int, float]) -> bool:
    return bool(told) and all(
        abs(score - known[label]) < CLOSE for label, score in told.items()
    )


def _open_files(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def slope(seen: list[float]) -> Row:
    """Fit lines to memory, one value a second, without its first fifth.

    Blocks are averaged first: neighbouring seconds say the same.
    """
    late = seen[len(seen) // 5 :]
    blocks = [late[i : i + BLOCK] for i in range(0, len(late) - BLOCK + 1, BLOCK)]
    means = [round(statistics.fmean(block), 1) for block in blocks]
    return {
        "first": round(seen[0], 1),
        "most": round(max(seen), 1),
        "last": round(seen[-1], 1),
        "blocks": means,
        "mib_a_minute": _line(means),
        # What a new process takes once is behind it then.
        "mib_a_minute_in_the_last_third": _line(means[2 * len(means) // 3 :]),
    }


def _line(means: list[float]) -> Row:
    """Return the slope of some blocks and its standard error, per minute."""
    if len(means) < 4:
        return {}
    times = [number * BLOCK / 60 for number in range(len(means))]
    line = statistics.linear_regression(times, means)
    squares = 0.0
    for time_, mean in zip(times, means, strict=True):
        squares += (mean - line.slope * time_ - line.intercept) ** 2
    centre = statistics.fmean(times)
    spread = sum((time_ - centre) ** 2 for time_ in times)
    error = (squares / (len(means) - 2) / spread) ** 0.5
    return {"slope": round(line.slope, 2), "standard_error": round(error, 2)}
