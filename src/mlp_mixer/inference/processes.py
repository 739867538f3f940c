"""Answer on all GPUs of a machine: one process and one part of the pictures for each."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import re
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from ..devices import pick_device
from ..errors import UserError
from ..files import PathLike, locked_folder, make_folder
from ..weights import load
from .answers import Written, predict_to_file, unfinished_path
from .formats import check_out
from .joining import join_answers
from .parts import Part
from .predictor import Predictor
from .results import Failure, Prediction

_SECONDS_BETWEEN_COUNTS = 0.2
_STOPPED = 130  # as a shell says it after Ctrl-C
_REFUSED = 2

Watch = Callable[[int, "str | None"], None]
"""Is called with the number of all answers so far, and a failure's sentence or None."""


def _ignore(done: int, failure: str | None) -> None:
    """The default report: nobody watches."""


@dataclass(frozen=True)
class _Job:
    """What one process does; it travels there as a pickle."""

    part: Part
    device: str
    out: Path
    source: str | os.PathLike[str]
    key: str | None
    settings: dict[str, Any]
    pictures: tuple[str, ...]
    batch_size: int
    threads: int


def device_names(text: str) -> list[str]:
    """Return the devices that a text names.

    Args:
        text: "all": every GPU that torch sees, or else the CPU; or names of torch's with
            commas, such as "cuda:0,cuda:2".

    Raises:
        UserError: One of them is not here.
    """
    if text.strip() == "all":
        count = torch.accelerator.device_count()
        kind = torch.accelerator.current_accelerator()
        if kind is None or not count:
            return ["cpu"]
        return [f"{kind.type}:{number}" for number in range(count)]
    names = [name.strip() for name in text.split(",")]
    for name in names:
        # An empty name would be refused in torch's words.
        if not name:
            raise UserError(
                f"cannot read the devices {text!r}: expected all, or names such as "
                "cuda:0,cuda:1"
            )
        pick_device(name)
    return names


def part_files(out: Path, count: int) -> list[Path]:
    """Return the files that processes write until all have ended, one for each.

    Args:
        out: The file of all answers.
        count: How many processes there are.
    """
    stem = f"{out.stem}.part"
    return [
        out.with_name(f"{stem}-{number}-of-{count}{out.suffix}")
        for number in range(1, count + 1)
    ]


