"""`mlp-mixer pretrain`: from pictures without labels to a classifier, and in processes."""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import mlp_mixer as mm
from mlp_mixer.cli import run
from mlp_mixer.weights.catalog import START

from ..commands import Group

# A network of a second; the bundled one takes longer.
TINY = [
    "model.num_blocks=1",
    "model.hidden_dim=16",
    "model.tokens_mlp_dim=8",
    "model.channels_mlp_dim=32",
    "model.image_size=16",
    "train.batch_size=16",
    "train.device=cpu",
    "train.threads=1",
    "train.log_every_steps=1",
    "data.workers=0",
]


def call(*arguments: object) -> int:
    return run([str(argument) for argument in arguments])


def set_all(settings: list[str]) -> list[str]:
    return [word for setting in settings for word in ("--set", setting)]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of 15 stripes, and in `loose` 30 others at some depth."""
    root = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for number in range(60):
        label = "ab"[number % 2]
        wave = np.sin(np.arange(20) * (0.5 + number % 2) + rng.random())
        pixels = np.broadcast_to(wave if label == "a" else wave[:, None], (20, 20))
        colour = rng.integers(100, 156, 3)
        image = (pixels[..., None] * 90 + colour).clip(0, 255).astype(np.uint8)
        path = root / "labelled" / label
        if number >= 30:
            path = root / "loose" / str(number % 7) / "x"
        path.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path / f"{number:02}.png")
    (root / "loose" / "readme.txt").touch()
    return root


@pytest.fixture(scope="module")
def pretrained(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "features"
    best = mm.pretrain(
        f"folder:{pictures / 'loose'}",
        out,
        weights="scratch",
        settings=[*TINY, "train.epochs=4"],
    )
    assert best["epoch"] >= 4
    return out


def test_a_classifier_comes_of_pictures_without_labels(
    pretrained: Path, pictures: Path, tmp_path: Path
) -> None:
    data = f"folder:{pictures / 'labelled'}"
    before = mm.load(pretrained)
    assert before.model.num_classes == 0
    for name, options in (("head", ["--frozen"]), ("all", ["--set", "train.steps=3"])):
        out = tmp_path / name
        command = ["finetune", pretrained, "--data", data, "--out", out, *options]
        assert call(*command, "--set", "train.device=cpu") == 0
        tuned = mm.load(out)
        assert tuned.labels == ("a", "b")
        assert tuned.preprocess == before.preprocess
        same = tuned.model.state_dict()["stem.proj.weight"].equal(
            before.model.state_dict()["stem.proj.weight"]
        )
        assert same == (name == "head")
    assert call("fewshot", pretrained, "--data", data, "--shots", "1,3") == 0


def test_without_a_classifier_there_is_no_accuracy(
    pretrained: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for verb in ("evaluate", "report"):
        data = f"folder:{pictures / 'labelled'}"
        assert call(verb, pretrained, "--data", data) == 2
        assert "has no classifier" in capsys.readouterr().err
    assert call("runs", pretrained) == 0
    assert "pretrain_views" in capsys.readouterr().out


def test_the_command_says_what_it_learns_from_and_what_comes_next(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--from", "scratch", *set_all(TINY), "--epochs", "0.5"]
    for kind, notes, source in (
        ("loose", "all 30 pictures in", "folder:LABELLED"),
        ("labelled", r"the \d+ test and \d+ validation images are not learnt", None),
    ):
        data = f"folder:{pictures / kind}"
        out = tmp_path / kind
        assert call("pretrain", "--data", data, "--out", out, *options) == 0
        told = capsys.readouterr()
        assert re.search(notes, told.err)
        assert "(without labels)" in told.err
        # As after every verb, so that a script may read the result alone.
        assert "next:" not in told.out
        last = told.err.splitlines()[-1]
        words = ["mlp-mixer", "finetune", str(out), "--data", source or data]
        assert last == f"next: {shlex.join([*words, '--out', f'{out}-finetuned'])}"
    # The run can be repeated and resumed by its own configuration.
    resumed = call("train", out / "config.json", "--out", out, "--resume")
    assert resumed == 0


def test_the_bundled_weights_are_where_it_begins(
    pictures: Path, tmp_path: Path
) -> None:
    settings = ["train.steps=1", "train.batch_size=4", "train.device=cpu"]
    mm.pretrain(f"folder:{pictures / 'loose'}", tmp_path / "run", settings=settings)
    learnt = mm.load(tmp_path / "run")
    assert learnt.model.config.image_size == (64, 64)
    bundled = mm.load(START)
    assert learnt.preprocess.mean == bundled.preprocess.mean
    assert learnt.provenance["model"] == f"{START} (without labels)"
    # One small step away from them.
    stem = bundled.model.state_dict()["stem.proj.weight"]
    away = (learnt.model.state_dict()["stem.proj.weight"] - stem).abs().max()
    assert 0 < away < 0.05


def test_small_images_keep_their_size_and_few_a_small_batch() -> None:
    from mlp_mixer.api import pretrain_config

    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (50, 32, 32, 3), dtype=np.uint8)
    source = mm.Dataset.from_arrays(images, np.arange(50) % 2)
    config, _ = pretrain_config(source)
    assert config.model.image_size is None
    # In a batch, each has two views and no more.
    assert config.train.batch_size == 2 * len(source.train)
    assert pretrain_config(source, "scratch")[0].model.patch_size is None
    with pytest.raises(mm.UserError, match="'cifar10' learns from labels"):
        pretrain_config(source, recipe="cifar10")


@pytest.mark.skipif(sys.platform == "win32", reason="torchrun's gloo needs POSIX")
def test_one_and_two_processes_have_the_same_curve(tmp_path: Path) -> None:
    """Every process compares the views of all: the negatives do not get fewer."""
    settings = [
        "model.hidden_dim=16",
        "model.num_blocks=2",
        "model.drop_path=0.2",
        "train.batch_size=64",
        "train.steps=12",
        "train.device=cpu",
        "train.threads=1",
        "train.log_every_steps=1",
        "model.name=mixer_pico2",
        "model.image_size=8",
        "model.patch_size=2",
        "augment.flip=false",
    ]
    curves: list[list[dict[str, Any]]] = []
    for processes in (1, 2):
        out = tmp_path / str(processes)
        words = ["pretrain", "--data", "digits", "--from", "scratch", "--out", out]
        command = ["-m", "mlp_mixer", *words, *set_all(settings)]
        group = Group(command, processes, env={**os.environ, "OMP_NUM_THREADS": "1"})
        done = group.completed()
        assert done.returncode == 0, done.stderr[-3000:]
        assert done.stderr.count("next: mlp-mixer finetune") == 1
        lines = (out / "metrics.jsonl").read_text().splitlines()
        rows = [json.loads(line) for line in lines]
        curves.append([row for row in rows if row["kind"] == "train"])
    one, two = curves
    assert len(one) == 12
    for row, other in zip(one, two, strict=True):
        assert other["loss"] == pytest.approx(row["loss"], abs=1e-4)
        assert other["grad_norm"] == pytest.approx(row["grad_norm"], rel=1e-3)
