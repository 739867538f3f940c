"""Resuming a run: from which state, and whether it belongs to this run and machine."""

from __future__ import annotations

import contextlib
import shlex
from pathlib import Path
from typing import Any

import torch

from ..choices import Computed
from ..config import recorded, to_dict
from ..devices import pick_device
from ..distributed import is_main, world_size
from ..errors import UserError, listed, without_secrets
from .artifacts import read_split
from .config import TrainConfig, stored_config
from .journal import JournalRow, Report
from .precision import precision_of_state
from .run import Run
from .state import RunState, newest_state

# Settings that no weight depends on.
_FREE_TO_CHANGE = {
    "train.save_every_steps",
    "train.log_every_steps",
    "train.block_norms_every_steps",
    "train.device",
    "train.parallel",
    "data.workers",
    # The images themselves are compared instead, by their fingerprint.
    "data.source",
    # Likewise the weights of the teacher.
    "distill.teacher",
}


_MOST_NAMED = 3  # images in a sentence

# Settings of the length alone.
_LENGTH = ("train.epochs ", "train.steps ", "train.images ", "train.eval_every_epochs ")


def find_state(out: Path, run: Run, report: Report) -> RunState | None:
    """Find the newest readable state of a run, and check that it belongs to the run.

    Args:
        out: The folder of the run.
        run: The run as it would start now.
        report: Is told about damaged states, and about what may change the last bits.

    Returns:
        The state; None if there is none, and the run starts anew.

    Raises:
        UserError: None of several states can be read, or the state has other settings,
            images or another teacher.
    """
    state, complaints = newest_state(out)
    if state is None and complaints:
        raise UserError(
            f"no saved state can be read: {'; '.join(complaints)}; use --overwrite to "
            "start anew"
        )
    for complaint in complaints:
        report(_note(f"{complaint}: using the state before it"))
    if state is None:
        report(_note(f"no saved state in {str(out)!r}: starting anew"))
        return None
    _check_same_run(state, run, out)
    if differences := _differences(state.made_with, made_with(run)):
        report(
            _note(
                "the last bits may differ from those of an unbroken run: "
                + "; ".join(differences)
            )
        )
    return state


def precision_before(state: RunState | None, config: TrainConfig) -> Computed | None:
    """Return what a run has computed in so far; None for a new one.

    Args:
        state: Its newest state, if there is one.
        config: The configuration with which it goes on.
    """
    if state is None:
        return None
    device = pick_device(config.train.device)
    return precision_of_state(state.made_with, state.config, device)


def _note(text: str) -> JournalRow:
    return {"kind": "note", "text": text}


def _check_same_run(state: RunState, run: Run, out: Path) -> None:
    """Raise `UserError` if a state has other settings, images or another teacher."""
    before = state.config
    # A field that this version added gets its default, which is what was done then. A
    # field that this version no longer has stays, and is named among the changes.
    with contextlib.suppress(UserError):
        before = to_dict(stored_config(state.config))
    changed = _changes(recorded(before), recorded(to_dict(run.config)))
    if changed:
        raise UserError(
            f"{str(out)!r} has other settings: {'; '.join(changed)}; "
            f"{_what_to_do(changed, run, out)}"
        )
    if state.fingerprint != run.fingerprint:
        raise UserError(
            f"the images of {run.source.spec!r} are not those that {str(out)!r} began "
            f"with{_which_images(run, out)}; use a new --out, or bring them back"
        )
    # States of early versions lack it, and only the main process knows it.
    contents = state.made_with.get("images")
    if is_main() and contents is not None and contents != run.seen.digest():
        raise UserError(
            f"images of {run.source.spec!r} have another content than those that "
            f"{str(out)!r} began with, under the same names; use a new --out"
        )
    if state.made_with.get("teacher") != made_with(run).get("teacher"):
        raise UserError(
            f"the teacher is not the one that {str(out)!r} began with: give that one, or "
            "use a new --out"
        )


def _what_to_do(changed: list[str], run: Run, out: Path) -> str:
    """Return an advice; who changes the length alone wants to go on after the end."""
    is_length = all(text.startswith(_LENGTH) for text in changed)
    if not is_length or run.task:
        return "use the old ones or a new --out"
    # A schedule ends with its run: more steps behind it would have a rate of zero.
    command = ["mlp-mixer", "finetune", str(out), "--data", run.source.spec]
    return (
        "use the old ones, or train its weights on in a new run, with a schedule of its "
        f"own: {shlex.join(command)} --out NEW"
    )


def _which_images(run: Run, out: Path) -> str:
    """Say which images came and went since the run began, where it wrote that down."""
    before = read_split(out)
    parts = [run.train, run.val, run.source.test]
    now = {
        (part.name(index), part.label_text(index))
        for part in parts
        if part is not None
        for index in range(len(part))
    }
    changes = []
    for gone, words in ((before - now, "gone or renamed"), (now - before, "new")):
        names = [repr(name) for name, _ in sorted(gone)]
        if before and names:
            changes.append(f"{words}: {listed(names, _MOST_NAMED, ', ')}")
    return f" ({'; '.join(changes)})" if changes else ""


def made_with(run: Run) -> dict[str, Any]:
    """Return what may change the order of sums, and so the last bits of a run.

    Args:
        run: The run.

    Returns:
        JSON values by name, with the fingerprint of the teacher if there is one, and
        that of all images that are learnt from.
    """
    facts: dict[str, Any] = {}
    if run.teacher:
        facts["teacher"] = run.teacher.fingerprint
    if is_main():
        facts["images"] = run.seen.digest()
    facts["threads"] = run.config.train.threads or torch.get_num_threads()
    facts["processes"] = world_size()
    facts["device"] = run.device.type
    facts["torch"] = torch.__version__
    facts["precision"] = run.precision
    return facts


def _differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    found = []
    for key, old in before.items():
        if old != now.get(key):
            found.append(f"{key} was {old}, is now {now.get(key)}")
    return found


def _changes(old: Any, new: Any, where: str = "") -> list[str]:
    """Return the settings that would change the run, as "a.b was 1, is now 2"."""
    if isinstance(old, dict) and isinstance(new, dict):
        inside = f"{where}." if where else ""
        found = []
        for key in old | new:
            found += _changes(old.get(key), new.get(key), inside + key)
        return found
    if old == new or where in _FREE_TO_CHANGE:
        return []
    # A state has all weights: only the name of those before it counts, not their place.
    if where == "model.init" and old and new and Path(old).name == Path(new).name:
        return []
    return [f"{where} was {old}, is now {new}"]


def start_row(run: Run, step: int, *, finished: bool = False) -> JournalRow:
    """Return what a person is told before the first step, as a row of kind "start".

    Args:
        run: The run.
        step: How many steps are done already.
        finished: Whether the run has ended already.
    """
    return {
        "kind": "start",
        "model": run.model_name,
        "parameters": sum(parameter.numel() for parameter in run.model.parameters()),
        "source": without_secrets(run.source.spec),
        "passed_over": run.source.passed_over,
        "classes": 0 if run.task else len(run.train.classes),
        # Whether there are classes that a fine-tuning could learn.
        "labelled": len(run.train.classes) > 1,
        "n_train": len(run.train),
        "n_val": len(run.val) if run.val is not None else 0,
        "device": str(run.device),
        "precision": run.precision,
        "processes": world_size(),
        "step": step,
        "finished": finished,
        "total_steps": run.total_steps,
        "epochs": run.epoch(run.total_steps),
    }
