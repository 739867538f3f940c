"""The state of a run: what, beside its configuration, decides every later bit of it.

Weights, their average, the optimiser's moments and the step. No random generator is among them: data order,
augmentation and dropout are functions of (seed, step). A state is one safetensors file under a new name, written
atomically; the two newest are kept, so that a damaged one has a predecessor.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..errors import UserError
from ..files import write_bytes
from ..weights.checkpoint import read_file

_KEY = "mlp_mixer_state"
_KEEP = 2


@dataclass(frozen=True)
class RunState:
    """What was read back: `step` steps were done, `best` is the evaluation row of the best checkpoint so far."""

    step: int
    config: dict[str, Any]
    fingerprint: str  # of the data
    best: dict[str, Any] | None
    tensors: dict[str, Tensor]
    path: Path


def save_state(
    out: Path,
    *,
    step: int,
    config: dict[str, Any],
    fingerprint: str,
    best: dict[str, Any] | None,
    modules: Mapping[str, nn.Module],
    optimizer: Optimizer,
) -> Path:
    """Write the state after `step` steps into `out/state/` and remove all but the newest two."""
    tensors = {f"{name}.{key}": value for name, module in modules.items() for key, value in module.state_dict().items()}
    for index, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{key}": torch.as_tensor(value) for key, value in moments.items()}
    header = {"format_version": 1, "step": step, "best": best, "config": config, "fingerprint": fingerprint}
    path = out / "state" / f"step-{step:09d}.safetensors"
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_bytes(path, safetensors.torch.save(tensors, {_KEY: json.dumps(header)}))
    for old in _paths(out)[_KEEP:]:
        old.unlink()
    return path


def newest_state(out: Path) -> tuple[RunState | None, list[str]]:
    """The newest readable state under `out`, and a sentence for each damaged one that was passed over."""
    complaints = []
    for path in _paths(out):
        try:
            header, tensors = read_file(path, _KEY)
        except UserError as error:
            complaints.append(str(error))
            continue
        state = RunState(header["step"], header["config"], header["fingerprint"], header["best"], tensors, path)
        return state, complaints
    return None, complaints


def restore(state: RunState, modules: Mapping[str, nn.Module], optimizer: Optimizer) -> None:
    """Put the state's tensors into the modules and the optimiser."""
    for name, module in modules.items():
        prefix = f"{name}."
        module.load_state_dict({k.removeprefix(prefix): v for k, v in state.tensors.items() if k.startswith(prefix)})
    moments: dict[int, dict[str, Tensor]] = {}
    for key, value in state.tensors.items():
        if key.startswith("optimizer."):
            _, index, name = key.split(".", 2)
            moments.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})


def forget_states(out: Path) -> None:
    """Remove all states, before a run starts anew in a folder that held another."""
    for path in _paths(out):
        path.unlink()


def _paths(out: Path) -> list[Path]:
    """State files, newest first."""
    return sorted((out / "state").glob("step-*.safetensors"), reverse=True)
