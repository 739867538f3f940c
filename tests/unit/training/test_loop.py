"""The loop: it learns, it resumes bit for bit, it stops politely, and it never reads
the test split.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlp_mixer import UserError, load
from mlp_mixer.config import override
from mlp_mixer.data import ArraySet, Dataset, ImageSet
from mlp_mixer.evaluation import evaluate
from mlp_mixer.images.settings import Augment
from mlp_mixer.training import Interrupted, loop, prepare, train
from mlp_mixer.training.config import (
    DataChoice,
    LoopChoice,
    ModelChoice,
    OptimChoice,
    ScheduleChoice,
    TrainConfig,
)
from mlp_mixer.training.journal import read_journal
from mlp_mixer.training.state import newest_state


def tiny(**loop: Any) -> TrainConfig:
    """Digits, a Mixer of one narrow block, and everything random switched on."""
    return TrainConfig(
        recipe="tiny",
        model=ModelChoice(
            name="mixer_pico2", num_blocks=2, hidden_dim=16, tokens_mlp_dim=8, channels_mlp_dim=32,
            dropout=0.1, drop_path=0.2,
        ),
        data=DataChoice(source="digits"),
        augment=Augment(crop="pad", pad=1, shift=0.1, rotate=10, scale=0.1, flip=True),
        optim=OptimChoice(lr=1e-2),
        schedule=ScheduleChoice(warmup_epochs=0.2),
        train=LoopChoice(
            **{"epochs": 1.5, "batch_size": 128, "ema": 0.9, "log_every_steps": 4, "eval_every_epochs": 0.5,
               "label_smoothing": 0.1, "save_every_steps": 3, "device": "cpu", "threads": 1} | loop
        ),
    )  # fmt: skip


def digests(out: Path) -> dict[str, str]:
    """The bytes of everything a run leaves that must not depend on how often it was
    interrupted.
    """
    paths = [
        out / "best.safetensors",
        out / "last.safetensors",
        *sorted((out / "state").iterdir()),
    ]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


class Stop(Exception):  # noqa: N818
    """Stands for a crash."""


def crash_at(step: int) -> Any:
    def report(row: dict[str, Any]) -> None:
        if row.get("kind") == "train" and row["step"] >= step:
            raise Stop

    return report


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing disturbed."""
    out = tmp_path_factory.mktemp("whole")
    train(tiny(), out)
    return out


def test_a_run_leaves_what_was_promised(whole: Path) -> None:
    assert {path.name for path in whole.iterdir()} == {
        "best.safetensors", "last.safetensors", "metrics.jsonl", "config.json", "split.csv", "state",
    }  # fmt: skip
    assert len(list((whole / "state").iterdir())) == 2
    parts = [
        line.rsplit(",", 1)[1]
        for line in (whole / "split.csv").read_text().splitlines()
    ]
    assert {part: parts.count(part) for part in set(parts)} == {
        "split": 1,
        "train": 1293,
        "val": 145,
        "test": 359,
    }
    record = json.loads((whole / "config.json").read_text())
    assert record["config"]["train"]["batch_size"] == 128
    assert record["environment"]["torch"]
    assert record["environment"]["threads"] == 1
    rows = read_journal(whole)
    assert {row["kind"] for row in rows} == {"train", "eval"}
    assert [row["step"] for row in rows] == sorted(row["step"] for row in rows)
    assert rows[-1]["epoch"] == pytest.approx(1.5, abs=0.1)


def test_the_checkpoint_carries_what_is_needed(whole: Path) -> None:
    checkpoint = load(whole)
    assert checkpoint.labels == tuple("0123456789")
    assert checkpoint.preprocess.image_size == (8, 8)
    assert checkpoint.preprocess.channels == 1
    assert checkpoint.provenance["recipe"] == "tiny"
    assert checkpoint.provenance["measured"]["n"] == 145
    assert not checkpoint.model.training


def test_the_best_checkpoint_is_the_best_row_and_measures_the_same_again(
    whole: Path,
) -> None:
    rows = [row for row in read_journal(whole) if row["kind"] == "eval"]
    best = max(rows, key=lambda row: (row["top1"], row["step"]))
    checkpoint = load(whole / "best.safetensors")
    assert checkpoint.provenance["measured"]["step"] == best["step"]
    run = prepare(tiny())
    assert run.val is not None
    again = evaluate(checkpoint.model, run.val, checkpoint.preprocess)
    assert (again.top1, again.n) == (best["top1"], best["n"])
    assert again.loss == pytest.approx(best["loss"], abs=1e-6)


