"""`mlp-mixer data shard`: from a folder to shards, through kills and bad pictures."""

from __future__ import annotations

import hashlib
import json
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mlp_mixer import open_dataset
from mlp_mixer.cli import run


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for number in range(60):
        folder = tmp_path / "photos" / ("sea" if number % 2 else "meadow")
        folder.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 120, (40, 40, 3), dtype=np.uint8)
        pixels[..., 2 if number % 2 else 1] += 100
        Image.fromarray(pixels).save(folder / f"{number:02d}.png")
    return tmp_path / "photos"


def contents(folder: Path) -> dict[str, str]:
    """All files of a folder, with their hashes."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            found[str(path.relative_to(folder))] = digest
    return found


SETTINGS = [
    "model.image_size=32",
    "model.patch_size=8",
    "model.num_blocks=1",
    "model.hidden_dim=16",
    "model.tokens_mlp_dim=8",
    "model.channels_mlp_dim=16",
    "train.epochs=2",
    "train.batch_size=8",
    "train.device=cpu",
]


def trained(data: str, out: Path) -> bytes:
    """The weights of a small model, without the header of their file."""
    command = ["train", "photos", "--data", data, "--out", str(out)]
    for setting in SETTINGS:
        command += ["--set", setting]
    assert run(command) == 0
    blob = (out / "last.safetensors").read_bytes()
    length = int.from_bytes(blob[:8], "little")
    return blob[8 + length :]


def test_a_model_learns_the_same_from_a_folder_and_its_shards(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """To the last bit; and the run on the folder knows its test images in the shards."""
    out = tmp_path / "out"
    assert run(["data", "shard", str(photos), str(out), "--shard-size", "50KB"]) == 0
    streams = capsys.readouterr()
    sentence = r"60 train images in \d+ shards: use them as shards:.*out\n"
    assert re.fullmatch(sentence, streams.out)
    assert streams.err.splitlines()[-1] == "60 of 60 images"
    from_folder = trained(f"folder:{photos}", tmp_path / "a")
    from_shards = trained(f"shards:{out}", tmp_path / "b")
    assert from_folder == from_shards
    capsys.readouterr()
    data = f"shards:{out}"
    assert run(["evaluate", str(tmp_path / "a"), "--data", data, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    held_out = open_dataset(str(photos)).test
    assert held_out is not None
    assert (result["n"], result["seen"]) == (len(held_out), 0)
    assert "20 % held out" in result["split"]


SHARD = [sys.executable, "-m", "mlp_mixer", "data", "shard"]


def tars(folder: Path) -> int:
    return len(list(folder.rglob("*.tar")))


def test_killed_again_and_again(photos: Path, tmp_path: Path) -> None:
    """kill -9 at any instant; the same command goes on and ends with the same bytes."""
    options = ["--shard-size", "12KB", "--workers", "1"]

    def command(out: Path) -> list[str]:
        return [*SHARD, f"folder:{photos}", str(out), *options]

    complete = tmp_path / "complete"
    killed = tmp_path / "killed"
    subprocess.run(command(complete), check=True, capture_output=True)
    rng = random.Random(0)
    for _ in range(3):
        before = tars(killed)
        process = subprocess.Popen(
            command(killed), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        while tars(killed) <= before and process.poll() is None:
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.02))
        process.kill()
        process.wait()
    assert 0 < tars(killed) < tars(complete), "no run was met under way"
    subprocess.run(command(killed), check=True, capture_output=True)
    assert contents(killed) == contents(complete)


def test_ctrl_c_and_on(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [*SHARD, str(photos), str(out), "--shard-size", "5KB"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while not tars(out) and process.poll() is None:
        time.sleep(0.001)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert process.returncode == 130
    assert errors.splitlines()[0] == "stopped; the same command continues"
    assert "Traceback" not in errors
    assert run(["evaluate", "x", "--data", str(out)]) == 2
    subprocess.run(command, check=True, capture_output=True)
    assert len(open_dataset(str(out)).all()) == 60


def test_bad_pictures(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "sea" / "07.png").write_bytes(b"hello")
    command = ["data", "shard", str(photos), str(tmp_path / "out")]
    assert run(command) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    start = "error: 'sea/07.png': the image is not an image in a known format"
    assert error.startswith(start)
    # The second time there is nothing to do, and the list is the same.
    for _ in range(2):
        assert run([*command, "--skip-bad"]) == 1
        streams = capsys.readouterr()
        assert "left out sea/07.png: the image is not an image" in streams.err
        last = streams.err.splitlines()[-1]
        assert last == "1 images could not be decoded and were left out"
        assert streams.out.startswith("59 train images in 1 shards")


def test_digits(tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = ["--workers", "2", "--seed", "3"]
    assert run(["data", "shard", "digits", str(out), *options]) == 0
    described = json.loads((out / "dataset.json").read_bytes())
    assert described["plan"]["seed"] == 3
    shards = open_dataset(f"shards:{out}")
    digits = open_dataset("digits")
    assert shards.fingerprint() == digits.fingerprint()
    assert (shards.train.channels, shards.train.size) == (1, (8, 8))
    for index in range(0, 359, 10):
        mine = shards.test.image(index)
        np.testing.assert_array_equal(mine, digits.test.image(index))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["digits", "out", "--shard-size", "big"],
            "cannot read the size 'big': expected",
        ),
        (["digitz", "out"], "unknown dataset 'digitz'; did you mean 'digits'?"),
        (["digits", "out", "--workers", "0"], "Invalid value for '--workers'"),
        (["digits"], "Missing argument 'OUT'"),
        (["shards:nowhere", "out"], "there are no shards in 'nowhere'"),
    ],
)
def test_one_sentence(arguments, sentence, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["data", "shard", *arguments]) == 2
    streams = capsys.readouterr()
    assert sentence in streams.err
    assert streams.out == ""
    assert list(tmp_path.iterdir()) == []


def test_plain_lines_now_and_then(photos, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr("mlp_mixer.cli.progress.QUIET_SECONDS", 0)
    command = ["data", "shard", str(photos), str(tmp_path / "out"), "--workers", "1"]
    assert run(command) == 0
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("1 of 60 images, ")
    assert len(lines) >= 60


def test_a_bar_on_a_terminal(photos, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    assert run(["data", "shard", str(photos), str(tmp_path / "out")]) == 0
    errors = capsys.readouterr().err
    assert "60/60" in errors
    assert "of 60 images" not in errors
