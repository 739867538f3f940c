"""The state of a run: what, beside its configuration, decides every later bit of it.

It holds the weights, their average, the optimiser's moments, the step, which steps were
left out, and the last norms of the gradient where spikes are watched for. No random
generator is among them: data order, augmentation, mixing, dropout and stochastic depth
are functions of (seed, step) or of (seed, epoch, image).

A state is one safetensors file under a new name, written atomically. The newest two are
kept, so that a damaged one has a predecessor. Of a finished run one is kept without its
tensors, several times as large as a checkpoint: no later step needs them.

With sharded weights (FSDP2) each process writes its own part into a file of its own,
and a state counts once all its files are there; no process waits for another. Parts are
slices of the first axis, so any number of processes puts them together again, one
tensor at a time.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from ..distributed import is_main, rank, world_size
from ..errors import UserError
from ..files import write_bytes
from ..weights.checkpoint import opened
from ..weights.seal import check_sum, sealed
from .state_files import STATE_NAME, complete_states, prune_states

_KEY = "mlp_mixer_state"

# What a state says beside its tensors, and which types that has.
_HEADER: dict[str, tuple[type, ...]] = {
    "step": (int,),
    "config": (dict,),
    "fingerprint": (str,),
    "best": (dict, type(None)),
    "skipped": (list,),
    "made_with": (dict,),
    "finished": (bool,),
    "norms": (list,),
}
_NEEDED = ("step", "config", "fingerprint", "best")


@dataclass(frozen=True)
class RunState:
    """Holds a state that was read back.

    Attributes:
        step: How many steps are done.
        config: The configuration, as JSON values.
        fingerprint: That of the training images.
        best: The evaluation row of the best checkpoint so far, None before one.
        tensors: The tensors by name, each read when it is asked for.
        files: The file of the state, or those of its parts.
        skipped: Steps that are left out since their loss or gradient was not finite.
        made_with: What may change bits: threads, processes, versions, the teacher.
        finished: Whether the run has ended; then there are no tensors.
        begin: As of `Run`; empty in states of early versions.
        norms: Of the gradients of the last steps, where spikes are watched for.
    """

    step: int
    config: dict[str, Any]
    fingerprint: str
    best: dict[str, Any] | None
    tensors: Mapping[str, Tensor]
    files: tuple[Path, ...]
    skipped: list[int] = field(default_factory=list)
    made_with: dict[str, Any] = field(default_factory=dict)
    finished: bool = False
    begin: dict[str, Any] = field(default_factory=dict)
    norms: list[float] = field(default_factory=list)


class Stored(Mapping[str, Tensor]):
    """Maps names to the whole tensors of a state, and reads each when it is asked for."""

    def __init__(self, files: Sequence[Path]) -> None:
        """Read the names.

        Args:
            files: The file of the state, or those of its parts in their order.
        """
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
    """Saves states without holding the run up: a thread writes a copy.

    One save is under way at most. An error of the disk is raised by the next call.
    """

    def __init__(self, out: Path) -> None:
        """Save nothing yet.

        Args:
            out: The folder of the run.
        """
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
        """Begin to write a state into `out/state/`; older ones but one are then removed.

        All processes must call this. The main process writes what all have, and each
        its part of what is sharded.

        Args:
            header: JSON values that go beside the tensors.
            step: How many steps are done.
            modules: The network and its average, by name.
            optimizer: The optimiser.

        Raises:
            UserError: The save before this one failed.
        """
        tensors = _tensors(modules, optimizer)
        sharded = any(isinstance(tensor, DTensor) for tensor in tensors.values())
        # The thread gets copies: the next step changes the tensors in place.
        copies = {}
        for name, tensor in tensors.items():
            copy = _my_part(tensor)
            if copy is not None:
                copies[name] = copy
        self.wait()
        if not (is_main() or sharded):
            return
        part = f".part-{rank()}-of-{world_size()}" if sharded else ""
        path = self.out / "state" / f"step-{step:09d}{part}.safetensors"
        described = json.dumps({"format_version": 1, "step": step, **header})
        self._thread = threading.Thread(
            target=self._write, args=(path, copies, described), name="save-state"
        )
        self._thread.start()

    def wait(self) -> None:
        """Wait until the last save is on the disk.

        Raises:
            UserError: The disk refused.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error = self._error
            self._error = None
            raise error

    def _write(self, path: Path, tensors: dict[str, Tensor], described: str) -> None:
        try:
            write_bytes(path, sealed(tensors, {_KEY: described}))
            if is_main():
                prune_states(self.out)
        except BaseException as error:
            # Raised in this thread, it would only be printed: `wait` raises it.
            self._error = error


def _tensors(
    modules: Mapping[str, nn.Module], optimizer: Optimizer
) -> dict[str, Tensor]:
    """Return all tensors of a state, the optimiser's numbers by parameter among them."""
    tensors: dict[str, Tensor] = {}
    for name, module in modules.items():
        for key, tensor in module.state_dict().items():
            tensors[f"{name}.{key}"] = tensor
    for index, moments in optimizer.state_dict()["state"].items():
        for key, value in moments.items():
            tensors[f"optimizer.{index}.{key}"] = torch.as_tensor(value)
    return tensors


