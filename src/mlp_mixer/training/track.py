"""Hand the numbers of a run's journal to a tracker that people keep open beside it."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..config import to_dict
from ..errors import UserError, unknown
from .config import TrainConfig
from .journal import JournalRow, Report

TRACKERS = ("tensorboard", "wandb", "trackio")

# The kind of a row -> the group of its numbers in the tracker.
_GROUPS = {"train": "train", "eval": "val"}


@contextlib.contextmanager
def tracking(name: str, config: TrainConfig, out: Path) -> Iterator[Report]:
    """Give a `report` for `train` that writes each number under a name.

    The names are `train/loss`, `val/top1` and so on.

    Args:
        name: "tensorboard" writes into `out/tensorboard`. "wandb" and "trackio" are
            called as both understand it; the folder's name is the run's, and all else
            is set by their own environment variables, such as `WANDB_MODE=offline`.
        config: The run.
        out: Its folder.

    Yields:
        The report.

    Raises:
        UserError: There is no such tracker, it is not installed, or it does not start.
    """
    if name not in TRACKERS:
        raise unknown("tracker", name, TRACKERS)
    module_name = "torch.utils.tensorboard" if name == "tensorboard" else name
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise UserError(
            f"the tracker {name} is not installed ({error}); run: pip install {name}"
        ) from error
    if name == "tensorboard":
        with contextlib.closing(_Board(module, out / "tensorboard")) as board:
            yield board.add
        return
    project = "mlp-mixer"
    try:
        module.init(project=project, name=out.resolve().name, config=to_dict(config))
    except Exception as error:
        # Each tracker has its own classes of errors, for a network that is not there or
        # a login that is missing.
        raise UserError(
            f"the tracker {name} does not begin: {error}; check its settings or leave out "
            "--track"
        ) from error

    def report(row: JournalRow) -> None:
        if numbers := _numbers(row):
            module.log(numbers, step=row["step"])

    try:
        yield report
    finally:
        module.finish()


class _Board:
    """Writes TensorBoard's event files, from the start row on."""

    def __init__(self, module: Any, folder: Path) -> None:
        self.module = module
        self.folder = folder
        self.writer: Any = None

    def add(self, row: JournalRow) -> None:
        if row["kind"] == "start":
            # A resumed run takes back what was written after the state it goes on from.
            step = row["step"]
            purge = step + 1 if step else None
            self.writer = self.module.SummaryWriter(str(self.folder), purge_step=purge)
        for name, value in _numbers(row).items():
            self.writer.add_scalar(name, value, row["step"])
        if row["kind"] == "eval":
            self.writer.flush()

    def close(self) -> None:
        if self.writer:
            self.writer.close()


def _numbers(row: JournalRow) -> dict[str, float]:
    """Return what a row measured by group and name; {} for rows that people read."""
    group = _GROUPS.get(row["kind"])
    if group is None:
        return {}
    numbers = {}
    blocks = row.get("block_grad_norms") or {}
    inside = {f"block_grad_norms/{name}": value for name, value in blocks.items()}
    for name, value in {**row, **inside}.items():
        if isinstance(value, (int, float)) and name not in ("step", "n"):
            numbers[f"{group}/{name.removeprefix('train_')}"] = float(value)
    return numbers