@pytest.mark.parametrize("steps", [(2,), (4, 9), (8, 8, 12, 16)])
def test_a_crashed_and_resumed_run_ends_with_the_same_bytes(
    whole: Path, tmp_path: Path, steps: tuple[int, ...]
) -> None:
    for step in steps:
        with pytest.raises(Stop):
            train(tiny(), tmp_path, resume=True, report=crash_at(step))
    train(tiny(), tmp_path, resume=True)
    assert digests(tmp_path) == digests(whole)
    steps_logged = [(row["kind"], row["step"]) for row in read_journal(tmp_path)]
    assert steps_logged == [(row["kind"], row["step"]) for row in read_journal(whole)]


def test_a_run_without_progress_ends_early_and_the_same_way_when_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The best evaluation is the second of twelve; two that are no better end the run
    at the fourth.
    """
    step = 0
    real = loop.evaluate

    def judged(*args: Any, **kwargs: Any) -> Any:
        return dataclasses.replace(
            real(*args, **kwargs), top1=0.5 - abs(step - 10) / 1000
        )

    def watch(crash: int) -> Any:
        def report(row: dict[str, Any]) -> None:
            nonlocal step
            step = row["step"] if row["kind"] == "train" else step
            if step >= crash:
                raise Stop

        return report

    monkeypatch.setattr(loop, "evaluate", judged)
    settings = tiny(patience=2, epochs=6)
    best = train(settings, tmp_path / "whole", report=watch(999))
    for crash in (7, 12, 19):
        with pytest.raises(Stop):
            train(settings, tmp_path / "broken", resume=True, report=watch(crash))
    assert train(settings, tmp_path / "broken", resume=True, report=watch(999)) == best
    assert (
        train(settings, tmp_path / "broken", resume=True, report=watch(999)) == best
    )  # it has ended
    rows = read_journal(tmp_path / "broken")
    assert [row["step"] for row in rows if row["kind"] == "eval"] == [6, 11, 16, 21]
    assert rows[-1] == {
        "kind": "note",
        "text": "ended early: not better since step 11",
        "step": 21,
        "epoch": 2.0789,
    }
    assert digests(tmp_path / "broken") == digests(tmp_path / "whole")
    assert (
        load(tmp_path / "whole" / "best.safetensors").provenance["measured"]["step"]
        == best["step"]
        == 11
    )


def test_another_seed_gives_another_run(whole: Path, tmp_path: Path) -> None:
    train(tiny(seed=1), tmp_path)
    assert digests(tmp_path)["last.safetensors"] != digests(whole)["last.safetensors"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_the_run_can_go_on(
    whole: Path, tmp_path: Path, number: signal.Signals
) -> None:
    def interrupt(row: dict[str, Any]) -> None:
        if row.get("kind") == "train" and row["step"] == 8:
            os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    with pytest.raises(Interrupted) as stopped:
        train(tiny(), tmp_path, report=interrupt)
    assert stopped.value.signal_number == number
    state, complaints = newest_state(tmp_path)
    assert state is not None
    assert (state.step, complaints) == (stopped.value.step, [])
    assert signal.getsignal(number) == before
    train(tiny(), tmp_path, resume=True)
    assert digests(tmp_path)["last.safetensors"] == digests(whole)["last.safetensors"]


def test_a_damaged_state_is_named_and_the_one_before_it_used(
    whole: Path, tmp_path: Path
) -> None:
    with pytest.raises(Stop):
        train(tiny(), tmp_path, report=crash_at(12))
    newest = max((tmp_path / "state").iterdir())
    newest.write_bytes(newest.read_bytes()[:-100])
    notes: list[str] = []
    train(
        tiny(),
        tmp_path,
        resume=True,
        report=lambda row: notes.append(row.get("text", "")),
    )
    assert any(newest.name in note and "state before it" in note for note in notes)
    assert digests(tmp_path) == digests(whole)


def test_only_damaged_states_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "step-000000003.safetensors").write_bytes(b"garbage")
    with pytest.raises(UserError, match="no saved state can be read.*step-000000003"):
        train(tiny(), tmp_path, resume=True)


def test_resume_without_a_state_starts_anew_and_says_so(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = []
    train(tiny(epochs=0.2), tmp_path, resume=True, report=rows.append)
    assert "starting anew" in rows[0]["text"]


def test_resume_refuses_other_settings_by_name(whole: Path) -> None:
    changed = override(tiny(), ["optim.lr=0.5", "data.workers=1"])
    with pytest.raises(UserError, match=r"optim.lr was 0.01, is now 0.5; use the old"):
        train(changed, whole, resume=True)


def test_resume_refuses_other_images(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (60, 8, 8, 1), dtype=np.uint8)
    three, four = (
        Dataset.from_arrays(images, np.arange(60) % classes) for classes in (3, 4)
    )
    train(tiny(epochs=1, batch_size=16), tmp_path, source=three)
    with pytest.raises(UserError, match="are not those that .* began with"):
        train(tiny(epochs=1, batch_size=16), tmp_path, source=four, resume=True)


def test_a_checkpoint_tells_no_paths(tmp_path: Path) -> None:
    images = np.zeros((60, 8, 8, 1), np.uint8)
    source = Dataset.from_arrays(
        images, np.arange(60) % 3, spec="folder:/home/somebody/private/birds"
    )
    train(tiny(epochs=1, batch_size=16), tmp_path, source=source)
    assert load(tmp_path).provenance["data"]["source"] == "folder:birds"
    assert (
        json.loads((tmp_path / "config.json").read_text())["config"]["data"]["source"]
        == source.spec
    )
    assert b"somebody" not in (tmp_path / "best.safetensors").read_bytes()


def test_a_run_is_never_overwritten_unasked(whole: Path) -> None:
    before = digests(whole)
    with pytest.raises(UserError, match="already holds a run"):
        train(tiny(), whole)
    assert digests(whole) == before


def test_overwriting_forgets_the_old_states(tmp_path: Path) -> None:
    train(tiny(), tmp_path)
    train(tiny(epochs=0.2), tmp_path, overwrite=True)
    state, _ = newest_state(tmp_path)
    assert state is not None
    assert state.step < 5
    assert all(row["step"] < 5 for row in read_journal(tmp_path))


def test_a_diverging_loss_stops_the_run_before_anything_is_saved(
    tmp_path: Path,
) -> None:
    config = override(
        tiny(), ["optim.lr=1e30", "optim.clip_norm=none", "schedule.warmup_epochs=0"]
    )
    with pytest.raises(UserError, match=r"was no number at step 1 .*lower optim.lr"):
        train(config, tmp_path)
    assert not (tmp_path / "best.safetensors").exists()
    assert newest_state(tmp_path) == (None, [])


def test_sgd_learns_without_a_validation_split(tmp_path: Path) -> None:
    config = override(
        tiny(epochs=6, ema=0.0),
        ["optim.name=sgd", "optim.lr=0.3", "data.val_fraction=0"],
    )
    config = override(
        config,
        [
            "augment.crop=none",
            "augment.flip=false",
            "model.drop_path=0",
            "model.hidden_dim=64",
        ],
    )
    best = train(config, tmp_path)
    assert "top1" not in best
    losses = [row["loss"] for row in read_journal(tmp_path) if row["kind"] == "train"]
    assert losses[-1] < losses[0] - 0.2


class Forbidden(ImageSet):
    """Images that nobody may look at."""

    def image(self, index: int) -> Any:
        raise AssertionError("the test split was read")

    def name(self, index: int) -> str:
        return f"test/{index}"

    subset = image


def test_training_never_reads_the_test_split(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (60, 8, 8, 1), dtype=np.uint8)
    labels = np.arange(60) % 3
    known = ArraySet(images, labels)
    source = Dataset(
        "known", known, None, Forbidden(labels, known.classes, 1, (8, 8)), None
    )
    train(tiny(epochs=1, batch_size=16), tmp_path, source=source)
    assert load(tmp_path).provenance["data"]["test_fraction"] is None


def test_several_unrelated_processes_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(
        UserError, match="WORLD_SIZE is 2, but the processes cannot join .*torchrun"
    ):
        train(tiny(), tmp_path)


def test_gradient_checkpointing_changes_nothing(tmp_path: Path) -> None:
    plain = dataclasses.replace(
        tiny(epochs=0.3),
        model=dataclasses.replace(tiny().model, dropout=0.0, drop_path=0.0),
    )
    saving = override(plain, ["train.grad_checkpointing=true"])
    assert train(plain, tmp_path / "a")["loss"] == pytest.approx(
        train(saving, tmp_path / "b")["loss"], abs=1e-6
    )
