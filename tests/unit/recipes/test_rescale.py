"""Another length or batch: what follows, by hand, and what is said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mlp_mixer.cli import run
from mlp_mixer.recipes import get_recipe
from mlp_mixer.recipes.rescale import rescale
from mlp_mixer.recipes.resolve import resolve_config


def test_nothing_asked_changes_nothing() -> None:
    config = get_recipe("imagenet_b16")
    assert rescale(config) == (config, ())
    assert rescale(config, epochs=300, batch_size=4096) == (config, ())


def test_adam_follows_with_the_square_root_and_the_warm_up_keeps_its_images() -> None:
    config, notes = rescale(get_recipe("imagenet_b16"), batch_size=1024)
    assert (config.train.batch_size, config.optim.lr, config.schedule.warmup_steps) == (
        1024,
        5e-4,
        40_000,
    )
    assert notes == (
        "batch 4096 -> 1024: optim.lr 0.001 -> 0.0005 (with the square root)",
        "schedule.warmup_steps 10000 -> 40000, the same images",
    )


def test_sgd_follows_in_proportion_and_steps_keep_their_images() -> None:
    config, notes = rescale(get_recipe("finetune_cifar10"), batch_size=128)
    assert config.optim.lr == pytest.approx(0.0075)
    assert (config.train.steps, config.schedule.warmup_steps) == (40_000, 2000)
    assert len(notes) == 3


def test_a_shorter_run_warms_up_for_the_same_share() -> None:
    config, notes = rescale(get_recipe("bigvision_b16"), epochs=60)
    assert (config.train.epochs, config.schedule.warmup_steps) == (60, 2000)
    assert notes == ("schedule.warmup_steps 10000 -> 2000, the same share of the run",)
    fine, _ = rescale(get_recipe("finetune_small"), epochs=3)
    assert (fine.train.epochs, fine.train.steps) == (3, None)


def test_the_journal_says_what_followed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    settings = ["--set", "model.hidden_dim=8", "--set", "train.device=cpu"]
    assert (
        run(
            [
                "train",
                "digits",
                "--out",
                str(out),
                "--epochs",
                "1",
                "--batch-size",
                "256",
                *settings,
            ]
        )
        == 0
    )
    told = capsys.readouterr().err
    rows = [
        json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()
    ]
    (note,) = [row["text"] for row in rows if row["kind"] == "note"]
    assert note.startswith("batch 64 -> 256: optim.lr ")
    assert note in told
    assert (
        json.loads((out / "config.json").read_text())["config"]["train"]["epochs"] == 1
    )


def test_a_length_that_is_asked_for_replaces_one_in_images() -> None:
    assert get_recipe("photos").train.images
    by_option, notes = resolve_config("photos", epochs=3)
    by_setting, _ = resolve_config("photos", settings={"train.epochs": 3})
    for config in (by_option, by_setting):
        assert (config.train.images, config.train.epochs) == (None, 3)
    assert notes == ("train.images 55,000 -> 3 epochs",)
    kept, _ = resolve_config("photos", settings={"train.batch_size": 8})
    assert kept.train.images == 55_000