def predict_on_devices(
    checkpoint: PathLike,
    pictures: Sequence[str],
    out: PathLike,
    devices: Sequence[str],
    *,
    key: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    batch_size: int = 32,
    report: Watch = _ignore,
    **settings: Any,
) -> Written:
    """Classify pictures on several devices, and write the answers to one file.

    Every device has a process of its own, which answers one part of the pictures. Its
    file lies beside `out` until all have ended; then they are joined.

    A program that calls this guards its beginning by `if __name__ == "__main__":`, as
    the module `multiprocessing` asks for.

    Args:
        checkpoint: What `load` takes.
        pictures: Paths, folders, patterns and addresses, as for `Predictor.predict`.
        out: A .csv, .json, .jsonl or .parquet file.
        devices: Names of torch's. One that comes twice gets two processes.
        key: Which network of a file that holds several.
        resume: Continue a stopped run with this `out` and as many devices, or start if
            there is none.
        overwrite: Replace an older file of answers.
        batch_size: Pictures to read and compute at a time, on each device.
        report: Is called as answers come, some at a time, and for each failure.
        settings: Of `Predictor`: top, engine, tolerance, precision, larger, min_score,
            labels.

    Returns:
        How many pictures there are, and how many failed: earlier runs included.

    Raises:
        UserError: As of `predict_to_file`, or a process has ended before its work; what
            was answered is kept for `resume`.
    """
    path = Path(out)
    files = part_files(path, len(devices))
    begun = [file for file in files if _has_begun(file)]
    check_out(path, replace=overwrite or (resume and bool(begun)))
    make_folder(path.parent)
    with locked_folder(path.parent, f".{path.name}.claimed"):
        _check_begun(path, files, resume)
        threads = max(1, torch.get_num_threads() // len(devices))
        jobs = []
        for number, (file, device) in enumerate(zip(files, devices, strict=True), 1):
            # Its file stands where an earlier run has ended this part.
            if not file.exists():
                jobs.append(
                    _Job(
                        Part(number, len(devices)),
                        device,
                        file,
                        os.fspath(checkpoint),
                        key,
                        settings,
                        tuple(pictures),
                        batch_size,
                        threads,
                    )
                )
        with _Crew(jobs) as crew:
            crew.work(report)
        written = join_answers(path, files, overwrite=True)
        for file in files:
            file.unlink()
    return written


def _has_begun(file: Path) -> bool:
    return file.exists() or unfinished_path(file).exists()


def _check_begun(out: Path, files: list[Path], resume: bool) -> None:
    """Refuse to mix the parts of an earlier run with those of another one."""
    pattern = re.compile(
        rf"{re.escape(out.stem)}\.part-\d+-of-(\d+){re.escape(out.suffix)}(\.unfinished)?"
    )
    alone = unfinished_path(out)
    if alone.exists():
        raise UserError(
            f"{str(alone)!r} holds the answers of a single process that did not end: "
            "continue it with --resume and without --devices, or delete it"
        )
    for path in sorted(out.parent.iterdir()):
        found = pattern.fullmatch(path.name)
        if found is None:
            continue
        if not resume:
            raise UserError(
                f"{str(path)!r} holds the answers of a run that did not end: add --resume "
                "(resume=True) to continue it, or delete it"
            )
        if int(found[1]) != len(files):
            raise UserError(
                f"{str(path)!r} was begun with {found[1]} devices, and now there are "
                f"{len(files)}: give as many again, or delete it"
            )


class _Crew:
    """The processes, which end with the block."""

    def __init__(self, jobs: list[_Job]) -> None:
        self.jobs = jobs
        self.running: dict[Connection, tuple[BaseProcess, _Job]] = {}

    def __enter__(self) -> _Crew:
        # Not forked: a process that computes on a GPU cannot be.
        context = multiprocessing.get_context("spawn")
        for job in self.jobs:
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(target=_answer, args=(job, theirs), daemon=True)
            process.start()
            # Else the end of the process would not end the pipe.
            theirs.close()
            self.running[ours] = (process, job)
        return self

    def __exit__(self, *error: object) -> None:
        for pipe, (process, _) in self.running.items():
            process.terminate()
            process.join()
            pipe.close()

    def work(self, report: Watch) -> None:
        """Wait until all have ended well."""
        counts: dict[str, int] = {}
        lost = []
        while self.running:
            for pipe in wait(list(self.running)):
                assert isinstance(pipe, Connection)
                process, job = self.running[pipe]
                try:
                    kind, value = pipe.recv()
                except (EOFError, OSError):
                    process.join()
                    del self.running[pipe]
                    pipe.close()
                    if process.exitcode:
                        lost.append(f"{job.device} (exit code {process.exitcode})")
                    continue
                if kind == "refused":
                    raise UserError(value)
                if kind == "count":
                    counts[str(job.part)] = value
                report(sum(counts.values()), value if kind == "failure" else None)
        if lost:
            raise UserError(
                f"the processes of {', '.join(lost)} have ended before their work; all "
                "answers are kept: the same command with --resume goes on"
            )


def _answer(job: _Job, pipe: Connection) -> None:
    """Answer one part; this runs in a process of its own."""
    torch.set_num_threads(job.threads)
    code = 0
    try:
        _predict(job, pipe)
    except UserError as error:
        code = _REFUSED
        pipe.send(("refused", str(error)))
    except KeyboardInterrupt:
        code = _STOPPED
    except BrokenPipeError:
        # The process that started this one has died; nobody waits for the answers.
        code = 1
    with contextlib.suppress(OSError):
        pipe.close()
    sys.exit(code)


def _predict(job: _Job, pipe: Connection) -> None:
    source: Any = job.source
    if job.key is not None:
        source = load(job.source, key=job.key)
    predictor = Predictor(source, device=job.device, **job.settings)
    done = 0
    sent = 0.0

    def report(answer: Prediction | Failure) -> None:
        nonlocal done, sent
        done += 1
        if isinstance(answer, Failure):
            pipe.send(("failure", answer.error))
        if time.monotonic() - sent > _SECONDS_BETWEEN_COUNTS:
            sent = time.monotonic()
            pipe.send(("count", done))

    predict_to_file(
        predictor,
        job.pictures,
        job.out,
        resume=True,
        part=job.part,
        batch_size=job.batch_size,
        report=report,
    )
    pipe.send(("count", done))
