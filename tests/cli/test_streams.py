"""Whatever a name holds and wherever output goes, no command ends in a traceback."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mlp_mixer.cli import run
from mlp_mixer.cli.streams import printable, safe_streams, visible
from mlp_mixer.errors import UserError

NAMES = [
    "日本.png",
    "\x1b[31mred.png",
    "\x1b]0;title\x07.png",
    "a\u202egnp.png",
    "\x9b2J.png",
    "two\nlines.png",
    os.fsdecode(b"\xff\xfe.png"),
    "😀.png",
]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    for label in ("a", "猫 \x1b[1m"):
        (folder / label).mkdir(parents=True)
        for number, name in enumerate(NAMES):
            rng = np.random.default_rng([len(label), number])
            noise = rng.integers(0, 256, (40, 40, 3), np.uint8)
            Image.fromarray(noise).save(folder / label / name, "PNG")
    return folder


def call(
    monkeypatch: pytest.MonkeyPatch, encoding: str, *arguments: object
) -> tuple[str, str]:
    """Run the command on streams of an encoding; return what they have got."""
    streams = []
    for name in ("stdout", "stderr"):
        stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
        monkeypatch.setattr(sys, name, stream)
        streams.append(stream)
    assert run([str(argument) for argument in arguments]) == 0
    texts = []
    for stream in streams:
        stream.flush()
        texts.append(stream.buffer.getvalue().decode(encoding))
    return texts[0], texts[1]


@pytest.mark.parametrize("encoding", ["cp1252", "utf-8", "ascii"])
@pytest.mark.parametrize("verb", ["predict", "data check"])
def test_names_of_strangers_in_lines_and_json(
    photos: Path, monkeypatch: pytest.MonkeyPatch, verb: str, encoding: str
) -> None:
    words = verb.split()
    text = "".join(call(monkeypatch, encoding, *words, photos))
    assert not {letter for letter in text if not letter.isprintable()} - {"\n"}
    found, _ = call(monkeypatch, encoding, *words, photos, "--json")
    value = json.loads(found)
    if verb == "predict":
        names = {Path(row["path"]).name for row in value}
        assert names == set(NAMES)
    else:
        assert "猫 \x1b[1m" in value["classes"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has it")
def test_a_full_disk_behind_stdout_is_one_sentence() -> None:
    command = [sys.executable, "-m", "mlp_mixer", "recipes"]
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            command, stdout=full, stderr=subprocess.PIPE, check=False, text=True
        )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith(
        "error: cannot write to the standard output: No space"
    )


def test_a_full_disk_behind_stderr_is_no_reason_to_stop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Full:
        def write(self, text: str) -> int:
            raise OSError(28, "No space left on device")

        def flush(self) -> None:
            raise OSError(28, "No space left on device")

        def fileno(self) -> int:
            raise OSError

    monkeypatch.setattr(sys, "stderr", Full())
    with safe_streams():
        print("progress", file=sys.stderr, flush=True)
    monkeypatch.setattr(sys, "stdout", Full())
    refused = pytest.raises(UserError, match="cannot write to the standard output")
    with refused, safe_streams():
        print("result")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31m", "\\x1b[31m"),
        ("a\nb\tc", "a\\nb\\tc"),
        ("\x9b\x85", "\\u009b\\u0085"),
        ("\u202e\u2066\u2028", "\\u202e\\u2066\\u2028"),
        (os.fsdecode(b"\xff"), "\\udcff"),
        ("naïve 猫 é 😀", "naïve 猫 é 😀"),
    ],
)
def test_what_would_steer_is_an_escape(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert visible(f"x{text}\n\t").endswith("\n\t")
