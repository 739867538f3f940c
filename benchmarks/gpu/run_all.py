"""Run all that waits for a GPU, in order of worth, within a number of seconds.

    python benchmarks/gpu/run_all.py --seconds 480 --out $OUT
    python benchmarks/gpu/run_all.py --seconds 270 --out $OUT --done rows.jsonl
    python benchmarks/gpu/run_all.py --list
    python benchmarks/gpu/run_all.py --device cpu --smoke --out rehearsal

Each stage is a process group of its own. One that fails, hangs or is killed is a row,
and not the end. In the folder of `--out`:

    rows.jsonl       a line for each stage as it ends, with what it has measured
    bench.csv        what `mlp-mixer bench` appends
    log.txt          what the stages have printed

A copy of the sources without .git is told its commit by MLP_MIXER_COMMIT.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

sys.path.insert(0, str(Path(__file__).parent))
from stages import STAGES, Stage

ROOT = Path(__file__).parents[2]
# Seconds between the request to stop and the end of a process that does not.
GRACE = 3.0
# Seconds kept at the end, so that the last kill and the last row are within the budget.
RESERVE = 2 * GRACE
# A CPU that does other things besides may take so many times as long for a rehearsal.
PATIENCE = 5
# How often a running stage is looked at.
TICK = 0.05
# Lines of what a stage printed that stand in its row.
_TAIL = 3


@dataclasses.dataclass(eq=False)
class Running:
    """A stage that has begun.

    Attributes:
        stage: The stage.
        process: The leader of its process group.
        began: By the clock of `time.monotonic`.
        until: When it is killed.
        own_log: What it prints, until it is in log.txt.
        before: The rows that the files of measurements had when it began.
    """

    stage: Stage
    process: subprocess.Popen[bytes]
    began: float
    until: float
    own_log: Path
    before: list[dict[str, Any]]


class Stopped(Exception):  # noqa: N818
    """End the run: a signal asked for it."""


class Runner:
    """Run stages one after the other, and write a row for each.

    Args:
        out: The folder of the results.
        seconds: The budget.
        device: "cuda" or "cpu".
        smoke: Whether this is a rehearsal on tiny models.

    Attributes:
        stopped: Set to True by a signal: what runs is ended, and gets its row.
    """

    def __init__(self, out: Path, seconds: float, device: str, smoke: bool) -> None:
        self.out = out
        # Outside of `out`, of which a machine sends only a few files back.
        self.work = Path(tempfile.gettempdir()) / "mlp-mixer-gpu"
        self.device = device
        self.smoke = smoke
        self.stopped = False
        self.end = time.monotonic() + seconds
        self.running: list[Running] = []
        out.mkdir(parents=True, exist_ok=True)

    def run(self, stages: Sequence[Stage]) -> None:
        """Run the stages that fit into the budget; the others get a row that says so.

        Args:
            stages: In order of worth.

        Raises:
            Stopped: A signal came.
        """
        try:
            for stage in stages:
                self._one(stage)
            self._wait()
        finally:
            # After a signal or an error nothing may go on computing.
            for running in list(self.running):
                self._finish(running, "killed: the runner was stopped")

    def _one(self, stage: Stage) -> None:
        if stage.alone:
            self._wait()
        if reason := self._why_not(stage):
            self._write({"stage": stage.name, "status": f"left out: {reason}"})
            return
        running = self._begin(stage)
        if not stage.beside:
            self._wait(running)

    def _why_not(self, stage: Stage) -> str | None:
        if self.smoke and stage.smoke is None:
            return "it has no rehearsal"
        if stage.needs and not (ROOT / stage.needs).exists():
            return f"{stage.needs} is not here"
        left = self.end - RESERVE - time.monotonic()
        if left < stage.least:
            return f"it needs {stage.least:g} s, and {max(0, left):.0f} are left"
        return None

    def _begin(self, stage: Stage) -> Running:
        template = stage.command
        if self.smoke:
            assert stage.smoke is not None
            template = stage.smoke
        values = {
            "{device}": self.device,
            "{out}": str(self.out),
            "{work}": str(self.work),
            "{python}": sys.executable,
        }
        command = [_filled(part, values) for part in template]
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT / "src"),
            # Otherwise a killed process keeps what it has printed to itself.
            "PYTHONUNBUFFERED": "1",
        }
        # A log of its own while it runs: two stages may print at once.
        own_log = self.out / f".{stage.name}.log"
        began = time.monotonic()
        with own_log.open("wb") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
                env=environment,
                # A group of its own, so that a kill reaches the workers too.
                start_new_session=True,
            )
        most = PATIENCE * stage.most if self.smoke else stage.most
        until = min(began + most, self.end - RESERVE)
        running = Running(stage, process, began, until, own_log, self._measured())
        self.running.append(running)
        print(f"{stage.name}: {' '.join(command)}", flush=True)
        return running

    def _wait(self, only: Running | None = None) -> None:
        """Wait for one stage, or for all that run; end those whose time is over."""
        while waited := [one for one in self.running if only in (None, one)]:
            # Asked for here and not raised by the signal's handler, which could come
            # between the start of a process and the note of it.
            if self.stopped:
                raise Stopped
            for running in list(self.running):
                if running.process.poll() is not None:
                    code = running.process.returncode
                    done = "done" if code == 0 else f"failed: exit code {code}"
                    self._finish(running, done)
                elif time.monotonic() > running.until:
                    spent = time.monotonic() - running.began
                    self._finish(running, f"killed: after {spent:.0f} s")
            if any(one in self.running for one in waited):
                time.sleep(TICK)

    def _finish(self, running: Running, status: str) -> None:
        """End what is left of a stage's process group, and write its row."""
        end_group(running.process)
        self.running.remove(running)
        text = running.own_log.read_bytes().decode(errors="replace")
        with (self.out / "log.txt").open("ab") as log:
            _flushed(log, f"==== {running.stage.name}: {status}\n{text}\n")
        running.own_log.unlink()
        printed = text.splitlines()
        measured = [row for row in self._measured() if row not in running.before]
        row: dict[str, Any] = {
            "stage": running.stage.name,
            "status": status,
            "seconds": round(time.monotonic() - running.began, 1),
            "rows": [*_rows(printed), *measured],
            "tail": [line for line in printed if line.strip()][-_TAIL:],
        }
        self._write(row)

    def _measured(self) -> list[dict[str, Any]]:
        """Return the rows of the benches and of the ladder.

        Stages that append to these files do not run beside each other.
        """
        found: list[dict[str, Any]] = []
        benches = self.out / "bench.csv"
        if benches.exists():
            with benches.open(newline="", encoding="utf-8") as file:
                for row in csv.DictReader(file):
                    found.append({key: cell for key, cell in row.items() if cell})
        ladder = self.work / "ladder" / "rows.jsonl"
        if ladder.exists():
            lines = ladder.read_text(encoding="utf-8").splitlines()
            found += _rows(f"ROW {line}" for line in lines)
        return found

    def _write(self, row: dict[str, Any]) -> None:
        row |= {
            "when": datetime.now(UTC).isoformat(timespec="seconds"),
            "device": self.device,
            "smoke": self.smoke,
            "commit": commit(),
        }
        with (self.out / "rows.jsonl").open("ab") as file:
            _flushed(file, json.dumps(row) + "\n")
        print(f"{row['stage']}: {row['status']}", flush=True)


