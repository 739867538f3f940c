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
from rich.console import Console

from ..intervals import accuracy, plain_accuracy, short_accuracy
from .console import percent, stderr
from .streams import printable

if TYPE_CHECKING:
    from rich import progress as bars

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


Stage = Callable[[str], Count]
"""What `stages` gives to the work: from what is counted next to its count."""


@contextlib.contextmanager
def counted(unit: str, *, tell_end: bool = True) -> Iterator[Count]:
    """Show a count, and the time that is left, while the block works.

    Args:
        unit: What is counted, in the plural, such as "images".
        tell_end: Where there is no terminal, print a line at the end of a short run
            too. Without it a run of less than `QUIET_SECONDS` prints nothing.

    Yields:
        A function to call with each new count.
    """
    with _Counts(tell_end=tell_end) as counts:
        yield counts.stage(unit)


@contextlib.contextmanager
def stages() -> Iterator[Stage]:
    """Show one count after another while the block works, and nothing in a short run.

    Yields:
        A function that begins the next count; it takes the unit.
    """
    with _Counts(tell_end=False) as counts:
        yield counts.stage


class _Counts:
    """A line that shows counts: live on a terminal, now and then elsewhere."""

    def __init__(self, *, tell_end: bool) -> None:
        self._console = stderr()
        self._tell_end = tell_end
        self._quiet = QuietLine()
        # A bar that has ended stays only where it is the record of the work.
        is_live = self._console.is_terminal
        self._bar = _bar(self._console, transient=not tell_end) if is_live else None

    def __enter__(self) -> _Counts:
        """Show the line."""
        if self._bar is not None:
            self._bar.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        """Leave the line, or take it away."""
        if self._bar is not None:
            self._bar.__exit__(*error)

    def stage(self, unit: str) -> Count:
        """Begin a count in the place of the one before.

        Args:
            unit: What is counted.
        """
        if self._bar is not None:
            return _live_count(self._bar, unit)
        started = time.monotonic()

        def count(done: int, total: int | None = None) -> None:
            is_end = total is not None and done == total
            if self._quiet.due() or (is_end and self._tell_end):
                self._quiet.said()
                seconds = time.monotonic() - started
                line = _plain_line(unit, done, total, seconds)
                self._console.print(line, soft_wrap=True, markup=False)

        return count


def _bar(console: Console, *, transient: bool) -> bars.Progress:
    # Imported here: where there is no terminal, it would be a tenth of a short command.
    from rich import progress as bars

    return bars.Progress(
        bars.BarColumn(),
        bars.TextColumn("{task.description}"),
        bars.TimeRemainingColumn(),
        console=console,
        transient=transient,
    )


def _live_count(bar: bars.Progress, unit: str) -> Count:
    """Begin a count on a bar, in the place of the one before."""
    for task in bar.task_ids:
        bar.remove_task(task)
    task = bar.add_task(unit, total=None)

    def count(done: int, total: int | None = None) -> None:
        text = f"{done:,}/{total:,} {unit}" if total else f"{done:,} {unit}"
        bar.update(task, completed=done, total=total, description=text)

    return count


def _plain_line(unit: str, done: int, total: int | None, seconds: float) -> str:
    """Return a count as a line of a log, with its rate or the time that is left."""
    if total is None:
        return f"{done:,} {unit}, {done / max(seconds, 1e-9):,.0f}/s"
    line = f"{done:,} of {total:,} {unit}"
    if 0 < done < total:
        line += f", {clock(seconds * (total - done) / done)} left"
    return line


def clock(seconds: float) -> str:
    """Write seconds as hours, minutes and seconds: 0:01:05.

    Args:
        seconds: From 0.
    """
    whole = round(seconds)
    return f"{whole // 3600}:{whole % 3600 // 60:02d}:{whole % 60:02d}"


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
    with Progress(stderr(), quiet=not speaks()) as progress:
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
    if speaks():
        about = f"epoch {best['epoch']:.4g}"
        if "top1" in best:
            about += f", validation top-1 {accuracy(best['top1'], best['n'])}"
        if "map" in best:
            about += f", validation {map_text(best)}"
        print(f"best checkpoint: {folder / 'best.safetensors'} ({about})")
    return best


def speaks() -> bool:
    """Return whether this process prints: of several the first one does."""
    # Set by torchrun, whose process group exists only while it trains.
    return os.environ.get("RANK", "0") == "0"


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
        from rich import progress as bars

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
        self.console.print(printable(text), soft_wrap=True, markup=False)

    def _show_note(self, row: dict[str, Any]) -> None:
        self.note(row["text"])

    def _show_start(self, row: dict[str, Any]) -> None:
        self._started = time.monotonic()
        self._first_step = row["step"]
        self._total_steps = row["total_steps"]
        self._bar.update(
            self._task, total=self._total_steps, completed=self._first_step
        )
        classes = row["classes"]
        labels = f"{classes} classes" if classes else "without labels"
        text = (
            f"{row['model']} ({row['parameters']:,} parameters) on {row['source']} "
            f"({labels}): {row['n_train']:,} images to train, "
            f"{row['n_val']:,} to validate; {row['epochs']:.4g} epochs = "
            f"{row['total_steps']:,} steps on {row['device']}"
        )
        if row["processes"] > 1:
            text += f" in {row['processes']} processes"
        if row["passed_over"]:
            text += f"; passed over: {row['passed_over']}"
        if row["finished"]:
            text += f"; already finished at step {row['step']:,}"
        elif row["step"]:
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
        if "map" in row:
            measured = f"  val {map_text(row)}  val loss {row['loss']:.4f}"
        if "balanced_top1" in row:
            balanced = plain_accuracy(row["balanced_top1"], row["n"])
            measured += f"  balanced {balanced}"
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
        return clock(rate * (self._total_steps - step))


def map_text(row: dict[str, Any]) -> str:
    """Return the mean average precision of an evaluation row, and of how many images.

    Args:
        row: Of a run with several labels per image.
    """
    return f"mAP {100 * row['map']:.1f} % (n = {row['n']:,})"


def _facts(row: dict[str, Any]) -> str:
    """Return the numbers of a training row."""
    text = f"loss {row['loss']:.4f}  "
    # Without labels there is no accuracy, but views that were found.
    for name, word in (("train_top1", "top-1"), ("found", "found")):
        if name in row:
            text += f"{word} {percent(row[name])}  "
    text += f"lr {row['lr']:.2e}  {row['images_per_second']:,.0f} img/s"
    if row.get("memory_mib"):
        text += f"  {row['memory_mib'] / 1024:.1f} GiB"
    if row["data_wait"] > _NOTABLE_WAIT:
        text += f"  waiting {row['data_wait']:.0%}"
    return text
