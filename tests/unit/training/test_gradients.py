"""Norms by block, and steps that are left out because their gradient is a spike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from mlp_mixer import UserError
from mlp_mixer.config import override
from mlp_mixer.models import create_model
from mlp_mixer.recipes import get_recipe
from mlp_mixer.report import find_runs
from mlp_mixer.training import TrainConfig, gradients, prepare, train
from mlp_mixer.training.gradients import WINDOW, SpikeWatch, block_norms
from mlp_mixer.training.journal import read_journal
from mlp_mixer.training.state import newest_state
from mlp_mixer.training.step import Stepper

SMALL = [
    "model.num_blocks=2",
    "model.hidden_dim=8",
    "model.tokens_mlp_dim=4",
    "model.channels_mlp_dim=16",
    "train.batch_size=24",
    "train.epochs=3",
    "train.device=cpu",
    "train.threads=1",
    "train.ema=0.9",
    "train.log_every_steps=1",
    "train.save_every_steps=4",
    "data.val_fraction=0.2",
]


def small(*settings: str) -> TrainConfig:
    return override(get_recipe("digits"), [*SMALL, *settings])


@pytest.mark.parametrize(
    "name", ["mixer_nano4", "resmlp_12", "gmlp_ti16", "views_nano4"]
)
@pytest.mark.parametrize("with_beside", [False, True])
def test_the_squares_add_up_to_the_whole(name: str, with_beside: bool) -> None:
    model = create_model(name, num_blocks=2, hidden_dim=16, num_classes=3)
    beside = torch.nn.Linear(3, 2) if with_beside else None
    parameters = [*model.parameters(), *(beside.parameters() if beside else ())]
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter)
    # What has no gradient counts as zeros.
    parameters[0].grad = None
    found = block_norms(model, beside)
    assert {"stem", "blocks.0", "blocks.1", "head"} <= set(found)
    assert ("beside" in found) == with_beside
    total = sum(float(norm) ** 2 for norm in found.values()) ** 0.5
    by_hand = sum(float((p.grad**2).sum()) for p in parameters if p.grad is not None)
    assert total == pytest.approx(by_hand**0.5, rel=1e-5)


def test_a_spike_is_many_times_the_median() -> None:
    watch = SpikeWatch(5.0)
    for norm in [1.0, 1.25, 1.5] * 10:
        assert watch.check(norm) == ""
    # The median is 1.25.
    assert watch.check(6.2) == ""
    assert watch.check(6.3).startswith("the gradient's norm is 6.3, more than 5 times")


def test_the_first_steps_are_never_spikes() -> None:
    watch = SpikeWatch(2.0)
    found = [watch.check(norm) for norm in [1.0, 100.0] * 9]
    assert not any(found)


@pytest.mark.parametrize("norm", [float("nan"), float("inf")])
def test_what_is_not_finite_is_no_spike_and_is_forgotten(norm: float) -> None:
    watch = SpikeWatch(2.0)
    for _ in range(30):
        watch.check(1.0)
    assert watch.check(norm) == ""
    assert watch.norms == [1.0] * 30


def test_a_lasting_change_becomes_usual_and_a_few_spikes_do_not() -> None:
    watch = SpikeWatch(10.0)
    for _ in range(2 * WINDOW):
        watch.check(1.0)
    assert len(watch.norms) == WINDOW
    left_out = [bool(watch.check(50.0)) for _ in range(WINDOW)]
    assert all(left_out[:40])
    assert not any(left_out[60:])


def spike_at(monkeypatch: pytest.MonkeyPatch, steps: set[int], factor: float) -> None:
    """Make the gradients of some steps many times as long."""
    monkeypatch.setattr(gradients, "_FEWEST", 3)
    honest = Stepper.backward

    def backward(self: Stepper, *inputs: Any) -> Any:
        result = honest(self, *inputs)
        if inputs[-1] in steps:
            for parameter in self.run.model.parameters():
                if parameter.grad is not None:
                    parameter.grad *= factor
        return result

    monkeypatch.setattr(Stepper, "backward", backward)


SKIP = ("train.on_spike=skip", "train.spike_factor=50")


def test_a_spike_moves_no_weight(
    tmp_path: Path, noise: Any, digests: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever its gradient is, the run ends with the same bytes: it was left out."""
    ends = []
    for factor in (1e3, -1e5):
        out = tmp_path / f"{factor:g}"
        with monkeypatch.context() as patch:
            spike_at(patch, {5}, factor)
            notes: list[str] = []
            train(small(*SKIP), out, source=noise(), report=keep_notes(notes))
        assert any("step 5 is left out: the gradient's norm is" in one for one in notes)
        ends.append(digests(out)["last.safetensors"])
    assert ends[0] == ends[1]
    with monkeypatch.context() as patch:
        spike_at(patch, {5}, 1e3)
        taken = tmp_path / "taken"
        train(small("optim.clip_norm=none"), taken, source=noise())
    assert digests(taken)["last.safetensors"] != ends[0]


