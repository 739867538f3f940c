"""Resuming: with the same bytes, from the newest state, and only the same run."""

from __future__ import annotations

import json
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
from PIL import Image

from mlp_mixer import UserError
from mlp_mixer.config import override
from mlp_mixer.training import Interrupted, loop, prepare, train
from mlp_mixer.training.config import ModelChoice
from mlp_mixer.training.journal import ignore_row, read_journal
from mlp_mixer.training.resume import find_state
from mlp_mixer.training.state import _KEY, newest_state
from mlp_mixer.weights.checkpoint import opened


@pytest.mark.parametrize("steps", [(2,), (4, 9), (8, 8, 12, 16)])
def test_a_crashed_and_resumed_run_ends_with_the_same_bytes(
    steps: tuple[int, ...],
    unbroken: Path,
    tmp_path: Path,
    tiny: Any,
    digests: Any,
    crash_at: Any,
    crash: type[Exception],
) -> None:
    for step in steps:
        with pytest.raises(crash):
            train(tiny(), tmp_path, resume=True, report=crash_at(step))
    train(tiny(), tmp_path, resume=True)
    assert digests(tmp_path) == digests(unbroken)
    logged = [(row["kind"], row["step"]) for row in read_journal(tmp_path)]
    assert logged == [(row["kind"], row["step"]) for row in read_journal(unbroken)]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_saves_and_the_run_can_go_on(
    number: signal.Signals, unbroken: Path, tmp_path: Path, tiny: Any, digests: Any
) -> None:
    def interrupt(row: dict[str, Any]) -> None:
        if row["kind"] == "train" and row["step"] == 8:
            os.kill(os.getpid(), number)

    # Under nohup SIGHUP is ignored, and stays so.
    before = signal.getsignal(number)
    if before == signal.SIG_IGN:
        pytest.skip(f"this process ignores {number.name}")
    with pytest.raises(Interrupted) as stopped:
        train(tiny(), tmp_path, report=interrupt)
    assert stopped.value.signal_number == number
    state, complaints = newest_state(tmp_path)
    assert state is not None
    assert (state.step, complaints) == (stopped.value.step, [])
    assert signal.getsignal(number) == before
    train(tiny(), tmp_path, resume=True)
    last = "last.safetensors"
    assert digests(tmp_path)[last] == digests(unbroken)[last]


