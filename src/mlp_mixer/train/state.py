"""The state of a run: what, beside its configuration, decides every later bit of it.

Weights, their average, the optimiser's moments, the step, and which steps were skipped. No random generator is among
them: data order, augmentation, mixing, dropout and stochastic depth are functions of (seed, step) or of (seed, epoch,
image). A state is one safetensors file under a new name, written atomically; the newest few are kept, so that a damaged
one has a predecessor. It holds whole tensors, so any number of processes can go on from it.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from ..distributed import is_main
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
    skipped: list[int] = field(default_factory=list)  # steps left out after a loss that was no number
    made_with: dict[str, Any] = field(default_factory=dict)  # what may change bits: threads, processes, versions


class StateSaver:
    """Saves states of a run without holding it up: copies what is to be saved, and lets a thread write the copy.

    One save is under way at most; an error of the disk is raised by the next call. With several processes all must
    call `save`, because parts of a sharded tensor lie with each; the first one writes.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def save(
        self, header: Mapping[str, Any], *, step: int, modules: Mapping[str, nn.Module], optimizer: Optimizer
    ) -> None:
        """Begin to write the state after `step` steps into `out/state/`; all but the newest two are then removed."""
        tensors = {f"{n}.{key}": value for n, module in modules.items() for key, value in module.state_dict().items()}
        for index, moments in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{key}": torch.as_tensor(value) for key, value in moments.items()}
        copies = {name: copy for name, tensor in tensors.items() if (copy := _copied(tensor)) is not None}
        self.wait()
        if is_main():
            described = json.dumps({"format_version": 1, "step": step, **header})
            self._thread = threading.Thread(target=self._write, args=(step, copies, described), name="save-state")
            self._thread.start()

    def wait(self) -> None:
        """Until the last save is on disk; raises what it ran into."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _write(self, step: int, tensors: dict[str, Tensor], described: str) -> None:
        try:
            path = self.out / "state" / f"step-{step:09d}.safetensors"
            write_bytes(path, safetensors.torch.save(tensors, {_KEY: described}))
            for old in _paths(self.out)[_KEEP:]:
                old.unlink(missing_ok=True)
        except BaseException as error:  # a thread has nobody to raise it to
            self._error = error


def _copied(tensor: Tensor) -> Tensor | None:
    """The whole tensor on the CPU, in memory of its own; None where another process keeps it."""
    whole = tensor.detach()
    if isinstance(whole, DTensor):
        whole = whole.full_tensor()  # every process takes part
    return whole.to("cpu", copy=True).contiguous() if is_main() else None


def newest_state(out: Path) -> tuple[RunState | None, list[str]]:
    """The newest readable state under `out`, and a sentence for each damaged one that was passed over."""
    complaints = []
    for path in _paths(out):
        try:
            header, tensors = read_file(path, _KEY)
            found = {key: header[key] for key in ("step", "config", "fingerprint", "best")}
        except (UserError, KeyError) as error:
            complaints.append(str(error))
            continue
        more = {key: header[key] for key in ("skipped", "made_with") if key in header}
        return RunState(**found, tensors=tensors, path=path, **more), complaints
    return None, complaints


def restore(state: RunState, modules: Mapping[str, nn.Module], optimizer: Optimizer) -> None:
    """Put the state's tensors into the modules and the optimiser, sharded as those are."""
    for name, module in modules.items():
        prefix = f"{name}."
        own = module.state_dict()
        module.load_state_dict({key: _like(own[key], state.tensors[prefix + key]) for key in own})
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    moments: dict[int, dict[str, Tensor]] = {}
    for key, value in state.tensors.items():
        if key.startswith("optimizer."):
            _, index, name = key.split(".", 2)
            parameter = parameters[int(index)]
            moments.setdefault(int(index), {})[name] = _like(parameter, value) if value.ndim else value
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})


def _like(own: Tensor, whole: Tensor) -> Tensor:
    if isinstance(own, DTensor):
        return distribute_tensor(whole.to(own.device), own.device_mesh, own.placements)
    return whole


def forget_states(out: Path) -> None:
    """Remove all states, before a run starts anew in a folder that held another."""
    for path in _paths(out):
        path.unlink(missing_ok=True)


def _paths(out: Path) -> list[Path]:
    """State files, newest first."""
    return sorted((out / "state").glob("step-*.safetensors"), reverse=True)
