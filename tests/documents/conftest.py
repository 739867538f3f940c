"""Runs the blocks of a page as its reader would, with training cut short."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import socket
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mlp_mixer import open_dataset
from mlp_mixer.cli import run
from mlp_mixer.exporting.web.runtime import NAME, VERSION, WASM
from mlp_mixer.files import cache_folder

from .. import commands

ROOT = Path(__file__).parents[2]
SECONDS = 600
"""Until a server that does not answer fails its page."""
SHORT = {
    "train": ["--set", "train.epochs=0.5"],
    "pretrain": ["--set", "train.steps=2", "--set", "train.batch_size=8"],
    "finetune": ["--set", "train.steps=3", "--set", "train.epochs=1"],
}
"""Options that keep a page's training to seconds."""
PHOTOS = {"classes": 3, "each": 12}
"""The reader's own."""


def web_runtime() -> Path | None:
    """Where onnxruntime-web is in the cache: a test does not download 32 MiB."""
    place = cache_folder(NAME, VERSION)
    return place if (place / WASM.name).is_file() else None


# Before a test has a cache of its own.
WEB_RUNTIME = web_runtime()


def expand(arguments: list[str]) -> list[str]:
    """What a shell makes of `*`."""
    return [
        path
        for argument in arguments
        for path in (
            sorted(map(str, Path().glob(argument))) if "*" in argument else [argument]
        )
    ]


def run_lines(block: str) -> None:
    """Run the commands of a block, with training cut short."""
    for line in filter(None, block.splitlines()):
        program, *arguments = shlex.split(line, comments=True)
        if program == "mlp-mixer":
            run_verb(arguments, line)
        else:
            run_program(program, arguments, line)


def run_verb(arguments: list[str], line: str) -> None:
    if arguments[0] == "serve":
        serve_and_ask(arguments)
        return
    quick = [] if "--frozen" in arguments else SHORT.get(arguments[0], [])
    if "web" in arguments:
        if not WEB_RUNTIME:
            return
        arguments = [*arguments, "--runtime", str(WEB_RUNTIME)]
    if "--minutes" in arguments:
        place = arguments.index("--minutes")
        del arguments[place : place + 2]
    assert run([*expand(arguments), *quick]) == 0, line


def run_program(program: str, arguments: list[str], line: str) -> None:
    """Run a script of the repository, or torchrun, in a process of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"}
    if program == "torchrun":
        words = ["-m", "torch.distributed.run", *arguments]
    else:
        assert program == "python", line
        words = [str(ROOT / arguments[0]), *arguments[1:], "--out", "results"]
    done = commands.run(words, env=environment)
    assert done.returncode == 0, done.stderr


def serve_and_ask(arguments: list[str]) -> None:
    """Start the server on a free port, ask for its health, and stop it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    words = ["-m", "mlp_mixer", *arguments, "--port", port]
    server = commands.Command(words)
    try:
        ask_until_ready(f"http://127.0.0.1:{port}/readyz", server)
    finally:
        server.terminate()
        code = server.wait()
    assert code in (0, -signal.SIGTERM, 128 + signal.SIGTERM), server.stderr


def ask_until_ready(url: str, server: commands.Command) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        assert server.poll() is None, "the server has ended"
        with contextlib.suppress(OSError), opener.open(url, timeout=SECONDS) as answer:
            assert answer.status == 200
            return
        time.sleep(0.1)
    pytest.fail(f"no answer from {url}")


def write_photos(folder: Path, classes: int, each: int) -> None:
    """Pictures in one folder per class: digits, which are at hand."""
    images = open_dataset("digits").train
    for label in range(classes):
        place = folder / f"class {label}"
        place.mkdir(parents=True)
        for index in np.flatnonzero(images.labels == label)[:each]:
            picture = Image.fromarray(images.image(index)[:, :, 0]).convert("RGB")
            picture.resize((64, 64)).save(place / f"{index}.png")


@pytest.fixture
def run_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, published: Callable[[str], Path]
) -> Callable[[str, str], None]:
    """A function that runs the blocks of a page, given its text and its name, in their
    order and in a folder with photos; published files have stand-ins.
    """
    published("mlp-mixer-base-p16_3rdparty_64xb64_in1k")
    published("mixer_b16.goog_in21k")
    (tmp_path / "demo").symlink_to(ROOT / "demo")
    write_photos(tmp_path / "photos", **PHOTOS)
    write_photos(tmp_path / "more", classes=1, each=3)
    monkeypatch.chdir(tmp_path)

    def run_blocks(text: str, name: str) -> None:
        variables: dict[str, object] = {}
        for language, block in re.findall(
            r"^```(bash|python)\n(.*?)^```$", text, flags=re.M | re.S
        ):
            if language == "bash":
                run_lines(block)
            else:
                short = block.replace("epochs=4", "epochs=0.5")
                exec(compile(short, name, "exec"), variables)

    return run_blocks