def test_a_finished_run_has_nothing_left_to_do(
    unbroken: Path,
    tmp_path: Path,
    tiny: Any,
    digests: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also one of an older version, whose states lose their tensors now."""
    with monkeypatch.context() as patch:
        patch.setattr(loop, "finish_states", lambda out, step: None)
        best = train(tiny(), tmp_path)
    assert len(list((tmp_path / "state").iterdir())) == 2
    journal = read_journal(tmp_path)
    with monkeypatch.context() as patch:
        # Not a single image is read, and nothing is evaluated.
        patch.setattr(loop, "measure", None)
        patch.setattr(loop.Stepper, "__call__", None)
        for _ in range(2):
            assert train(tiny(), tmp_path, resume=True) == best
            assert digests(tmp_path) == digests(unbroken)
    assert read_journal(tmp_path) == journal
    # It is still the run of these settings, and of no others.
    with pytest.raises(UserError, match=r"train.epochs was 1.5, is now 3"):
        train(tiny(epochs=3), tmp_path, resume=True)


def test_a_damaged_state_is_named_and_the_one_before_it_used(
    unbroken: Path,
    tmp_path: Path,
    tiny: Any,
    digests: Any,
    crash_at: Any,
    crash: type[Exception],
) -> None:
    with pytest.raises(crash):
        train(tiny(), tmp_path, report=crash_at(12))
    newest = max((tmp_path / "state").iterdir())
    newest.write_bytes(newest.read_bytes()[:-100])
    notes: list[str] = []

    def report(row: dict[str, Any]) -> None:
        notes.append(row.get("text", ""))

    train(tiny(), tmp_path, resume=True, report=report)
    assert any(newest.name in note and "state before it" in note for note in notes)
    assert digests(tmp_path) == digests(unbroken)


def test_only_damaged_states_are_an_error(tmp_path: Path, tiny: Any) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "step-000000003.safetensors").write_bytes(b"garbage")
    with pytest.raises(UserError, match="no saved state can be read.*step-000000003"):
        train(tiny(), tmp_path, resume=True)


def test_resume_without_a_state_starts_anew_and_says_so(
    tmp_path: Path, tiny: Any
) -> None:
    rows: list[dict[str, Any]] = []
    train(tiny(epochs=0.2), tmp_path, resume=True, report=rows.append)
    assert "starting anew" in rows[0]["text"]


def test_resume_refuses_other_settings_by_name(unbroken: Path, tiny: Any) -> None:
    changed = override(tiny(), ["optim.lr=0.5", "data.workers=1"])
    with pytest.raises(UserError, match=r"optim.lr was 0.01, is now 0.5; use the old"):
        train(changed, unbroken, resume=True)


def test_resume_refuses_other_images(tmp_path: Path, tiny: Any, noise: Any) -> None:
    config = tiny(epochs=1, batch_size=16)
    train(config, tmp_path, source=noise(60, classes=3))
    with pytest.raises(UserError, match="are not those that .* began with"):
        train(config, tmp_path, source=noise(60, classes=4), resume=True)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("removed", r"gone or renamed: 'a/1.png'\)"),
        ("renamed", r"gone or renamed: 'a/1.png'; new: 'a/9, ä.png'\)"),
        ("added", r"new: 'a/new\\nline.png'\)"),
        ("moved", r"gone or renamed: 'a/1.png'; new: 'b/moved.png'\)"),
        ("emptied", "gone or renamed: 'b/0.png', 'b/1.png', 'b/2.png', and 3 more"),
        ("the list is gone", r"began with; use a new --out"),
        ("the list is a stranger's", r"gone or renamed: 'x'; new: 'a/0.png', "),
    ],
)
def test_images_that_came_or_went_are_named(
    tmp_path: Path, tiny: Any, change: str, named: str
) -> None:
    data, out = tmp_path / "data", tmp_path / "run"
    for number, label in enumerate("abc" * 6):
        path = data / label / f"{number // 3}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (number, 0, 0)).save(path)
    settings = [f"data.source=folder:{data}", "model.image_size=8", "optim.lr=0.1"]
    config = override(tiny(epochs=1, batch_size=4), settings)
    train(config, out)
    one = data / "a" / "1.png"
    if change == "removed":
        one.unlink()
    elif change == "renamed":
        one.rename(data / "a" / "9, ä.png")
    elif change == "added":
        Image.new("RGB", (8, 8)).save(data / "a" / "new\nline.png")
    elif change == "moved":
        one.rename(data / "b" / "moved.png")
    elif change == "emptied":
        shutil.rmtree(data / "b")
    else:
        one.unlink()
        (out / "split.csv").write_bytes(b'\xff"\0,\n\n,,,\nx,y,z\n"' + b"y" * 200_000)
        if change == "the list is gone":
            (out / "split.csv").unlink()
    with pytest.raises(UserError, match=named):
        train(config, out, resume=True)


@pytest.mark.parametrize("change", ["swapped", "replaced", "touched"])
def test_resume_refuses_other_images_of_the_same_names(
    tmp_path: Path, tiny: Any, noise: Any, change: str
) -> None:
    source = noise(60, classes=3)
    config = tiny(epochs=1, batch_size=16)
    train(config, tmp_path, source=source)
    images = source.train.images
    if change == "replaced":
        images[:] = 255 - images
    elif change == "swapped":
        images[0], images[1] = images[1].copy(), images[0].copy()
    else:
        images[3, 0, 0] ^= 1
    # Only the order is another: the same set of images has the same digits.
    if change == "swapped":
        train(config, tmp_path, source=source, resume=True)
        return
    other = replace(source)
    other.train._keys = None
    with pytest.raises(UserError, match="have another content .* same names"):
        train(config, tmp_path, source=other, resume=True)


def test_what_may_change_the_last_bits_is_said(tmp_path: Path, tiny: Any) -> None:
    config = tiny(epochs=0.2)
    train(config, tmp_path)
    state, _ = newest_state(tmp_path)
    assert state is not None
    rows: list[dict[str, Any]] = []
    with opened(state.files[0], _KEY) as (header, file):
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    header["made_with"]["processes"] = 8
    text = json.dumps(header)
    state.files[0].write_bytes(safetensors.torch.save(tensors, {_KEY: text}))
    assert find_state(tmp_path, prepare(config), rows.append) is not None
    assert rows[0]["text"].endswith("unbroken run: processes was 8, is now 1")


def test_a_state_of_an_older_version_lacks_new_settings_and_is_still_resumed(
    tmp_path: Path, tiny: Any
) -> None:
    config = tiny(epochs=0.2)
    train(config, tmp_path)
    state, _ = newest_state(tmp_path)
    assert state is not None
    with opened(state.files[0], _KEY) as (header, file):
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    del header["config"]["optim"]["rho"]
    del header["config"]["mix"]
    del header["made_with"]
    del header["skipped"]
    text = json.dumps(header)
    state.files[0].write_bytes(safetensors.torch.save(tensors, {_KEY: text}))
    found = find_state(tmp_path, prepare(config), ignore_row)
    assert found is not None
    assert found.step == state.step


@pytest.mark.parametrize(
    ("lost", "head"), [("moved", "known"), ("another", "known"), ("deleted", "fitted")]
)
def test_a_fine_tuning_goes_on_without_the_weights_it_began_with(
    lost: str,
    head: str,
    unbroken: Path,
    tmp_path: Path,
    tiny: Any,
    digests: Any,
    crash_at: Any,
    crash: type[Exception],
) -> None:
    init = tmp_path / "init.safetensors"
    shutil.copy(unbroken / "last.safetensors", init)
    fields = {"init": str(init), "name": "", "head": head, "drop_path": 0.1}
    config = replace(tiny(), model=ModelChoice(**fields))
    train(config, tmp_path / "whole")
    with pytest.raises(crash):
        train(config, tmp_path / "broken", report=crash_at(8))
    if lost == "moved":
        init.rename(tmp_path / "elsewhere.safetensors")
    else:
        init.unlink()
    if lost == "another":
        # A folder above may have another name: the weights' own name is the same.
        place = tmp_path / "other" / init.name
        fields["init"] = str(place)
        config = replace(config, model=ModelChoice(**fields))
    train(config, tmp_path / "broken", resume=True)
    name = "last.safetensors"
    assert digests(tmp_path / "broken")[name] == digests(tmp_path / "whole")[name]
    notes = [
        json.loads((tmp_path / out / "config.json").read_text())["notes"]
        for out in ("broken", "whole")
    ]
    # How a head was fitted is a note of the beginning alone.
    assert notes[0] == notes[1][: len(notes[0])] != []
    other = replace(config, model=ModelChoice(**(fields | {"init": "b.safetensors"})))
    with pytest.raises(UserError, match=r"model.init was .*, is now b.safetensors"):
        train(other, tmp_path / "broken", resume=True)


@pytest.mark.parametrize("field", ["epochs", "steps"])
def test_going_on_after_the_end_names_the_way(
    field: str, unbroken: Path, tiny: Any
) -> None:
    longer = tiny(**{field: 50})
    expected = r"mlp-mixer finetune .* --data digits --out NEW"
    with pytest.raises(UserError, match=expected):
        train(longer, unbroken, resume=True)
    rows: list[dict[str, Any]] = []
    train(tiny(), unbroken, resume=True, report=rows.append)
    assert rows[0]["finished"]
    assert rows[0]["step"] == rows[0]["total_steps"]
    # Another setting as well is another run.
    for other in ({"seed": 7}, {"batch_size": 20}, {"label_smoothing": 0.25}):
        with pytest.raises(UserError, match="use the old ones or a new --out"):
            train(tiny(**{field: 50}, **other), unbroken, resume=True)
