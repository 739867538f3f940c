"""The loop: it learns, ends, stops and rolls back, and never reads the test split."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlp_mixer import UserError, load
from mlp_mixer.config import override
from mlp_mixer.data import ArraySet, Dataset, ImageSet
from mlp_mixer.recipes import get_recipe
from mlp_mixer.training import loop, train
from mlp_mixer.training.journal import read_journal
from mlp_mixer.training.state import newest_state
from mlp_mixer.training.step import Stepper

# A recipe of a second, that logs every step.
SMALL = [
    "model.num_blocks=3",
    "model.hidden_dim=8",
    "model.tokens_mlp_dim=4",
    "model.channels_mlp_dim=16",
    "train.batch_size=24",
    "train.epochs=2",
    "train.device=cpu",
    "train.threads=1",
    "train.ema=0",
    "train.log_every_steps=1",
    "data.val_fraction=0.2",
    "augment.shift=0",
    "augment.rotate=0",
    "augment.scale=0",
]


def test_a_run_without_progress_ends_early_and_the_same_way_when_resumed(
    tmp_path: Path,
    tiny: Any,
    digests: Any,
    crash: type[Exception],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The second of twelve evaluations is the best; two worse ones end the run."""
    step = 0
    real = loop.measure

    def best_at_ten(*args: Any) -> tuple[dict[str, float], None]:
        measured, _ = real(*args)
        return measured | {"loss": 0.5 + abs(step - 10) / 1000}, None

    def watch(crash_step: int) -> Any:
        def report(row: dict[str, Any]) -> None:
            nonlocal step
            if row["kind"] == "train":
                step = row["step"]
            if step >= crash_step:
                raise crash

        return report

    monkeypatch.setattr(loop, "measure", best_at_ten)
    settings = tiny(patience=2, epochs=6)
    whole = tmp_path / "whole"
    broken = tmp_path / "broken"
    best = train(settings, whole, report=watch(999))
    for crash_step in (7, 12, 19):
        with pytest.raises(crash):
            train(settings, broken, resume=True, report=watch(crash_step))
    assert train(settings, broken, resume=True, report=watch(999)) == best
    # The run has ended, and stays as it is.
    assert train(settings, broken, resume=True, report=watch(999)) == best

    rows = read_journal(broken)
    assert [row["step"] for row in rows if row["kind"] == "eval"] == [6, 11, 16, 21]
    assert rows[-1] == {
        "kind": "note",
        "text": "ended early: not better since step 11",
        "step": 21,
        "epoch": 2.0661,
    }
    assert digests(broken) == digests(whole)
    assert best["step"] == 11
    measured = load(whole / "best.safetensors").provenance["measured"]
    assert measured["step"] == 11


def test_another_seed_gives_another_run(
    unbroken: Path, tmp_path: Path, tiny: Any, digests: Any
) -> None:
    train(tiny(seed=1), tmp_path)
    last = "last.safetensors"
    assert digests(tmp_path)[last] != digests(unbroken)[last]


def test_a_run_is_never_overwritten_unasked(
    unbroken: Path, tiny: Any, digests: Any
) -> None:
    before = digests(unbroken)
    with pytest.raises(UserError, match="already holds a run"):
        train(tiny(), unbroken)
    assert digests(unbroken) == before


def test_overwriting_forgets_the_old_states(tmp_path: Path, tiny: Any) -> None:
    train(tiny(), tmp_path)
    train(tiny(epochs=0.2), tmp_path, overwrite=True)
    state, _ = newest_state(tmp_path)
    assert state is not None
    assert state.step < 5
    assert all(row["step"] < 5 for row in read_journal(tmp_path))


