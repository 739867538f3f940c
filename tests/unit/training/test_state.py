"""States of a run on the disk: complete or not there, the newest two, parts together."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from mlp_mixer import UserError
from mlp_mixer.training import state as module
from mlp_mixer.training.state import (
    StateSaver,
    finish_states,
    newest_state,
)
from mlp_mixer.training.state_files import forget_states, prune_states

HEADER = {"config": {}, "fingerprint": "", "best": None}
JSON = '{"step": 3, "config": {}, "fingerprint": "", "best": null}'


def save(saver: StateSaver, step: int) -> None:
    network = nn.Linear(2, 3)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    saver.save(HEADER, step=step, modules={"model": network}, optimizer=optimizer)


def names(out: Path) -> list[str]:
    return sorted(path.name for path in (out / "state").iterdir())


def test_the_newest_two_are_kept(tmp_path: Path) -> None:
    saver = StateSaver(tmp_path)
    for step in (1, 2, 10):
        save(saver, step)
    saver.wait()
    assert names(tmp_path) == [
        "step-000000002.safetensors",
        "step-000000010.safetensors",
    ]
    state, complaints = newest_state(tmp_path)
    assert state is not None
    assert (state.step, complaints) == (10, [])
    assert sorted(state.tensors) == ["model.bias", "model.weight"]


def test_what_is_saved_is_a_copy_of_the_moment(tmp_path: Path) -> None:
    network = nn.Linear(2, 3)
    before = network.weight.detach().clone()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    saver = StateSaver(tmp_path)
    saver.save(HEADER, step=1, modules={"model": network}, optimizer=optimizer)
    with torch.no_grad():
        network.weight.zero_()
    saver.wait()
    state, _ = newest_state(tmp_path)
    assert state is not None
    assert torch.equal(state.tensors["model.weight"], before)


def test_a_disk_that_refuses_is_told_by_the_next_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, data: bytes) -> None:
        raise UserError("the disk is full")

    monkeypatch.setattr(module, "write_bytes", refuse)
    saver = StateSaver(tmp_path)
    save(saver, 1)
    with pytest.raises(UserError, match="the disk is full"):
        save(saver, 2)
    # It is told once.
    saver.wait()


def write_part(out: Path, step: int, part: int, parts: int) -> None:
    (out / "state").mkdir(exist_ok=True)
    path = out / "state" / f"step-{step:09d}.part-{part}-of-{parts}.safetensors"
    rows = torch.full((2, 3), float(part))
    save_file({"model.weight": rows}, path, {"mlp_mixer_state": JSON})


def test_parts_are_put_together_in_their_order(tmp_path: Path) -> None:
    for part in (2, 0, 1):
        write_part(tmp_path, 3, part, 3)
    state, _ = newest_state(tmp_path)
    assert state is not None
    rows = state.tensors["model.weight"][:, 0].tolist()
    assert rows == [0, 0, 1, 1, 2, 2]


def test_a_state_counts_once_all_its_parts_are_there(tmp_path: Path) -> None:
    for part in range(2):
        write_part(tmp_path, 3, part, 2)
    # Another number of processes left a part of the same step, and of a later one.
    write_part(tmp_path, 3, 0, 4)
    write_part(tmp_path, 9, 0, 2)
    state, complaints = newest_state(tmp_path)
    assert state is not None
    assert [path.name for path in state.files] == [
        "step-000000003.part-0-of-2.safetensors",
        "step-000000003.part-1-of-2.safetensors",
    ]
    assert complaints == []
    prune_states(tmp_path)
    assert len(names(tmp_path)) == 4, "a part may belong to a state in the making"


def test_of_a_finished_run_one_state_without_tensors_is_kept(tmp_path: Path) -> None:
    for part in range(2):
        write_part(tmp_path, 3, part, 2)
    write_part(tmp_path, 2, 0, 4)
    finish_states(tmp_path, step=4)
    assert len(names(tmp_path)) == 3, "the newest state is not of the last step"
    before, _ = newest_state(tmp_path)
    assert before is not None
    assert not before.finished
    for _ in range(2):
        finish_states(tmp_path, step=3)
        assert names(tmp_path) == ["step-000000003.safetensors"]
        state, complaints = newest_state(tmp_path)
        assert state is not None
        assert (state.step, state.finished, complaints) == (3, True, [])
        assert (state.config, state.best) == (before.config, before.best)
        assert list(state.tensors) == []


def test_states_after_a_step_are_forgotten(tmp_path: Path) -> None:
    saver = StateSaver(tmp_path)
    save(saver, 4)
    save(saver, 8)
    saver.wait()
    (tmp_path / "state" / "step-notes.safetensors").touch()
    forget_states(tmp_path, after=4)
    assert names(tmp_path) == [
        "step-000000004.safetensors",
        "step-notes.safetensors",
    ]
    forget_states(tmp_path)
    assert names(tmp_path) == ["step-notes.safetensors"]
