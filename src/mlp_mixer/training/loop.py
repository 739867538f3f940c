"""The training loop: a run is a function of its configuration and its data, and of
nothing else.

Every random number of step t comes from (seed, t) or from (seed, epoch, image), so a
run that was killed and resumed ends with the same bytes as one that was not (same
machine, threads, processes and versions).
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from ..config import to_dict
from ..data.dataset import Dataset
from ..data.loader import Batch, stream
from ..devices import cpu_threads
from ..distributed import all_reduce_max, barrier, is_main, process_group, restarts
from ..errors import UserError
from ..evaluation import evaluate
from ..files import locked_folder, make_folder, remove_leftovers, write_json
from ..models import MlpMixer
from ..randomness import batch_positions
from ..weights import save
from .config import TrainConfig
from .extras.micro_batch import with_fitting_parts
from .journal import Journal, JournalRow, environment
from .meter import Meter
from .optim.build import Ema, build_optimizer
from .parallel import check_same_on_all_ranks, shard, wrap
from .resume import find_state, made_with, start_row
from .run import Run, prepare, write_split
from .state import (
    RunState,
    StateSaver,
    forget_states,
    newest_state,
    prune_states,
    restore,
)
from .step import Stepper
from .stop import Interrupted, StopRequest

Report = Callable[[JournalRow], None]
_MOST_SKIPPED = (
    20  # steps whose gradient was no number, before a run that rolls back gives up
)


def train(
    config: TrainConfig,
    out: Path,
    *,
    source: Dataset | None = None,
    teacher: nn.Module | None = None,
    resume: bool = False,
    overwrite: bool = False,
    find_batch_size: bool = False,
    report: Report = lambda row: None,
    notes: Sequence[str] = (),
) -> JournalRow:
    """Train; leave best.safetensors, last.safetensors, metrics.jsonl, config.json,
    split.csv and state/ in `out`.

    Under torchrun, every process calls this with the same arguments; the first one
    writes and reports, and a restart by torchrun resumes by itself.

    source: the images, instead of those that `config.data.source` names (such as arrays
        in memory).
    teacher: a network whose answers are learned as `config.distill` says: the student's
        normalised images (B, C, H, W)
    -> logits (B, K). It is set to evaluation, and moved to the device.
    resume: go on from the newest readable state, or start anew if there is none.
        overwrite: forget an earlier run.
    find_batch_size: compute each batch in as many parts as fit into memory and are
        fastest here, found by trying.
    report: is called with every journal row, and with rows of kind "start" and "note"
        that only people need.
    notes: sentences for the journal, such as what was rescaled.
    Returns the evaluation row of the best checkpoint. Raises `UserError` for what a
    user can mend, and `Interrupted` after a SIGINT or SIGTERM, when the state is saved.
    """
    with process_group(), contextlib.ExitStack() as stack:
        resume = resume or restarts() > 0
        check_same_on_all_ranks(
            (out / "config.json").exists(), "whether --out holds a run"
        )
        if not resume and not overwrite and (out / "config.json").exists():
            raise UserError(
                f"{str(out)!r} already holds a run; add --resume, --overwrite, or choose another --out"
            )
        run = prepare(config, source, teacher)
        run = replace(run, notes=(*notes, *run.notes))
        report = report if is_main() else lambda row: None
        if is_main():
            stack.enter_context(locked_folder(make_folder(out)))
            remove_leftovers(out)
            remove_leftovers(out / "state")
        barrier()
        if find_batch_size and config.augment.sides:
            raise UserError(
                "--find-batch-size tries one size only: set train.accumulate by hand for augment.sides"
            )
        if find_batch_size:
            run = with_fitting_parts(run, newest_state(out)[0] if resume else None)
        state = find_state(out, run, report) if resume else None
        check_same_on_all_ranks(
            (state.step if state else None, run.fingerprint),
            "the saved state or the images",
        )
        if is_main():
            forget_states(out, after=state.step if state else -1)
        report(start_row(run, state.step if state else 0))
        with (
            StopRequest() as stop,
            torch.random.fork_rng(devices=[]),
            cpu_threads(config.train.threads),
        ):
            if is_main():
                settings = {
                    "config": to_dict(run.config),
                    "environment": environment(run.device),
                }
                write_json(out / "config.json", settings | {"notes": list(run.notes)})
                write_split(run, out / "split.csv")
            return _Loop(run, out, state, report).go(stop)


class _Loop:
    """One run in progress: `go` is the loop, the rest its parts in order of use."""

    def __init__(
        self, run: Run, out: Path, state: RunState | None, report: Report
    ) -> None:
        self.run = run
        self.out = out
        self.report = report
        self.choice = run.config.train
        self.model = run.model.train()
        self.model.set_grad_checkpointing(self.choice.grad_checkpointing)
        self.judged = (
            copy.deepcopy(self.model).eval() if self.choice.ema else self.model
        )  # is evaluated and saved
        for model in {self.model, self.judged}:
            shard(model, run.config)
        self.optimizer = build_optimizer(self.model, run.config.optim)
        ema = Ema(self.model, self.judged, self.choice.ema) if self.choice.ema else None
        self.modules: dict[str, nn.Module] = {
            "model": self.model,
            **({"ema": self.judged} if ema else {}),
        }
        self.stepper = Stepper(run, wrap(self.model, run.config), self.optimizer, ema)
        self.saver = StateSaver(out)
        self.step = 0
        self.skipped = list[int]()
        self.best: JournalRow | None = None
        self.begin_at(state)
        self.journal = Journal(out, from_step=self.step) if is_main() else None
        for text in run.notes if self.step == 0 else ():
            self.record({"kind": "note", "text": text})

    def begin_at(self, state: RunState | None) -> None:
        if state:
            restore(state, self.modules, self.optimizer)
            self.step = state.step
            self.best = state.best
            self.skipped = list(state.skipped)

    def go(self, stop: StopRequest) -> JournalRow:
        meter = Meter(self.run.device)
        try:
            while self.step < self.run.total_steps and not self.given_up():
                self.some_steps(meter, stop)
        finally:
            self.saver.wait()
        barrier()
        if (
            is_main()
        ):  # the last parts of the other processes may have come after the last pruning
            prune_states(self.out)
        assert self.best is not None
        return self.best

    def some_steps(self, meter: Meter, stop: StopRequest) -> None:
        """Steps until the end of the run, or until it was set back."""
        for batch in meter.waiting_for(self.batches()):
            if self.step not in self.skipped:
                meter.add(self.stepper(batch, self.step), len(batch.labels), self.step)
            self.step += 1
            asked_to_stop = all_reduce_max(
                stop.signal_number or 0
            )  # read once: a later signal waits for the next step
            if (self.log_due() or asked_to_stop) and not self.log(meter):
                return
            if self.evaluation_due():
                self.evaluate()
            if self.save_due() or asked_to_stop:
                self.save_state()
            if asked_to_stop and self.step < self.run.total_steps:
                raise Interrupted(self.step, asked_to_stop)
            if self.given_up():
                self.record(
                    {
                        "kind": "note",
                        "text": f"ended early: not better since step {self.best_step():,}",
                    }
                )
                return
            meter.start_clock_if_empty()

    def batches(self) -> Iterator[Batch]:
        return stream(
            self.run.batches(),
            range(self.step, self.run.total_steps),
            workers=self.run.workers,
        )

    def log_due(self) -> bool:
        """Also before whatever is saved, so that no state holds weights whose loss was
        not seen to be finite.
        """
        return self.step % self.choice.log_every_steps == 0 or self.save_due()

    def evaluation_due(self) -> bool:
        """At the last step, and whenever a multiple of `eval_every_epochs` has just
        been passed.
        """
        now, before = (
            math.floor(self.run.epoch(s) / self.choice.eval_every_epochs)
            for s in (self.step, self.step - 1)
        )
        return now > before or self.step == self.run.total_steps

    def given_up(self) -> bool:
        """Whether as many evaluations as `patience` have come since the best one: known
        from the steps alone.
        """
        if self.choice.patience is None or self.best is None:
            return False
        every = self.choice.eval_every_epochs
        now, best = (
            math.floor(self.run.epoch(step) / every)
            for step in (self.step, self.best_step())
        )
        return now - best >= self.choice.patience

    def best_step(self) -> int:
        return int((self.best or {})["step"])

    def save_due(self) -> bool:
        every = self.choice.save_every_steps
        return self.evaluation_due() or (every is not None and self.step % every == 0)

    def log(self, meter: Meter) -> bool:
        """Record what was measured since the last time; False if the run was set back
        because of a bad step.
        """
        measured, bad_step = meter.read()
        if bad_step is not None:
            self.set_back(bad_step)
            return False
        if measured:
            self.record(
                {"kind": "train", **measured, "lr": self.stepper.lr(self.step - 1)}
            )
        return True

    def set_back(self, bad_step: int) -> None:
        """Go back to the newest state and leave out the step whose loss or gradient was
        no number; or stop.
        """
        choice = self.choice
        data = self.run.config.data
        _, indices = batch_positions(
            bad_step, choice.batch_size, len(self.run.train), choice.seed, data.repeats
        )
        trouble = f"the loss or its gradient was no number at step {bad_step} (images {_few(sorted(indices.tolist()))})"
        self.saver.wait()
        barrier()
        state = newest_state(self.out)[0]
        if (
            choice.nonfinite == "stop"
            or state is None
            or len(self.skipped) >= _MOST_SKIPPED
        ):
            raise UserError(
                f"{trouble}; start anew with a lower optim.lr (now {self.run.config.optim.lr}) or optim.clip_norm, "
                "or set train.nonfinite=rollback, which goes back to a saved state and leaves such steps out"
            )
        skipped = [*self.skipped, bad_step]
        self.begin_at(state)
        self.skipped = sorted({*self.skipped, *skipped})
        text = f"{trouble}: back to step {state.step}, and without that step"
        self.report({"kind": "note", "text": text})
        if self.journal:
            self.journal = Journal(self.out, from_step=self.step)
            self.journal.append({"kind": "note", "text": text, "step": self.step})

    def evaluate(self) -> None:
        """Measure on the validation split, write `last`, and `best` if it is the best
        so far.
        """
        run = self.run
        row: JournalRow = {"kind": "eval", "split": "val"}
        if run.val is not None:
            result = evaluate(self.judged, run.val, run.preprocess, workers=run.workers)
            row |= {
                "top1": result.top1,
                "top5": result.top5,
                "loss": result.loss,
                "n": result.n,
            }
        row = self.record(row)
        better = self.best is None or row.get("top1", 0.0) >= self.best.get(
            "top1", 0.0
        )  # of equals, the later
        self.best = row if better else self.best
        self.write_checkpoints(["last", "best"] if better else ["last"], row)

    def write_checkpoints(self, names: list[str], row: JournalRow) -> None:
        run = self.run
        provenance = run.provenance() | {
            "measured": {key: value for key, value in row.items() if key != "kind"}
        }
        whole = _whole(self.judged)
        for name in names if is_main() else ():
            path = self.out / f"{name}.safetensors"
            save(
                path,
                whole,
                preprocess=run.preprocess,
                labels=run.train.classes,
                provenance=provenance,
            )

    def save_state(self) -> None:
        header = {
            "config": to_dict(self.run.config),
            "fingerprint": self.run.fingerprint,
            "best": self.best,
            "skipped": self.skipped,
            "made_with": made_with(self.run),
        }
        self.saver.save(
            header, step=self.step, modules=self.modules, optimizer=self.optimizer
        )

    def record(self, row: JournalRow) -> JournalRow:
        row = {**row, "step": self.step, "epoch": round(self.run.epoch(self.step), 4)}
        if self.journal:
            self.journal.append(row)
        self.report(row)
        return row


def _whole(model: MlpMixer) -> MlpMixer:
    """The model itself; or, where its parts lie with several processes, a copy for the
    first one, which writes it.
    """
    state = model.state_dict()
    if not any(isinstance(tensor, DTensor) for tensor in state.values()):
        return model
    with torch.device("meta"):
        whole = MlpMixer(model.config)
    for name, tensor in state.items():
        full = (
            tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        )  # every process takes part
        if is_main():
            whole.load_state_dict({name: full.cpu()}, strict=False, assign=True)
    return whole.eval()


def _few(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers[:6])) + (
        f" and {len(numbers) - 6} more" if len(numbers) > 6 else ""
    )