def test_sgd_learns_without_a_validation_split(tmp_path: Path, tiny: Any) -> None:
    config = override(
        tiny(epochs=6, ema=0.0),
        [
            "optim.name=sgd",
            "optim.lr=0.3",
            "data.val_fraction=0",
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


def test_training_never_reads_the_test_split(tmp_path: Path, tiny: Any) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (60, 8, 8, 1), dtype=np.uint8)
    labels = np.arange(60) % 3
    known = ArraySet(images, labels)
    test = Forbidden(labels, known.classes, 1, (8, 8))
    source = Dataset("known", known, None, test, None)
    train(tiny(epochs=1, batch_size=16), tmp_path, source=source)
    assert load(tmp_path).provenance["data"]["test_fraction"] is None


def test_several_unrelated_processes_are_refused(
    tmp_path: Path, tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    sentence = "WORLD_SIZE is 2, but the processes cannot join .*torchrun"
    with pytest.raises(UserError, match=sentence):
        train(tiny(), tmp_path)


def test_gradient_checkpointing_changes_nothing(tmp_path: Path, tiny: Any) -> None:
    without_noise = ["model.dropout=0", "model.drop_path=0"]
    plain = override(tiny(epochs=0.3), without_noise)
    saving = override(plain, ["train.grad_checkpointing=true"])
    loss = train(plain, tmp_path / "a")["loss"]
    assert train(saving, tmp_path / "b")["loss"] == pytest.approx(loss, abs=1e-6)


# A loss or gradient that is not finite


def broken_at(monkeypatch: pytest.MonkeyPatch, bad: int) -> None:
    """Make the gradient of a step not finite, every time that it is computed."""
    honest = Stepper.backward

    def backward(self: Stepper, *inputs: Any) -> Any:
        result = honest(self, *inputs)
        if inputs[-1] == bad:
            gradient = next(self.run.model.parameters()).grad
            assert gradient is not None
            gradient.fill_(float("nan"))
        return result

    monkeypatch.setattr(Stepper, "backward", backward)


def test_a_diverging_loss_stops_the_run_before_anything_is_saved(
    tmp_path: Path, tiny: Any
) -> None:
    wild = ["optim.lr=1e30", "optim.clip_norm=none", "schedule.warmup_epochs=0"]
    with pytest.raises(UserError, match=r"not finite at step 1 .*lower optim.lr"):
        train(override(tiny(), wild), tmp_path)
    assert not (tmp_path / "best.safetensors").exists()
    assert newest_state(tmp_path) == (None, [])


def test_a_bad_step_stops_the_run_and_names_step_and_images(
    tmp_path: Path, noise: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken_at(monkeypatch, 5)
    config = override(get_recipe("digits"), SMALL)
    images = r"not finite at step 5 \(images \d+, .* and 18 more\)"
    with pytest.raises(UserError, match=f"{images}.*train.nonfinite=rollback"):
        train(config, tmp_path / "run", source=noise())


def test_or_the_run_goes_back_and_leaves_the_step_out(
    tmp_path: Path, noise: Any, digests: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a crash after that changes nothing."""
    broken_at(monkeypatch, 5)
    config = override(
        get_recipe("digits"),
        [*SMALL, "train.nonfinite=rollback", "train.save_every_steps=2"],
    )
    notes: list[str] = []

    def report(row: dict[str, Any]) -> None:
        if row["kind"] == "note":
            notes.append(row["text"])

    whole = tmp_path / "whole"
    train(config, whole, source=noise(), report=report)
    assert any("back to step 4, and without that step" in note for note in notes)
    state, _ = newest_state(whole)
    assert state is not None
    assert state.skipped == [5]
    steps = [row["step"] for row in read_journal(whole) if row["kind"] == "train"]
    assert steps == [1, 2, 3, 4, 5, 7]

    def crash(row: dict[str, Any]) -> None:
        if row["kind"] == "train" and row["step"] == 7:
            raise KeyboardInterrupt

    crashed = tmp_path / "crashed"
    with pytest.raises(KeyboardInterrupt):
        train(config, crashed, source=noise(), report=crash)
    train(config, crashed, source=noise(), resume=True)
    assert digests(crashed) == digests(whole)


def test_a_run_whose_every_step_is_bad_gives_up(
    tmp_path: Path, noise: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "_MOST_SKIPPED", 2)
    honest = Stepper.backward

    def backward(self: Stepper, *inputs: Any) -> Any:
        loss, right = honest(self, *inputs)
        return loss * (float("nan") if inputs[-1] >= 3 else 1.0), right

    monkeypatch.setattr(Stepper, "backward", backward)
    config = override(
        get_recipe("digits"),
        [*SMALL, "train.nonfinite=rollback", "train.save_every_steps=2"],
    )
    with pytest.raises(UserError, match="not finite at step 5"):
        train(config, tmp_path, source=noise())
    state, _ = newest_state(tmp_path)
    assert state is not None
    assert state.step == 4
    assert state.skipped == [3]
