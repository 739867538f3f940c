"""Begin a run: one folder, one lock, the state to go on from, and then the loop."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from ..config import check_bounds
from ..data.dataset import Dataset
from ..data.registry import check_place
from ..devices import cpu_threads
from ..distributed import (
    barrier,
    check_same_on_all_ranks,
    is_main,
    process_group,
    restarts,
)
from ..errors import UserError
from ..files import locked_folder, make_folder, remove_leftovers
from .artifacts import holds_run, write_settings, write_split
from .budget import with_stored_length, within_minutes
from .config import TrainConfig
from .extras.linear_probe import with_fitted_head
from .extras.micro_batch import with_fitting_parts
from .journal import JournalRow, Report, ignore_row
from .loop import Loop
from .resume import find_state, precision_before, start_row
from .run import prepare
from .state import newest_state
from .state_files import forget_states
from .stop import StopRequest


def train(
    config: TrainConfig,
    out: Path,
    *,
    source: Dataset | None = None,
    teacher: nn.Module | None = None,
    resume: bool = False,
    overwrite: bool = False,
    find_batch_size: bool = False,
    minutes: float | None = None,
    report: Report = ignore_row,
    notes: Sequence[str] = (),
) -> JournalRow:
    """Train a network, and leave its checkpoints, journal and state in a folder.

    The folder then has best.safetensors, last.safetensors, metrics.jsonl, config.json
    and state/, and split.csv where we split the images ourselves. Under torchrun every
    process calls this with the same arguments; the main process writes and reports.

    Args:
        config: The configuration.
        out: The folder; it is created.
        source: The images, instead of those that `config.data.source` names.
        teacher: A network whose answers are learned as `config.distill` says: the
            student's normalised images (B, C, H, W) to logits (B, K). It is moved to
            the device and set to evaluation.
        resume: Continue from the newest readable state, or start if there is none. A
            restart by torchrun resumes without it.
        overwrite: Train anew in a folder that holds a run.
        find_batch_size: Compute each batch in as many parts as fit into memory and are
            fastest here, found by trying.
        minutes: Train as many epochs as fit into this time on this machine, instead of
            those of the configuration. A resumed run keeps the number that it found.
        report: Is called with every row of the journal, and with rows of the kinds
            "start" and "note" that only people need.
        notes: Sentences for the journal, such as what was rescaled.

    Returns:
        The evaluation row of the best checkpoint.

    Raises:
        UserError: The settings, images or weights cannot be used, `out` holds a run
            already, or the loss was not finite.
        Interrupted: SIGINT or SIGTERM came; the state is saved.
    """
    started = time.perf_counter()
    # Before anything is made: infinite minutes would fail in the middle.
    check_bounds("minutes", minutes, above=0, below=math.inf)
    with process_group(), contextlib.ExitStack() as stack:
        # torchrun restarts its workers with their old arguments. After a restart there
        # is something to resume, with or without --resume.
        resume = resume or restarts() > 0

        # All processes must see one folder. A worker with a disk of its own would find
        # no state there, and begin at step 0 beside others that go on.
        taken = holds_run(out)
        check_same_on_all_ranks(taken, "whether --out holds a run")
        if taken and not (resume or overwrite):
            raise UserError(
                f"{str(out)!r} already holds a run; add --resume, --overwrite, or choose "
                "another --out"
            )

        if source is None:
            check_place(config.data.source, out)
        if minutes is not None and resume and taken:
            config = with_stored_length(config, out)
            minutes = None
        # The weights that the run began with may be gone by now.
        before = newest_state(out)[0] if resume and taken else None
        run = prepare(
            config,
            source,
            teacher,
            before.begin if before else None,
            precision_before(before, config),
        )
        run = replace(run, notes=(*notes, *run.notes))
        if not is_main():
            report = ignore_row

        # Workers can outlive a torchrun that was killed. The lock keeps a second run out
        # of the folder, and only then is it safe to remove what dead writers left.
        if is_main():
            stack.enter_context(locked_folder(make_folder(out)))
            remove_leftovers(out)
            remove_leftovers(out / "state")
        barrier()

        if find_batch_size:
            run = with_fitting_parts(run, newest_state(out)[0] if resume else None)

        # States after the one we go on from are of a future that will not be.
        state = find_state(out, run, report) if resume else None
        if state is None and run.config.model.head == "fitted":
            words = f"fitting the head to the features of {len(run.train):,} images"
            report({"kind": "note", "text": words})
            run = with_fitted_head(run)
        if minutes is not None:
            run = within_minutes(run, minutes, started)
        saved_step = state.step if state else None
        check_same_on_all_ranks(
            (saved_step, run.fingerprint), "the saved state or the images"
        )
        if is_main():
            forget_states(out, after=-1 if saved_step is None else saved_step)
        finished = state is not None and state.finished
        report(start_row(run, saved_step or 0, finished=finished))

        # A step seeds torch's generator and some runs set the number of threads: both
        # are put back for the program that called us.
        with (
            StopRequest() as stop,
            torch.random.fork_rng(devices=[]),
            cpu_threads(config.train.threads),
        ):
            if is_main():
                write_settings(run, out)
                write_split(run, out)
            return Loop(run, out, state, report).run_to_end(stop)