def keep_notes(notes: list[str]) -> Any:
    def report(row: dict[str, Any]) -> None:
        if row["kind"] == "note":
            notes.append(row["text"])

    return report


@pytest.mark.parametrize("crash_step", [5, 6, 8, 10])
def test_a_crash_around_a_spike_changes_nothing(
    tmp_path: Path,
    noise: Any,
    digests: Any,
    crash_step: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The second one is a spike only to somebody who remembers the norms before step 8.
    spike_at(monkeypatch, {5, 9}, 1e4)
    whole = tmp_path / "whole"
    train(small(*SKIP), whole, source=noise())
    state, _ = newest_state(whole)
    assert state is not None
    assert len(state.norms) == state.step

    def crash(row: dict[str, Any]) -> None:
        if row["kind"] == "train" and row["step"] == crash_step:
            raise KeyboardInterrupt

    crashed = tmp_path / "crashed"
    with pytest.raises(KeyboardInterrupt):
        train(small(*SKIP), crashed, source=noise(), report=crash)
    train(small(*SKIP), crashed, source=noise(), resume=True)
    assert digests(crashed) == digests(whole)
    for out in (whole, crashed):
        notes = [row for row in read_journal(out) if "left_out" in row]
        assert [row["left_out"] for row in notes] == [5, 9]
        assert all("is left out" in row["text"] for row in notes)


def test_a_spike_just_after_a_saved_state_is_noted_once(
    tmp_path: Path, noise: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A state is saved after step 7; the run is killed after step 8, the spike."""
    spike_at(monkeypatch, {8}, 1e4)

    def crash(row: dict[str, Any]) -> None:
        if row["kind"] == "note" and "left_out" in row:
            raise KeyboardInterrupt

    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train(small(*SKIP), out, source=noise(), report=crash)
    train(small(*SKIP), out, source=noise(), resume=True)
    assert [row["left_out"] for row in read_journal(out) if "left_out" in row] == [8]
    (summary,) = find_runs([out])
    assert summary.left_out == 1


def test_looking_at_gradients_changes_no_bit(
    tmp_path: Path, noise: Any, digests: Any
) -> None:
    # All steps are clipped, and the norms are those before that.
    clip = "optim.clip_norm=1e-3"
    train(small(clip), tmp_path / "plain", source=noise())
    watched = (clip, "train.block_norms_every_steps=3", "train.on_spike=skip")
    train(small(*watched), tmp_path / "watched", source=noise())
    for name in ("last.safetensors", "best.safetensors"):
        first, second = (digests(tmp_path / run)[name] for run in ("plain", "watched"))
        assert first == second
    rows = [row for row in read_journal(tmp_path / "watched") if row["kind"] == "train"]
    measured = [row["step"] - 1 for row in rows if "block_grad_norms" in row]
    assert measured == [0, 3, 6, 9]
    for row in rows[::3]:
        squares = sum(norm**2 for norm in row["block_grad_norms"].values())
        assert squares**0.5 == pytest.approx(row["grad_norm"], rel=1e-2)
    assert all(row["clipped"] == 1 for row in rows)
    plain = read_journal(tmp_path / "plain")
    assert not any("block_grad_norms" in row for row in plain)


def test_a_run_without_labels_has_its_head_beside(noise: Any) -> None:
    settings = ("pretext.name=views", "data.repeats=2", "train.label_smoothing=0")
    run = prepare(small(*settings, "data.val_fraction=0"), noise())
    assert run.beside is not None
    for parameter in [*run.model.parameters(), *run.beside.parameters()]:
        parameter.grad = torch.ones_like(parameter)
    assert block_norms(run.model, run.beside)["beside"] > 0


@pytest.mark.parametrize(
    "setting",
    [
        "train.on_spike=rollback",
        "train.spike_factor=1",
        "train.block_norms_every_steps=0",
    ],
)
def test_settings_that_make_no_sense(setting: str) -> None:
    with pytest.raises(UserError, match=setting.partition("=")[0]):
        small(setting)
