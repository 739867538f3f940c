"""The state of a run: what, beside its configuration, decides every later bit of it.

Weights, their average, the optimiser's moments, the step, and which steps were skipped.
No random generator is among
them: data order, augmentation, mixing, dropout and stochastic depth are functions of
    (seed, step) or of (seed, epoch,
image). A state is one safetensors file under a new name, written atomically; the newest
few are kept, so that a damaged one has a predecessor.

Where weights lie in parts with several processes (FSDP2), each writes its own part into
a file of its own, and a state counts once all its files are there; nobody waits for
anybody. Parts are slices of the first axis, so any number of processes puts them
together again, one tensor at a time.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from ..distributed import is_main, rank, world_size
from ..errors import UserError
from ..files import write_bytes
from ..weights.checkpoint import opened

_KEY = "mlp_mixer_state"
_KEEP = 2
_NAME = re.compile(r"step-(\d+)(?:\.part-(\d+)-of-(\d+))?\.safetensors")


@dataclass(frozen=True)
class RunState:
    """What was read back: `step` steps were done, `best` is the evaluation row of the
    best checkpoint so far.
    """

    step: int
    config: dict[str, Any]
    fingerprint: str  # of the data
    best: dict[str, Any] | None
    tensors: Mapping[str, Tensor]
    files: tuple[Path, ...]
    skipped: list[int] = field(
        default_factory=list
    )  # steps left out after a loss that was no number
    made_with: dict[str, Any] = field(
        default_factory=dict
    )  # what may change bits: threads, processes, versions


class Stored(Mapping[str, Tensor]):
    """The whole tensors of a state, each read when asked for."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.where: dict[str, list[Path]] = {}
        for path in files:
            with opened(path, _KEY) as (_, file):
                for name in file.keys():  # noqa: SIM118
                    self.where.setdefault(name, []).append(path)

    def __getitem__(self, name: str) -> Tensor:
        parts = []
        for path in self.where[name]:
            with opened(path, _KEY) as (_, file):
                parts.append(file.get_tensor(name))
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def __iter__(self) -> Iterator[str]:
        return iter(self.where)

    def __len__(self) -> int:
        return len(self.where)


class StateSaver:
    """Saves states of a run without holding it up: copies what is to be saved, and lets
    a thread write the copy.

    One save is under way at most; an error of the disk is raised by the next call. With
    several processes all must call `save`: the first one writes what all have, and each
    its part of what is sharded.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def save(
        self,
        header: Mapping[str, Any],
        *,
        step: int,
        modules: Mapping[str, nn.Module],
        optimizer: Optimizer,
    ) -> None:
        """Begin to write the state after `step` steps into `out/state/`; all but the
        newest two are then removed.
        """
        tensors = {
            f"{n}.{key}": value
            for n, module in modules.items()
            for key, value in module.state_dict().items()
        }
        for index, moments in optimizer.state_dict()["state"].items():
            tensors |= {
                f"optimizer.{index}.{key}": torch.as_tensor(value)
                for key, value in moments.items()
            }
        sharded = any(isinstance(tensor, DTensor) for tensor in tensors.values())
        copies = {
            name: copy
            for name, tensor in tensors.items()
            if (copy := _my_part(tensor)) is not None
        }
        self.wait()
        if is_main() or sharded:
            part = f".part-{rank()}-of-{world_size()}" if sharded else ""
            path = self.out / "state" / f"step-{step:09d}{part}.safetensors"
            described = json.dumps({"format_version": 1, "step": step, **header})
            self._thread = threading.Thread(
                target=self._write, args=(path, copies, described), name="save-state"
            )
            self._thread.start()

    def wait(self) -> None:
        """Until the last save is on disk; raises what it ran into."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error = self._error
            self._error = None
            raise error

    def _write(self, path: Path, tensors: dict[str, Tensor], described: str) -> None:
        try:
            write_bytes(path, safetensors.torch.save(tensors, {_KEY: described}))
            if is_main():
                prune_states(self.out)
        except BaseException as error:  # a thread has nobody to raise it to
            self._error = error


def _my_part(tensor: Tensor) -> Tensor | None:
    """What this process writes of a tensor, on the CPU, in memory of its own; None if
    another one writes it.
    """
    tensor = tensor.detach()
    if isinstance(tensor, DTensor):
        tensor = tensor.to_local()
        mine = tensor.numel() > 0
    else:
        mine = is_main()
    return tensor.to("cpu", copy=True).contiguous() if mine else None


def newest_state(out: Path) -> tuple[RunState | None, list[str]]:
    """The newest readable state under `out`, and a sentence for each damaged one that
    was passed over.
    """
    complaints = list[str]()
    for files in _states(out):
        try:
            with opened(files[0], _KEY) as (header, _):
                found = {
                    key: header[key]
                    for key in ("step", "config", "fingerprint", "best")
                }
            more = {
                key: header[key] for key in ("skipped", "made_with") if key in header
            }
            return RunState(
                **found, tensors=Stored(files), files=files, **more
            ), complaints
        except (UserError, KeyError) as error:
            complaints.append(str(error))
    return None, complaints


def restore(
    state: RunState, modules: Mapping[str, nn.Module], optimizer: Optimizer
) -> None:
    """Put the state's tensors into the modules and the optimiser, sharded as those are."""
    for name, module in modules.items():
        prefix = f"{name}."
        own = module.state_dict()
        module.load_state_dict(
            {key: _like(own[key], state.tensors[prefix + key]) for key in own}
        )
    parameters = [
        parameter for group in optimizer.param_groups for parameter in group["params"]
    ]
    moments: dict[int, dict[str, Tensor]] = {}
    for key, value in state.tensors.items():
        if key.startswith("optimizer."):
            _, index, name = key.split(".", 2)
            parameter = parameters[int(index)]
            moments.setdefault(int(index), {})[name] = (
                _like(parameter, value) if value.ndim else value
            )
    optimizer.load_state_dict(
        {"state": moments, "param_groups": optimizer.state_dict()["param_groups"]}
    )


def _like(own: Tensor, whole: Tensor) -> Tensor:
    """This process's part, if its own tensor is one; all have read the same file, so
    nothing is sent.
    """
    if isinstance(own, DTensor):
        parts = distribute_tensor(
            whole.to(own.device), own.device_mesh, own.placements, src_data_rank=None
        )
        return parts.clone()  # or the part would keep the whole in memory
    return whole


def forget_states(out: Path, *, after: int = -1) -> None:
    """Remove the states after that step: of a run that starts anew, or that goes on
    from an earlier one.
    """
    for path in (out / "state").glob("step-*.safetensors"):
        if (match := _NAME.fullmatch(path.name)) and int(match[1]) > after:
            path.unlink(missing_ok=True)


def prune_states(out: Path) -> None:
    """Keep the newest states that are whole; of a state whose parts are still being
    written, nothing is removed.
    """
    for old in _states(out)[_KEEP:]:
        for file in old:
            file.unlink(missing_ok=True)


def _states(out: Path) -> list[tuple[Path, ...]]:
    """The files of each state that was written to its end, newest first."""
    found: dict[tuple[int, int], dict[int, Path]] = {}
    for path in (out / "state").glob("step-*.safetensors"):
        if match := _NAME.fullmatch(path.name):
            step = int(match[1])
            part = int(match[2] or 0)
            parts = int(match[3] or 1)
            found.setdefault((step, parts), {})[part] = path
    whole = sorted(
        (key for key, files in found.items() if len(files) == key[1]), reverse=True
    )
    return [tuple(path for _, path in sorted(found[key].items())) for key in whole]
