"""The training loop: a run is a function of its configuration and its data alone.

Every random number of step t comes from (seed, t) or from (seed, epoch, image), so a
run that was killed and resumed ends with the same bytes as one that was not (same
machine, threads, processes and versions).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import nn

from ..config import recorded, to_dict
from ..data.loader import Batch, stream
from ..distributed import (
    all_reduce_max,
    barrier,
    is_main,
)
from ..errors import UserError
from .artifacts import (
    measure,
    write_checkpoints,
)
from .choice import is_at_least_as_good
from .journal import Journal, JournalRow, Report
from .meter import Meter
from .optim.build import Ema, build_optimizer
from .optim.wise_ft import WiseFt
from .parallel import gathered, shard, wrap
from .resume import made_with
from .run import Run
from .state import (
    RunState,
    StateSaver,
    finish_states,
    newest_state,
    restore,
)
from .step import Stepper
from .stop import Interrupted, StopRequest

# Steps left out, after which a run that rolls back gives up: something else is wrong.
_MOST_SKIPPED = 20


class _NonFiniteError(Exception):
    """Says that the loss of a step or its gradient was infinite or not a number."""

    def __init__(self, step: int) -> None:
        super().__init__(step)
        self.step = step


class Loop:
    """Holds one run in progress. `take_steps` is the loop; its parts follow it."""

    def __init__(
        self, run: Run, out: Path, state: RunState | None, report: Report
    ) -> None:
        self.run = run
        self.out = out
        self.report = report
        self.choice = run.config.train

        self.model = run.model.train()
        self.model.set_grad_checkpointing(self.choice.grad_checkpointing)
        self.modules: dict[str, nn.Module] = {"model": self.model}

        # What is evaluated and saved: the average of the weights, if there is one, and
        # with `start_share` a mixture of it with the weights of the start.
        self.eval_model = self.model
        if self.choice.ema:
            self.eval_model = copy.deepcopy(self.model).eval()
            self.modules["ema"] = self.eval_model
        self.wise_ft = None
        average = self.eval_model
        if self.choice.start_share:
            self.wise_ft = WiseFt(average, self.choice.start_share)
            self.modules["start"] = self.wise_ft.start
            self.eval_model = self.wise_ft.mixed

        # Sharding replaces the parameters, so the optimiser and the average must take
        # hold of them only after it.
        shard(self.model, run.config)
        if self.choice.ema:
            shard(average, run.config)
        if self.wise_ft:
            shard(self.wise_ft.start, run.config)
            shard(self.wise_ft.mixed, run.config)
        if run.beside:
            self.modules["pretext"] = run.beside
        self.optimizer = build_optimizer(
            self.model, run.config.optim, run.beside, run.precision
        )
        ema = None
        if self.choice.ema:
            ema = Ema(self.model, average, self.choice.ema)
        network = wrap(self.model, run.config, run.task)
        self.stepper = Stepper(run, network, self.optimizer, ema)

        self.saver = StateSaver(out)
        self.step = 0
        self.skipped: list[int] = []
        self.best: JournalRow | None = None
        if state:
            self.continue_from(state)
        self.journal = Journal(out, from_step=self.step) if is_main() else None
        if self.journal and self.journal.damaged:
            lost = f"{self.journal.damaged} damaged lines of the journal are left out"
            report({"kind": "note", "text": lost})
        # A resumed run has its notes in the journal already.
        if self.step == 0:
            for text in run.notes:
                self.record({"kind": "note", "text": text})

    def continue_from(self, state: RunState) -> None:
        if not state.finished:
            restore(state, self.modules, self.optimizer)
        self.step = state.step
        self.best = state.best
        self.skipped = list(state.skipped)
        if self.stepper.spikes:
            self.stepper.spikes.norms = list(state.norms)

    def run_to_end(self, stop: StopRequest) -> JournalRow:
        """Train until the end, and return the evaluation row of the best checkpoint."""
        try:
            # A head that fits already is the one to beat: training on from it may only
            # be better.
            if self.step == 0 and self.run.config.model.head == "fitted":
                self.evaluate()
            self.take_steps_with_rollback(stop)
        finally:
            # Also after an error: the thread must not write into a folder that is no
            # longer locked.
            self.saver.wait()
        # Every process has written its part of the last state, or there is none to write.
        barrier()
        if is_main():
            finish_states(self.out, self.step)
        assert self.best is not None
        return self.best

    def take_steps_with_rollback(self, stop: StopRequest) -> None:
        """Take all steps; start the loop again from a saved state after a bad one."""
        while True:
            try:
                self.take_steps(stop)
                return
            except _NonFiniteError as bad:
                self.roll_back(bad.step)

    def take_steps(self, stop: StopRequest) -> None:
        """Take the steps that are left; raise `_NonFiniteError` after a bad one."""
        # The state of a run that ended early may be resumed: there is nothing to do.
        if self.out_of_patience():
            return
        clip_norm = self.run.config.optim.clip_norm
        meter = Meter(self.run.device, self.run.right_name, clip_norm)
        for batch in meter.waiting_for(self.batches()):
            # One step of the optimiser. A step that a rollback left out is counted but
            # not taken, so that all later ones keep their numbers and random numbers.
            spike = ""
            if self.step not in self.skipped:
                result = self.stepper(batch, self.step)
                meter.add(result, len(batch.labels), self.step)
                spike = result.spike
            self.step += 1
            if spike:
                self.note_spike(spike)

            # The scheduler signals processes at different moments; they must agree, or
            # some would wait for ever in the next all_reduce. Asked once: a signal that
            # comes from here on is answered after the next step.
            signal_number = all_reduce_max(stop.signal_number or 0)

            # Log before saving: reading the meter tells whether the losses were finite,
            # and no state may hold weights of which that is not known.
            if self.log_due() or signal_number:
                self.log(meter)

            # Evaluate before saving: the state holds the best row so far.
            if self.evaluation_due():
                self.evaluate()

            if self.save_due() or signal_number:
                self.save_state()

            # A signal during the last step finds a run that is complete.
            if signal_number and self.step < self.run.total_steps:
                raise Interrupted(self.step, signal_number)

            if self.out_of_patience():
                best = self.best_step()
                text = f"ended early: not better since step {best:,}"
                self.record({"kind": "note", "text": text})
                return

            # Images per second are those of training, without evaluating and saving.
            meter.start_clock_if_empty()

    def batches(self) -> Iterator[Batch]:
        """Return the batches of the steps that are left."""
        steps = range(self.step, self.run.total_steps)
        return stream(self.run.batches(), steps, workers=self.run.workers)

    def log_due(self) -> bool:
        return self.step % self.choice.log_every_steps == 0 or self.save_due()

    def evaluation_due(self) -> bool:
        """Whether the last step passed a multiple of `eval_every_epochs`, or is the end."""
        passed = self.evaluations(self.step) > self.evaluations(self.step - 1)
        return passed or self.step == self.run.total_steps

    def save_due(self) -> bool:
        every = self.choice.save_every_steps
        return self.evaluation_due() or (every is not None and self.step % every == 0)

    def out_of_patience(self) -> bool:
        """Whether there were `patience` evaluations since the best one."""
        if self.choice.patience is None or self.best is None:
            return False
        # Computed from the steps alone instead of counted: a resumed run has no counter
        # to restore.
        since = self.evaluations(self.step) - self.evaluations(self.best_step())
        return since >= self.choice.patience

    def evaluations(self, step: int) -> int:
        """Return how many multiples of `eval_every_epochs` the steps have passed."""
        return math.floor(self.run.epoch(step) / self.choice.eval_every_epochs)

    def best_step(self) -> int:
        assert self.best is not None
        return int(self.best["step"])

    def log(self, meter: Meter) -> None:
        """Record what was measured since the last time."""
        measured, bad_step = meter.read()
        if bad_step is not None:
            raise _NonFiniteError(bad_step)
        # There is nothing to record if every step since then was left out.
        if measured:
            lr = self.stepper.lr(self.step - 1)
            self.record({"kind": "train", **measured, "lr": lr})

    def note_spike(self, spike: str) -> None:
        """Record that the last step was left out."""
        step = self.step - 1
        images = self.run.images_of(step)
        text = f"step {step} is left out: {spike} (images {images})"
        # Of the steps that are done, as the rows of measurements are: a run that resumes
        # before this step forgets the note, and writes it again.
        self.record({"kind": "note", "text": text, "left_out": step})

    def evaluate(self) -> None:
        """Measure on the validation split; write `last`, and `best` if it is the best."""
        if self.wise_ft:
            self.wise_ft.mix()
        measured, min_score = measure(self.run, self.eval_model)
        row = self.record({"kind": "eval", "split": "val", **measured})
        names = ["last"]
        if is_at_least_as_good(row, self.best):
            self.best = row
            names.append("best")
        # Every process must take part in gathering what is sharded.
        whole = gathered(self.eval_model)
        if is_main():
            write_checkpoints(self.run, whole, self.out, names, row, min_score)

    def save_state(self) -> None:
        """Begin to write what a resumed run needs."""
        header: dict[str, Any] = {
            "config": recorded(to_dict(self.run.config)),
            "fingerprint": self.run.fingerprint,
            "best": self.best,
            "skipped": self.skipped,
            "made_with": made_with(self.run),
        }
        if self.stepper.spikes:
            header["norms"] = self.stepper.spikes.norms
        if self.run.begin:
            header["begin"] = dict(self.run.begin)
        self.saver.save(
            header, step=self.step, modules=self.modules, optimizer=self.optimizer
        )

    def record(self, row: JournalRow) -> JournalRow:
        """Write a row into the journal with the step and epoch, report and return it."""
        epoch = round(self.run.epoch(self.step), 4)
        row = {**row, "step": self.step, "epoch": epoch}
        if self.journal:
            self.journal.append(row)
        self.report(row)
        return row

    def roll_back(self, bad_step: int) -> None:
        """Go back to the newest state, and leave the bad step out from then on."""
        trouble = (
            f"the loss or its gradient was not finite at step {bad_step} (images "
            f"{self.run.images_of(bad_step)})"
        )
        # The newest state may still be on its way to the disk.
        self.saver.wait()
        barrier()
        state, _ = newest_state(self.out)
        allowed = self.choice.nonfinite == "rollback"
        if not allowed or state is None or len(self.skipped) >= _MOST_SKIPPED:
            raise UserError(
                f"{trouble}; start anew with a lower optim.lr (now "
                f"{self.run.config.optim.lr}) or optim.clip_norm, or set "
                "train.nonfinite=rollback, which goes back to a saved state and leaves "
                "such steps out"
            )
        # The state may be older than steps that were left out before.
        skipped = {*self.skipped, *state.skipped, bad_step}
        self.continue_from(state)
        self.skipped = sorted(skipped)

        text = f"{trouble}: back to step {state.step}, and without that step"
        note: JournalRow = {"kind": "note", "text": text, "left_out": bad_step}
        self.report(note)
        if self.journal:
            # Opened anew at the state's step, it forgets the rows after it.
            self.journal = Journal(self.out, from_step=self.step)
            self.journal.append({**note, "step": self.step})
