"""Show how work advances: a live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import os
import shlex
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

import typer
from rich import progress as bars
from rich.console import Console

from ..intervals import accuracy, short_accuracy
from .console import percent, stderr

if TYPE_CHECKING:
    from ..training.journal import JournalRow, Report

QUIET_SECONDS = 15.0
"""Between two plain lines, where stderr is no terminal."""

_NOTABLE_WAIT = 0.05  # share of the time that a step waits for its images


class QuietLine:
    """Tell when another plain line is due, so that a log of hours stays short."""

    def __init__(self) -> None:
        """Start the clock: the first line is due after the first pause."""
        self.last = time.monotonic()

    def due(self) -> bool:
        """Return whether the last line is long ago."""
        return time.monotonic() - self.last > QUIET_SECONDS

    def said(self) -> None:
        """Start the clock again, after a line."""
        self.last = time.monotonic()


class Count(Protocol):
    """What `counted` gives to the work."""

    def __call__(self, done: int, total: int | None = None) -> None:
        """Show how many are done.

        Args:
            done: How many.
            total: Of how many, where that is known.
        """


@contextlib.contextmanager
def counted(unit: str) -> Iterator[Count]:
    """Show a count while the block works.

    Args:
        unit: What is counted, in the plural, such as "images".

    Yields:
        A function to call with each new count.
    """
    console = stderr()
    quiet = QuietLine()
    started = time.monotonic()
    bar = bars.Progress(
        bars.BarColumn(),
        bars.TextColumn("{task.description}"),
        bars.TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )
    task = bar.add_task("", total=None)

    def report(done: int, total: int | None = None) -> None:
        if console.is_terminal:
            text = f"{done:,}/{total:,} {unit}" if total else f"{done:,} {unit}"
            bar.update(task, completed=done, total=total, description=text)
        # The end is always told, or a short run would leave no line at all.
        elif (total is not None and done == total) or quiet.due():
            quiet.said()
            if total is None:
                rate = done / max(time.monotonic() - started, 1e-9)
                console.print(f"{done:,} {unit}, {rate:,.0f}/s", soft_wrap=True)
            else:
                console.print(f"{done:,} of {total:,} {unit}", soft_wrap=True)

    with bar:
        yield report


def watch(start: Callable[[Report], JournalRow], folder: Path) -> JournalRow:
    """Train, show the rows of the journal, and print where the best checkpoint is.

    Of several processes the first one speaks.

    Args:
        start: Trains with this report, and returns the row of the best evaluation.
        folder: Of the run.

    Returns:
        What `start` returns.

    Raises:
        typer.Exit: A signal stopped the run; the exit code names the signal.
    """
    from ..devices import keep_memory
    from ..training import Interrupted

    # Allowed here, because this process trains and does nothing else.
    keep_memory()
    # Set by torchrun, whose process group exists only inside `start`.
    speaks = os.environ.get("RANK", "0") == "0"
    with Progress(stderr(), quiet=not speaks) as progress:
        try:
            best = start(progress)
        except Interrupted as stopped:
            config = str(folder / "config.json")
            words = ["mlp-mixer", "train", config, "--out", str(folder), "--resume"]
            progress.note(
                f"stopped at step {stopped.step}, the state is saved; go on with: "
                + shlex.join(words)
            )
            # As a shell says it: 130 after Ctrl-C, 143 after SIGTERM.
            raise typer.Exit(128 + stopped.signal_number) from None
    if speaks:
        about = f"epoch {best['epoch']:.4g}"
        if "top1" in best:
            about += f", validation top-1 {accuracy(best['top1'], best['n'])}"
        print(f"best checkpoint: {folder / 'best.safetensors'} ({about})")
    return best


class Progress:
    """Show the rows that `train` reports.

    Attributes:
        console: Where to print.
        live: Whether there is a terminal, which gets a bar.
    """

    def __init__(self, console: Console, *, quiet: bool = False) -> None:
        """Prepare the bar, which appears when the object is entered.

        Args:
            console: Where to print.
            quiet: Print nothing, as all processes but the first do.
        """
        self.console = console
        console.quiet = quiet
        self.live = console.is_terminal and not quiet
        self._bar = bars.Progress(
            bars.TextColumn("{task.description}"),
            bars.BarColumn(),
            bars.TaskProgressColumn(),
            bars.TextColumn("{task.fields[facts]}"),
            bars.TimeRemainingColumn(),
            console=console,
            disable=not self.live,
        )
        self._task = self._bar.add_task("training", total=None, facts="")
        self._train_row: dict[str, Any] = {}
        # A line that waits for the next row: an evaluation of the same step repeats it.
        self._pending: dict[str, Any] | None = None
        self._quiet = QuietLine()
        self._started = time.monotonic()
        self._first_step = 0
        self._total_steps = 0

    def __enter__(self) -> Progress:
        """Show the bar."""
        self._bar.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        """Leave the bar as it is."""
        self._bar.__exit__(kind, error, tb)

    def __call__(self, row: dict[str, Any]) -> None:
        """Show a row.

        Args:
            row: Of the journal, or of the kinds "start" and "note".
        """
        # The line of a slow run waits for one row, in case that is its evaluation.
        pending = self._pending
        self._pending = None
        if pending and row["kind"] != "eval":
            self._print_line(pending, "")
        show = {
            "start": self._show_start,
            "note": self._show_note,
            "train": self._show_train,
            "eval": self._show_eval,
        }
        show[row["kind"]](row)

    def note(self, text: str) -> None:
        """Print a sentence that stays on the screen.

        Args:
            text: The sentence.
        """
        self.console.print(text, soft_wrap=True, markup=False)

    def _show_note(self, row: dict[str, Any]) -> None:
        self.note(row["text"])

    def _show_start(self, row: dict[str, Any]) -> None:
        self._started = time.monotonic()
        self._first_step = row["step"]
        self._total_steps = row["total_steps"]
        self._bar.update(
            self._task, total=self._total_steps, completed=self._first_step
        )
        text = (
            f"{row['model']} ({row['parameters']:,} parameters) on {row['source']} "
            f"({row['classes']} classes): {row['n_train']:,} images to train, "
            f"{row['n_val']:,} to validate; {row['epochs']:.4g} epochs = "
            f"{row['total_steps']:,} steps on {row['device']}"
        )
        if row["processes"] > 1:
            text += f" in {row['processes']} processes"
        if row["step"]:
            text += f"; resumed at step {row['step']:,}"
        self.note(text)

    def _show_train(self, row: dict[str, Any]) -> None:
        self._train_row = row
        self._bar.update(self._task, completed=row["step"], facts=_facts(row))
        if not self.live and self._quiet.due():
            self._pending = row

    def _show_eval(self, row: dict[str, Any]) -> None:
        measured = ""
        # Without validation images an evaluation only marks the end of an epoch.
        if "top1" in row:
            top1 = short_accuracy(row["top1"], row["n"])
            measured = f"  val top-1 {top1}  val loss {row['loss']:.4f}"
        self._print_line(row, measured)

    def _print_line(self, row: dict[str, Any], measured: str) -> None:
        self._quiet.said()
        # Before the first step nobody knows the time; a bar shows it itself.
        unknown = self.live or row["step"] == self._first_step
        left = "" if unknown else f"  {self._time_left(row['step'])} left"
        facts = _facts(self._train_row) if self._train_row else "before the first step"
        self.note(f"epoch {row['epoch']:6.2f}  {facts}{measured}{left}")

    def _time_left(self, step: int) -> str:
        steps = max(1, step - self._first_step)
        rate = (time.monotonic() - self._started) / steps
        seconds = round(rate * (self._total_steps - step))
        return f"{seconds // 3600}:{seconds % 3600 // 60:02d}:{seconds % 60:02d}"


def _facts(row: dict[str, Any]) -> str:
    """Return the numbers of a training row."""
    text = (
        f"loss {row['loss']:.4f}  top-1 {percent(row['train_top1'])}  "
        f"lr {row['lr']:.2e}  {row['images_per_second']:,.0f} img/s"
    )
    if row.get("memory_mib"):
        text += f"  {row['memory_mib'] / 1024:.1f} GiB"
    if row["data_wait"] > _NOTABLE_WAIT:
        text += f"  waiting {row['data_wait']:.0%}"
    return text