def _filled(part: str, values: dict[str, str]) -> str:
    """Put values into an argument of a command."""
    for name, value in values.items():
        part = part.replace(name, value)
    return part


def _flushed(file: BinaryIO, text: str) -> None:
    """Write and reach the disk: the machine may be taken away at any time."""
    file.write(text.encode())
    file.flush()
    os.fsync(file.fileno())


def commit() -> str | None:
    """Return the commit of this checkout, or what MLP_MIXER_COMMIT says."""
    command = ["git", "-C", str(ROOT), "rev-parse", "--short=12", "HEAD"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.SubprocessError):
        return os.environ.get("MLP_MIXER_COMMIT")
    return found.stdout.strip()


def _rows(printed: Iterable[str]) -> list[dict[str, Any]]:
    """Return the rows that a stage printed, as lines of "ROW" and JSON."""
    rows = []
    for line in printed:
        word, _, rest = line.partition(" ")
        if word != "ROW":
            continue
        try:
            rows.append(json.loads(rest))
        except ValueError:
            # A kill may have cut the line.
            rows.append({"cut": rest})
    return rows


def end_group(process: subprocess.Popen[bytes]) -> None:
    """End all processes of a group: first asked to, then killed.

    Args:
        process: The leader, which may have ended.
    """
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        until = time.monotonic() + GRACE
        while _is_alive(process) and time.monotonic() < until:
            time.sleep(TICK)
    process.wait()


def _is_alive(process: subprocess.Popen[bytes]) -> bool:
    """Return whether any process of the group is left."""
    # A leader that has ended counts until somebody has asked for its exit code.
    process.poll()
    try:
        os.killpg(process.pid, 0)
    except ProcessLookupError:
        return False
    return True


def already_done(path: Path) -> set[str]:
    """Return the stages that an earlier rows.jsonl has as done or failed.

    What was killed or left out has not had its time: it runs again.

    Args:
        path: The file; a last line that was cut is passed over.
    """
    names = set()
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if row["status"].startswith(("done", "failed")):
            names.add(row["stage"])
    return names


def chosen(only: str, done: Path | None) -> list[Stage]:
    """Return the stages to run.

    Args:
        only: Names with commas between them, or "" for all.
        done: An earlier rows.jsonl.
    """
    names = [name.strip() for name in only.split(",") if name.strip()]
    known = {stage.name for stage in STAGES}
    for name in names:
        if name not in known:
            sys.exit(f"unknown stage {name!r}; stages: {', '.join(sorted(known))}")
    passed = already_done(done) if done else set()
    return [
        stage
        for stage in STAGES
        if stage.name not in passed and (not names or stage.name in names)
    ]


def _listed() -> str:
    """Return a line for each stage."""
    lines = []
    for stage in STAGES:
        notes = [f"needs {stage.needs}"] if stage.needs else []
        notes += ["beside the next ones"] if stage.beside else []
        times = f"{stage.least:4g} to {stage.most:4g} s"
        lines.append(f"{stage.name:20} {times}  {', '.join(notes)}".rstrip())
    return "\n".join(lines)


def main() -> None:
    """Parse the command line, and run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=480)
    parser.add_argument("--out", type=Path, default=os.environ.get("OUT"))
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--smoke", action="store_true", help="a rehearsal: tiny models")
    parser.add_argument("--only", default="", help="names with commas between them")
    parser.add_argument("--done", type=Path, help="an earlier rows.jsonl")
    parser.add_argument("--list", action="store_true", help="print the stages")
    choice = parser.parse_args()
    if choice.list:
        print(_listed())
        return
    if choice.out is None:
        parser.error("--out is needed: the folder of the results")
    stages = chosen(choice.only, choice.done)
    out = Path(choice.out).resolve()
    runner = Runner(out, choice.seconds, choice.device, choice.smoke)

    def stop(number: int, frame: object) -> None:
        runner.stopped = True

    # The machine's own limit stops the runner by a signal: the last row is written.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    try:
        runner.run(stages)
    except Stopped:
        sys.exit("stopped by a signal")


if __name__ == "__main__":
    main()
