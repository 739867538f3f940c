"""`mlp-mixer data shard`: from a folder to shards and on to a trained model, through
kills and bad pictures.
"""

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
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def test_a_model_learns_the_same_from_a_folder_and_its_shards(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """To the last bit; and each knows the other's test images again."""
    out = tmp_path / "out"
    assert run(["data", "shard", str(photos), str(out), "--shard-size", "50KB"]) == 0
    streams = capsys.readouterr()
    assert re.fullmatch(
        r"60 train images in \d+ shards: use them as shards:.*out\n", streams.out
    )
    assert streams.err.splitlines()[-1] == "60 of 60 images"
    settings = {
        "image_size": 32,
        "patch_size": 8,
        "num_blocks": 1,
        "hidden_dim": 16,
        "tokens_mlp_dim": 8,
    }
    options = [f"model.{key}={value}" for key, value in settings.items()]
    options += [
        "model.channels_mlp_dim=16",
        "train.epochs=2",
        "train.batch_size=8",
        "train.device=cpu",
    ]
    weights = []
    for name, data in (("a", f"folder:{photos}"), ("b", f"shards:{out}")):
        arguments = [part for option in options for part in ("--set", option)]
        assert (
            run(
                [
                    "train",
                    "photos",
                    "--data",
                    data,
                    "--out",
                    str(tmp_path / name),
                    *arguments,
                ]
            )
            == 0
        )
        blob = (tmp_path / name / "last.safetensors").read_bytes()
        length = int.from_bytes(blob[:8], "little")
        weights.append(blob[8 + length :])
    assert weights[0] == weights[1]
    capsys.readouterr()
    assert (
        run(["evaluate", str(tmp_path / "a"), "--data", f"shards:{out}", "--json"]) == 0
    )
    result = json.loads(capsys.readouterr().out)
    assert (result["n"], "20 % held out" in result["split"]) == (12, True)


def test_killed_again_and_again(photos: Path, tmp_path: Path) -> None:
    """kill -9 at any instant; the same command goes on, and the bytes are those of a
    run that was never stopped.
    """

    def command(out: Path) -> list[str]:
        options = ["--shard-size", "12KB", "--workers", "1"]
        return [
            sys.executable,
            "-m",
            "mlp_mixer",
            "data",
            "shard",
            f"folder:{photos}",
            str(out),
            *options,
        ]

    whole = tmp_path / "whole"
    killed = tmp_path / "killed"
    subprocess.run(command(whole), check=True, capture_output=True)
    rng = random.Random(0)
    for _ in range(3):
        before = len(list(killed.rglob("*.tar")))
        process = subprocess.Popen(
            command(killed), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        while len(list(killed.rglob("*.tar"))) <= before and process.poll() is None:
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.02))
        process.kill()
        process.wait()
    assert 0 < len(list(killed.rglob("*.tar"))) < len(list(whole.rglob("*.tar"))), (
        "no run was met under way"
    )
    subprocess.run(command(killed), check=True, capture_output=True)
    assert contents(killed) == contents(whole)


def test_ctrl_c_and_on(photos: Path, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "mlp_mixer",
        "data",
        "shard",
        str(photos),
        str(tmp_path / "out"),
    ]
    process = subprocess.Popen(
        [*command, "--shard-size", "5KB"], stderr=subprocess.PIPE, text=True
    )
    while not list(tmp_path.glob("out/train/*.tar")) and process.poll() is None:
        time.sleep(0.001)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert (process.returncode, errors.splitlines()[0]) == (
        130,
        "stopped; the same command continues",
    )
    assert "Traceback" not in errors
    assert run(["evaluate", "x", "--data", str(tmp_path / "out")]) == 2
    assert (
        subprocess.run(
            [*command, "--shard-size", "5KB"], capture_output=True
        ).returncode
        == 0
    )
    assert len(open_dataset(str(tmp_path / "out")).all()) == 60


def test_bad_pictures(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "sea" / "07.png").write_bytes(b"hello")
    command = ["data", "shard", str(photos), str(tmp_path / "out")]
    assert run(command) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(
        "error: 'sea/07.png': the image is not an image in a known format"
    )
    for _ in range(
        2
    ):  # the second time there is nothing to do, and the list is the same
        assert run([*command, "--skip-bad"]) == 1
        streams = capsys.readouterr()
        assert "left out sea/07.png: the image is not an image" in streams.err
        assert (
            streams.err.splitlines()[-1]
            == "1 images could not be decoded and were left out"
        )
        assert streams.out.startswith("59 train images in 1 shards")


def test_digits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        run(
            [
                "data",
                "shard",
                "digits",
                str(tmp_path / "out"),
                "--workers",
                "2",
                "--seed",
                "3",
            ]
        )
        == 0
    )
    assert (
        json.loads((tmp_path / "out" / "dataset.json").read_bytes())["plan"]["seed"]
        == 3
    )
    shards = open_dataset(f"shards:{tmp_path / 'out'}")
    digits = open_dataset("digits")
    assert shards.fingerprint() == digits.fingerprint()
    assert (shards.train.channels, shards.train.size) == (1, (8, 8))
    assert all(
        np.array_equal(shards.test.image(i), digits.test.image(i))
        for i in range(0, 359, 10)
    )


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["digits", "out", "--shard-size", "big"],
            "cannot read the size 'big': expected a number of bytes",
        ),
        (["digitz", "out"], "unknown dataset 'digitz'; did you mean 'digits'?"),
        (["digits", "out", "--workers", "0"], "Invalid value for '--workers'"),
        (["digits"], "Missing argument 'OUT'"),
        (["shards:nowhere", "out"], "there are no shards to train on in 'nowhere'"),
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
    assert (
        run(["data", "shard", str(photos), str(tmp_path / "out"), "--workers", "1"])
        == 0
    )
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "1 of 60 images"
    assert len(lines) >= 60


def test_a_bar_on_a_terminal(photos, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    assert run(["data", "shard", str(photos), str(tmp_path / "out")]) == 0
    errors = capsys.readouterr().err
    assert "60/60" in errors
    assert "of 60 images" not in errors