def _my_part(tensor: Tensor) -> Tensor | None:
    """Return a copy on the CPU of what this process writes, None if another writes it."""
    tensor = tensor.detach()
    mine = is_main()
    if isinstance(tensor, DTensor):
        tensor = tensor.to_local()
        # A bias shorter than the number of processes leaves some of them nothing.
        mine = tensor.numel() > 0
    return tensor.to("cpu", copy=True).contiguous() if mine else None


def newest_state(out: Path) -> tuple[RunState | None, list[str]]:
    """Return the newest readable state of a run, whose tensors are what was written.

    Args:
        out: The folder of the run.

    Returns:
        The state, None without one; a sentence for each damaged one that is newer.
    """
    complaints: list[str] = []
    for files in complete_states(out):
        try:
            return _read(files), complaints
        except UserError as error:
            complaints.append(str(error))
    return None, complaints


def _read(files: tuple[Path, ...]) -> RunState:
    for path in reversed(files):
        with opened(path, _KEY) as (header, file):
            names = sorted(file.keys())
            in_order = ((name, file.get_tensor(name)) for name in names)
            check_sum(file.metadata(), in_order, repr(str(path)))
    _check_header(header, files[0])
    return RunState(
        step=header["step"],
        config=header["config"],
        fingerprint=header["fingerprint"],
        best=header["best"],
        tensors=Stored(files),
        files=files,
        # States of early versions lack these two.
        skipped=header.get("skipped", []),
        made_with=header.get("made_with", {}),
        finished=header.get("finished", False),
        begin=header.get("begin", {}),
        norms=header.get("norms", []),
    )


def _check_header(header: Mapping[str, Any], path: Path) -> None:
    """Refuse a header whose values have other types than a state's: a stranger's."""
    wrong = [
        name
        for name, kinds in _HEADER.items()
        if not isinstance(header.get(name, kinds[0]()), kinds)
    ]
    skipped = header.get("skipped", [])
    if isinstance(skipped, list) and not all(type(step) is int for step in skipped):
        wrong.append("skipped")
    norms = header.get("norms", [])
    if isinstance(norms, list) and not all(type(norm) is float for norm in norms):
        wrong.append("norms")
    missing = [name for name in _NEEDED if name not in header]
    if wrong or missing or type(header["step"]) is not int or header["step"] < 0:
        what = ", ".join(wrong or missing or ["step"])
        raise UserError(
            f"{str(path)!r} is damaged or no state of a run (its {what} cannot be); "
            "remove it"
        )


def restore(
    state: RunState, modules: Mapping[str, nn.Module], optimizer: Optimizer
) -> None:
    """Put the tensors of a state into the modules and the optimiser.

    Args:
        state: The state.
        modules: The network and its average, by name, sharded or not.
        optimizer: The optimiser over the network's parameters.

    Raises:
        UserError: The state has the optimiser's numbers in another order.
    """
    for name, module in modules.items():
        own = module.state_dict()
        tensors = {}
        for key, tensor in own.items():
            tensors[key] = _like(tensor, state.tensors[f"{name}.{key}"])
        module.load_state_dict(tensors)

    parameters = []
    for group in optimizer.param_groups:
        parameters += group["params"]
    moments: dict[int, dict[str, Tensor]] = {}
    for key, value in state.tensors.items():
        if not key.startswith("optimizer."):
            continue
        _, number, name = key.split(".", 2)
        index = int(number)
        # Numbers such as AdamW's count of steps are whole in every process.
        if value.ndim:
            _check_moment(parameters[index], value)
            value = _like(parameters[index], value)
        moments.setdefault(index, {})[name] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": moments, "param_groups": groups})


def _check_moment(parameter: Tensor, moment: Tensor) -> None:
    """Raise `UserError` if a number of the optimiser belongs to another parameter."""
    # Earlier versions let ResMLP's affine maps decay, and so had them elsewhere.
    if moment.shape != parameter.shape:
        raise UserError(
            "the saved state has the optimiser's numbers in another order, as an "
            "earlier version wrote them for this network: start from the run's "
            "checkpoint (mlp-mixer finetune), or anew with --overwrite"
        )


def _like(own: Tensor, whole: Tensor) -> Tensor:
    """Return this process's part of a tensor, if its own one is sharded."""
    if not isinstance(own, DTensor):
        return whole
    # All processes have read the same file (src_data_rank=None), so nothing is sent.
    part = distribute_tensor(
        whole.to(own.device), own.device_mesh, own.placements, src_data_rank=None
    )
    # Without the copy, the part is a view that keeps the whole tensor in memory.
    return part.clone()


def finish_states(out: Path, step: int) -> None:
    """Keep of a finished run's states only that it has finished, without tensors.

    Resuming the run then finds its settings, its images and its best row, and nothing to
    do.

    Args:
        out: The folder of the run.
        step: The last step; nothing happens if the newest readable state is not of it.
    """
    state, _ = newest_state(out)
    if state is None or state.step != step:
        return
    last = out / "state" / f"step-{state.step:09d}.safetensors"
    if not state.finished:
        with opened(state.files[0], _KEY) as (header, _):
            described = json.dumps({**header, "finished": True})
        # Under the old name, so that a kill leaves the one or the other.
        write_bytes(last, sealed({}, {_KEY: described}))
    # Parts of states that were never complete are among them.
    for path in last.parent.glob("step-*.safetensors"):
        if STATE_NAME.fullmatch(path.name) and path != last:
            path.unlink(missing_ok=True)
