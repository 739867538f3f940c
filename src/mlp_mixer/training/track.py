"""Hand the numbers of a run's journal to a tracker that people keep open beside it."""

from __future__ import annotations

import contextlib
import importlib
import itertools
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..config import recorded, to_dict
from ..errors import UserError, unknown
from .config import TrainConfig
from .journal import JournalRow, Report

TRACKERS = ("tensorboard", "wandb", "trackio", "mlflow")

_PROJECT = "mlp-mixer"
_MOST_PARAMETERS = 100  # that MLflow takes in one call

# The kind of a row -> the group of its numbers in the tracker.
_GROUPS = {"train": "train", "eval": "val"}


@contextlib.contextmanager
def tracking(name: str, config: TrainConfig, out: Path) -> Iterator[Report]:
    """Give a `report` for `train` that writes each number under a name.

    The names are `train/loss`, `val/top1` and so on.

    Args:
        name: "tensorboard" writes into `out/tensorboard`. In "wandb", "trackio" and
            "mlflow" the folder's name is the run's, and all else is set by their own
            environment variables, such as `WANDB_MODE=offline` or
            `MLFLOW_TRACKING_URI=http://...`.
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
        module: Any = importlib.import_module(module_name)
    except ImportError as error:
        raise UserError(
            f"the tracker {name} is not installed ({error}); run: pip install {name}"
        ) from error
    if name == "tensorboard":
        with contextlib.closing(_Board(module, out / "tensorboard")) as board:
            yield board.add
        return
    # It takes no part in the likeness of the two others.
    if name == "mlflow":
        module = _Mlflow(module)
    try:
        module.init(
            project=_PROJECT, name=out.resolve().name, config=recorded(to_dict(config))
        )
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


class _Mlflow:
    """Calls MLflow by the names of wandb."""

    def __init__(self, module: Any) -> None:
        self.module = module

    def init(self, *, project: str, name: str, config: dict[str, Any]) -> None:
        # Whoever named an experiment in the environment means that one.
        if not {"MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID"} & os.environ.keys():
            self.module.set_experiment(project)
        self.module.start_run(run_name=name)
        try:
            settings = iter(_leaves(config))
            while some := dict(itertools.islice(settings, _MOST_PARAMETERS)):
                self.module.log_params(some)
        except BaseException:
            # An open run would be in the way of the next one in this process.
            self.module.end_run("FAILED")
            raise

    def log(self, numbers: dict[str, float], step: int) -> None:
        self.module.log_metrics(numbers, step=step)

    def finish(self) -> None:
        # Called while the error that ended the run is on its way.
        failed = sys.exc_info()[0] is not None
        self.module.end_run("FAILED" if failed else "FINISHED")


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


def _leaves(settings: dict[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each setting with its full name, such as optim.lr."""
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", value


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
