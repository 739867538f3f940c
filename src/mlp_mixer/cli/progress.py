"""How a training run looks to a person: a live line on a terminal, plain lines
elsewhere.
"""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any

from rich import progress as bars
from rich.console import Console

from .console import percent

_NOTABLE_WAIT = 0.05  # share of the time that a step waits for its images
_QUIET_SECONDS = 15.0  # between two plain lines that are not evaluations


class Progress:
    """Takes the rows of `train(report=...)` and shows them."""

    def __init__(self, console: Console, *, quiet: bool = False) -> None:
        self.console = console
        console.quiet = quiet
        self.live = console.is_terminal and not quiet
        self.bar = bars.Progress(
            bars.TextColumn("{task.description}"),
            bars.BarColumn(),
            bars.TaskProgressColumn(),
            bars.TextColumn("{task.fields[facts]}"),
            bars.TimeRemainingColumn(),
            console=console,
            disable=not self.live,
        )
        self.task = self.bar.add_task("training", total=None, facts="")
        self.train_row: dict[str, Any] = {}
        self.pending: dict[str, Any] | None = (
            None  # a line that an evaluation of the same step would repeat
        )
        self.last_line = self.started = time.monotonic()
        self.first_step = self.total_steps = 0

    def __enter__(self) -> Progress:
        self.bar.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.bar.__exit__(kind, error, tb)

    def __call__(self, row: dict[str, Any]) -> None:
        pending = self.pending
        self.pending = None
        if pending and row["kind"] != "eval":
            self._line(pending, "")
        getattr(self, f"_{row['kind']}")(row)

    def note(self, text: str) -> None:
        """A sentence that stays on the screen."""
        self.console.print(text, soft_wrap=True, markup=False)

    def _note(self, row: dict[str, Any]) -> None:
        self.note(row["text"])

    def _start(self, row: dict[str, Any]) -> None:
        self.started = time.monotonic()
        self.first_step = row["step"]
        self.total_steps = row["total_steps"]
        self.bar.update(self.task, total=self.total_steps, completed=self.first_step)
        resumed = f"; resumed at step {row['step']:,}" if row["step"] else ""
        self.note(
            f"{row['model']} ({row['parameters']:,} parameters) on {row['source']} ({row['classes']} classes): "
            f"{row['n_train']:,} images to train, {row['n_val']:,} to validate; "
            f"{row['epochs']:.4g} epochs = {row['total_steps']:,} steps on {row['device']}"
            f"{' in ' + str(row['processes']) + ' processes' if row['processes'] > 1 else ''}{resumed}"
        )

    def _train(self, row: dict[str, Any]) -> None:
        self.train_row = row
        self.bar.update(self.task, completed=row["step"], facts=self._facts(row))
        if not self.live and time.monotonic() - self.last_line > _QUIET_SECONDS:
            self.pending = row

    def _eval(self, row: dict[str, Any]) -> None:
        measured = (
            f"  val top-1 {percent(row['top1'])}  val loss {row['loss']:.4f}"
            if "top1" in row
            else ""
        )
        self._line(row, measured)

    def _line(self, row: dict[str, Any], measured: str) -> None:
        self.last_line = time.monotonic()
        left = "" if self.live else f"  {self._time_left(row['step'])} left"
        self.note(
            f"epoch {row['epoch']:6.2f}  {self._facts(self.train_row)}{measured}{left}"
        )

    def _facts(self, row: dict[str, Any]) -> str:
        wait = (
            f"  waiting {row['data_wait']:.0%}"
            if row["data_wait"] > _NOTABLE_WAIT
            else ""
        )
        accuracy = f"top-1 {percent(row['train_top1'])}"
        memory = (
            f"  {row['memory_mib'] / 1024:.1f} GiB" if row.get("memory_mib") else ""
        )
        speed = f"{row['images_per_second']:,.0f} img/s{memory}{wait}"
        return f"loss {row['loss']:.4f}  {accuracy}  lr {row['lr']:.2e}  {speed}"

    def _time_left(self, step: int) -> str:
        rate = (time.monotonic() - self.started) / max(1, step - self.first_step)
        seconds = round(rate * (self.total_steps - step))
        return f"{seconds // 3600}:{seconds % 3600 // 60:02d}:{seconds % 60:02d}"
