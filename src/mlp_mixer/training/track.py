"""The rows of a run's journal, also handed to a tracker that people keep open beside
it.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..config import to_dict
from ..errors import UserError, unknown
from .config import TrainConfig
from .journal import JournalRow
from .loop import Report

TRACKERS = ("tensorboard", "wandb", "trackio")


@contextlib.contextmanager
def tracking(name: str, config: TrainConfig, out: Path) -> Iterator[Report]:
    """A `report` for `train` that writes each number by its name: `train/loss`,
    `val/top1`, ...

    name: "tensorboard" writes into `out/tensorboard`; "wandb" and "trackio" are called
        as both understand it, with
    the folder's name as the run's and their own environment variables for all the rest,
    such as `WANDB_MODE=offline`. Raises `UserError` for another name, or if the tracker
    is not installed or does not begin.
    """
    if name not in TRACKERS:
        raise unknown("tracker", name, TRACKERS)
    try:
        module = importlib.import_module(
            "torch.utils.tensorboard" if name == "tensorboard" else name
        )
    except ImportError as error:
        raise UserError(
            f"the tracker {name} is not installed ({error}); run: pip install {name}"
        ) from error
    if name == "tensorboard":
        with _Board(module, out / "tensorboard") as board:
            yield board
        return
    try:
        module.init(
            project="mlp-mixer", name=out.resolve().name, config=to_dict(config)
        )
    except Exception as error:  # a tracker's own classes, a network that is not there
        raise UserError(
            f"the tracker {name} does not begin: {error}; check its settings or leave out --track"
        ) from error
    try:
        yield lambda row: _log(module, row)
    finally:
        module.finish()


class _Board:
    """TensorBoard's event files; a resumed run takes back what came after its state."""

    def __init__(self, module: Any, folder: Path) -> None:
        self.module = module
        self.folder = folder
        self.writer: Any = None

    def __enter__(self) -> _Board:
        return self

    def __exit__(self, *_: object) -> None:
        if self.writer:
            self.writer.close()

    def __call__(self, row: JournalRow) -> None:
        if row["kind"] == "start":
            self.writer = self.module.SummaryWriter(
                str(self.folder), purge_step=row["step"] + 1 if row["step"] else None
            )
        for name, value in _numbers(row).items():
            self.writer.add_scalar(name, value, row["step"])
        if row["kind"] == "eval":
            self.writer.flush()


def _log(module: Any, row: JournalRow) -> None:
    if numbers := _numbers(row):
        module.log(numbers, step=row["step"])


def _numbers(row: JournalRow) -> dict[str, float]:
    """What a row measured, by group and name; nothing for rows that only people read."""
    group = {"train": "train", "eval": "val"}.get(row["kind"])
    if group is None:
        return {}
    return {
        f"{group}/{name.removeprefix('train_')}": float(value)
        for name, value in row.items()
        if isinstance(value, (int, float)) and name not in ("step", "n")
    }
