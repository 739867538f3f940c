"""Going on with a run: which state, and whether it belongs to these settings, images
and machine.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..config import from_dict, to_dict
from ..distributed import world_size
from ..errors import UserError
from .config import TrainConfig
from .journal import JournalRow
from .run import Run
from .state import RunState, newest_state

if TYPE_CHECKING:
    from .loop import Report

_FREE_TO_CHANGE = {
    "train.save_every_steps",
    "train.log_every_steps",
    "train.device",
    "train.parallel",
    "data.workers",
    "data.source",
    "distill.teacher",  # its weights are compared instead
}


def find_state(out: Path, run: Run, report: Report) -> RunState | None:
    """The newest readable state; `UserError` if none of several can be read, or it is
    of another run.
    """
    state, complaints = newest_state(out)
    if state is None and complaints:
        raise UserError(
            f"no saved state can be read: {'; '.join(complaints)}; use --overwrite to start anew"
        )
    for complaint in complaints:
        report({"kind": "note", "text": f"{complaint}: using the state before it"})
    if state is None:
        report(
            {"kind": "note", "text": f"no saved state in {str(out)!r}: starting anew"}
        )
        return None
    try:  # a field that this version added has its default there
        then = to_dict(from_dict(TrainConfig, state.config))
    except UserError:
        then = state.config
    changed = _changes(then, to_dict(run.config))
    if changed:
        raise UserError(
            f"{str(out)!r} has other settings: {'; '.join(changed)}; use the old ones or a new --out"
        )
    if state.fingerprint != run.fingerprint:
        raise UserError(
            f"the images of {run.source.spec!r} are not those that {str(out)!r} began with; use a new --out"
        )
    now = made_with(run)
    if state.made_with.get("teacher") != now.get("teacher"):
        raise UserError(
            f"the teacher is not the one that {str(out)!r} began with: give that one, or use a new --out"
        )
    if other := [
        f"{key} was {old}, is now {now[key]}"
        for key, old in state.made_with.items()
        if old != now.get(key)
    ]:
        report(
            {
                "kind": "note",
                "text": f"the last bits may differ from those of an unbroken run: {'; '.join(other)}",
            }
        )
    return state


def made_with(run: Run) -> dict[str, Any]:
    """What may change the order of sums, and so the last bits; and which teacher, if
    there is one.
    """
    teacher = {"teacher": run.teacher.fingerprint} if run.teacher else {}
    return teacher | {
        "threads": run.config.train.threads or torch.get_num_threads(),
        "processes": world_size(),
        "device": run.device.type,
        "torch": torch.__version__,
    }


def _changes(old: Any, new: Any, where: str = "") -> list[str]:
    """The settings that differ and would bend the run, as `a.b was 1, is now 2`."""
    if isinstance(old, dict) and isinstance(new, dict):
        inside = f"{where}." if where else ""
        return [
            text
            for key in old | new
            for text in _changes(old.get(key), new.get(key), inside + key)
        ]
    return (
        []
        if old == new or where in _FREE_TO_CHANGE
        else [f"{where} was {old}, is now {new}"]
    )


def start_row(run: Run, step: int) -> JournalRow:
    """What a person is told before the first step."""
    return {
        "kind": "start",
        "model": run.model_name,
        "parameters": sum(parameter.numel() for parameter in run.model.parameters()),
        "source": run.source.spec,
        "classes": len(run.train.classes),
        "n_train": len(run.train),
        "n_val": len(run.val) if run.val is not None else 0,
        "device": str(run.device),
        "processes": world_size(),
        "step": step,
        "total_steps": run.total_steps,
        "epochs": run.epoch(run.total_steps),
    }
