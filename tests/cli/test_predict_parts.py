"""`predict --part`, `--join` and `--devices`: real processes, kills, and what is refused."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

import mlp_mixer
from mlp_mixer import UserError
from mlp_mixer.cli import run
from mlp_mixer.inference import predict_on_devices, processes

from ..commands import Command, until

PICTURES = 300


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    model = mlp_mixer.create_model(
        "mixer_nano4", num_classes=5, num_blocks=1, hidden_dim=8, image_size=16
    )
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return mlp_mixer.save(tmp_path / "model.safetensors", model, labels="abcde")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Many names for one small picture."""
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.new("RGB", (8, 8), (200, 30, 60)).save(tmp_path / "one.png")
    for number in range(PICTURES):
        (folder / f"{number}.png").hardlink_to(tmp_path / "one.png")
    return folder


def predict(*words: object) -> int:
    return run(["predict", *map(str, words), "--engine", "plain", "--batch-size", "1"])


def lines(path: Path) -> int:
    try:
        return path.read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0


def test_a_killed_part_goes_on_and_the_parts_join(
    checkpoint: Path, photos: Path, tmp_path: Path
) -> None:
    parts = [tmp_path / "1.csv", tmp_path / "2.csv"]
    options = ["--part", "1/2", "--resume", "--engine", "plain", "--batch-size", "1"]
    words = ["-m", "mlp_mixer", "predict", checkpoint, photos, "--out", parts[0]]
    process = Command([*words, *options])
    unfinished = parts[0].with_name("1.csv.unfinished")
    until(lambda: lines(unfinished) >= 20, process)
    process.kill()
    process.wait()
    kept = lines(unfinished)
    assert (kept >= 20) != parts[0].exists(), "the kill came before the end"
    for number, part in enumerate(parts, 1):
        if not part.exists():
            resume = ("--part", f"{number}/2", "--resume")
            assert predict(checkpoint, photos, "--out", part, *resume) == 0
    whole = tmp_path / "whole.csv"
    assert predict(checkpoint, photos, "--out", whole) == 0
    joined = tmp_path / "joined.csv"
    assert run(["predict", "--join", str(joined), *map(str, reversed(parts))]) == 0
    assert joined.read_bytes() == whole.read_bytes()
    assert lines(joined) == PICTURES + 1


def test_two_processes_write_what_one_writes(
    checkpoint: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "broken.png").write_bytes(b"<html>")
    whole = tmp_path / "whole.jsonl"
    assert predict(checkpoint, photos, "--out", whole) == 1
    # The rest of an earlier run, of which one part has ended.
    both = tmp_path / "both.jsonl"
    first = tmp_path / "both.part-1-of-2.jsonl"
    assert predict(checkpoint, photos, "--out", first, "--part", "1/2") in (0, 1)
    capsys.readouterr()
    devices = ("--devices", "cpu,cpu")
    assert predict(checkpoint, photos, "--out", both, *devices) == 2
    assert "add --resume" in capsys.readouterr().err
    three = ("--devices", "cpu,cpu,cpu", "--resume")
    assert predict(checkpoint, photos, "--out", both, *three) == 2
    assert "was begun with 2 devices" in capsys.readouterr().err
    first.unlink()
    assert predict(checkpoint, photos, "--out", both, *devices) == 1
    printed = capsys.readouterr()
    assert printed.out == f"wrote answers for {PICTURES} pictures to {both}\n"
    assert printed.err.count("broken.png") == 1
    assert both.read_bytes() == whole.read_bytes()
    assert not list(tmp_path.glob("both.part*"))
    assert predict(checkpoint, photos, "--out", both, *devices) == 2
    assert "--overwrite" in capsys.readouterr().err


def test_a_process_that_dies_keeps_its_answers_and_the_others(
    checkpoint: Path, photos: Path, tmp_path: Path
) -> None:
    # More pictures, so that the kill comes before the end.
    for number in range(PICTURES, 5 * PICTURES):
        (photos / f"{number}.png").hardlink_to(tmp_path / "one.png")
    whole = tmp_path / "whole.csv"
    assert predict(checkpoint, photos, "--out", whole) == 0
    out = tmp_path / "both.csv"
    settings: dict[str, Any] = {"engine": "plain", "batch_size": 1}
    killed = 0

    def kill(done: int, failure: str | None) -> None:
        nonlocal killed
        for file in processes.part_files(out, 2):
            if killed or not lines(file.with_name(f"{file.name}.unfinished")):
                continue
            # Only the children of this process are asked.
            child = next(iter(processes.multiprocessing.active_children()), None)
            if child is not None and child.pid is not None:
                os.kill(child.pid, signal.SIGKILL)
                killed = child.pid

    def go(**more: Any) -> Any:
        return predict_on_devices(
            checkpoint, [str(photos)], out, ["cpu", "cpu"], **settings, **more
        )

    with pytest.raises(UserError, match="have ended before their work"):
        go(report=kill)
    assert not out.exists()
    go(resume=True)
    assert killed
    assert out.read_bytes() == whole.read_bytes()


def test_all_devices_are_the_gpus_that_torch_sees(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def see(kind: str | None, count: int) -> None:
        gpu = None if kind is None else torch.device(kind)
        monkeypatch.setattr(
            processes.torch,
            "accelerator",
            SimpleNamespace(
                device_count=lambda: count, current_accelerator=lambda: gpu
            ),
        )

    see("cuda", 3)
    assert processes.device_names("all") == ["cuda:0", "cuda:1", "cuda:2"]
    see("mps", 1)
    assert processes.device_names(" all ") == ["mps:0"]
    see(None, 0)
    assert processes.device_names("all") == ["cpu"]
    assert processes.device_names("cpu, cpu") == ["cpu", "cpu"]


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--part", "1/2"], "--part needs a file"),
        (["--devices", "cpu"], "--devices needs a file"),
        (["--part", "1/2", "--devices", "all", "--out", "a.csv"], "leave it or --part"),
        (["--devices", "all", "--device", "cpu", "--out", "a.csv"], "contradict each"),
        (["--part", "3/2", "--out", "a.csv"], "numbered from 1 to 2"),
        (["--part", "x", "--out", "a.csv"], "expected NUMBER/PARTS"),
        (["--part", "1/2", "--out", "a.csv", "--sort-into", "s"], "answers alone"),
        (["--part", "1/2", "--out", "a.npz", "--features", "norm"], "answers alone"),
        (["--devices", "cpu,,cpu", "--out", "a.csv"], "expected all, or names"),
        (["--devices", "gpu:7", "--out", "a.csv"], "cannot use the device 'gpu:7'"),
        (["--join", "a.csv"], "there is no part"),
    ],
)
def test_what_contradicts_itself_is_refused_before_any_work(
    words: list[str],
    why: str,
    checkpoint: Path,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    first = photos / "nothing.csv" if "--join" in words else checkpoint
    assert run(["predict", str(first), str(photos), *words]) == 2
    error = capsys.readouterr().err
    assert why in error
    assert error.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before
