"""Wrong input ends in one clear sentence that names what came, exit code 2, and nothing
half-written.
"""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import mlp_mixer
from mlp_mixer.cli import run

from ..commands import Command, until
from ..commands import run as run_warm


def call(*arguments: object) -> int:
    """Run the command and return its exit code."""
    return run([str(argument) for argument in arguments])


TINY = [
    part
    for setting in (
        "model.num_blocks=1",
        "model.hidden_dim=8",
        "train.epochs=0.2",
        "train.device=cpu",
    )
    for part in ("--set", setting)
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of ten small pictures."""
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(10):
            pixels = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / name / f"{number}.png")
    return tmp_path / "data"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    model = mlp_mixer.create_model(
        "mixer_nano4", num_classes=2, num_blocks=1, hidden_dim=8
    )
    return mlp_mixer.save(
        tmp_path / "model.safetensors", model, labels=["bird", "fish"]
    )


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one sentence with which the command refuses."""
    capsys.readouterr()
    assert run(list(arguments)) == 2
    streams = capsys.readouterr()
    lines = [line for line in streams.err.splitlines() if line]
    assert streams.out == ""
    assert lines[-1].startswith("error: ")
    assert "Traceback" not in streams.err
    assert len([line for line in lines if line.startswith("error: ")]) == 1
    return lines[-1]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("train digts", "unknown recipe 'digts'; did you mean 'digits'?"),
        (
            "train digits --set trian.lr=1",
            "unknown field 'trian.lr'; did you mean 'optim.lr'?",
        ),
        (
            "train digits --set train.epoch=1",
            "unknown field 'train.epoch'; did you mean 'train.epochs'",
        ),
        (
            "train digits --set train.epochs=many",
            "train.epochs: expected a number, got 'many'",
        ),
        (
            "train digits --set train.batch_size=2.5",
            "train.batch_size: expected an integer, got 2.5",
        ),
        (
            "train digits --set train.batch_size=0",
            "train.batch_size must be above 0, got 0",
        ),
        ("train digits --set optim.lr=-1", "optim.lr must be above 0, got -1"),
        (
            "train digits --set optim.name=adam",
            "optim.name: unknown value 'adam'; did you mean 'adamw'?",
        ),
        (
            "train digits --set epochs",
            "cannot read the setting 'epochs': expected FIELD=VALUE",
        ),
        (
            "train digits --set model.name=mixer_b17",
            "unknown model 'mixer_b17'; did you mean 'mixer_b16'",
        ),
        ("train digits --set model.image_size=9", "by the patch size 2"),
        ("train digits --set train.device=tpu9", "cannot use the device 'tpu9'"),
        (
            "train digits --set data.val_fraction=1.5",
            "must be at least 0 and below 1, got 1.5",
        ),
        ("train digits --data folder:/nowhere/at/all", "/nowhere/at/all"),
        (
            "train digits --data digitz",
            "unknown dataset 'digitz'; did you mean 'digits'?",
        ),
        ("train nowhere.json", "cannot read the configuration 'nowhere.json'"),
        ("train digits --frobnicate", "No such option"),
        ("models resnet*", "no model matches 'resnet*'"),
        (
            "models mixer_s16 --image-size 230",
            "not divisible by the patch size 16; the nearest legal",
        ),
        (
            "evaluate nowhere.safetensors --data digits",
            "no checkpoint at 'nowhere.safetensors'",
        ),
        ("predict nowhere.safetensors a.png", "no checkpoint at 'nowhere.safetensors'"),
        (
            "predict mixer_s16 photo.jpg",
            "'mixer_s16' is an architecture without weights of its own",
        ),
        ("predict nowhere.safetensors", "no pictures given"),
        (
            "predict nowhere",
            "there are no pictures and no weights at 'nowhere'; check the path",
        ),
        ("predict mixer_b16.goog_in1 photo.jpg", "did you mean 'mixer_b16.goog_in1k'"),
        (
            "predict photo.jpg w.safetensors",
            "'w.safetensors' is a checkpoint, not a picture; put it first",
        ),
        ("report nowhere", "no checkpoint at 'nowhere'"),
        ("data sample digitz --out x", "unknown dataset 'digitz'"),
        ("trian", "No such command 'trian'"),
    ],
    ids=lambda value: value.replace("/", "_"),
)
def test_one_sentence(
    arguments: str,
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert sentence in refusal(capsys, *arguments.split())
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_an_empty_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    assert str(tmp_path / "empty") in refusal(
        capsys, "train", "photos", "--data", f"folder:{tmp_path / 'empty'}"
    )


def test_a_class_without_images(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "emu").mkdir()
    assert "emu" in refusal(
        capsys,
        "train",
        "photos",
        "--data",
        f"folder:{folder}",
        "--out",
        str(tmp_path / "out"),
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_file_that_is_no_image(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], workers: int
) -> None:
    (folder / "cat" / "page.png").write_text("<html>")
    for number in range(40):  # so that it is met whichever images are held out
        (folder / "cat" / f"page{number}.png").write_text(f"<html>{number}")
    arguments = [
        "--data",
        f"folder:{folder}",
        "--out",
        str(tmp_path / "out"),
        "--set",
        f"data.workers={workers}",
    ]
    sentence = refusal(
        capsys, "train", "photos", *arguments, *TINY, "--set", "train.batch_size=8"
    )
    assert re.search(r"page\d*\.png", sentence)
    assert not list((tmp_path / "out").rglob("*.safetensors"))


def test_a_checkpoint_for_other_classes(
    checkpoint: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sentence = refusal(
        capsys, "evaluate", str(checkpoint), "--data", f"folder:{folder}"
    )
    assert (
        "for other classes: the data has 'cat', 'dog', the model knows 'bird', 'fish'"
        in sentence
    )


def test_a_checkpoint_for_other_channels(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = mlp_mixer.create_model(
        "mixer_nano4", num_classes=10, num_blocks=1, hidden_dim=8
    )
    path = mlp_mixer.save(
        tmp_path / "rgb.safetensors", model, labels=list("0123456789")
    )
    sentence = refusal(capsys, "evaluate", str(path), "--data", "digits")
    assert "the images have 1 channel, the model takes 3 channels" in sentence


def test_a_damaged_checkpoint(
    checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint.write_bytes(checkpoint.read_bytes()[:-9])
    assert "is damaged and cannot be read" in refusal(
        capsys, "evaluate", str(checkpoint), "--data", "digits"
    )


@pytest.mark.parametrize("name", ["blocked", "blocked/inside"])
def test_an_unwritable_output(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    (tmp_path / "blocked").write_text("a file, not a folder")
    sentence = refusal(capsys, "train", "digits", *TINY, "--out", str(tmp_path / name))
    assert "blocked" in sentence


def test_a_disk_that_fills_while_saving(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = os.fsync
    synced: list[int] = []

    def fills(descriptor: int) -> None:
        synced.append(descriptor)
        if (
            len(synced) > 6
        ):  # config.json, split.csv and the start of the journal, with their folders, still fit
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr("os.fsync", fills)
    out = tmp_path / "out"
    sentence = refusal(capsys, "train", "digits", *TINY, "--out", str(out))
    assert "No space left on device; free some space" in sentence
    assert {path.name for path in out.iterdir()} == {
        "config.json",
        "split.csv",
        "metrics.jsonl",
    }


SMALL_FILES_ONLY = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
from mlp_mixer.cli import main
main()
"""


def test_a_file_size_limit_stops_a_run_cleanly(tmp_path: Path) -> None:
    """The same with a limit that the kernel enforces."""
    pytest.importorskip("resource", reason="no resource limits on this system")
    words = ["train", "digits", *TINY, "--set", "model.hidden_dim=64"]
    done = run_warm(["-c", SMALL_FILES_ONLY, *words, "--out", tmp_path / "out"])
    assert done.returncode == 2, done.stderr
    assert "File too large" in done.stderr
    assert "Traceback" not in done.stderr
    assert not [path for path in (tmp_path / "out").iterdir() if path.suffix == ".tmp"]


def test_our_own_mistakes_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object) -> None:
        raise RuntimeError("ours")

    monkeypatch.setattr("mlp_mixer.models.cost", broken)
    with pytest.raises(RuntimeError, match="ours"):
        call("models")


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)]
)
def test_a_signal_saves_and_says_how_to_go_on(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    out = tmp_path / "out"
    words = ["-m", "mlp_mixer", "train", "digits", "--out", out]
    process = Command([*words, "--set", "train.epochs=1000"])
    journal = out / "metrics.jsonl"
    until(lambda: journal.is_file() and bool(journal.read_text()), process)
    process.send_signal(number)
    assert process.wait() == code, process.stderr
    assert (
        f"go on with: mlp-mixer train {out}/config.json --out {out} --resume"
        in process.stderr
    )
    assert "Traceback" not in process.stderr
    assert len(list((out / "state").iterdir())) == 1
