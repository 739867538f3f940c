"""The training loop: a run is a function of its configuration and its data, and of nothing else.

Every random number of step t comes from (seed, t), so a run that was killed and resumed ends with the same bytes as
one that was not (same machine, threads and versions).
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import to_dict
from ..data.loader import Batch, stream
from ..data.source import Source
from ..devices import autocast, cpu_threads
from ..errors import UserError
from ..evaluate import evaluate
from ..files import make_folder, sweep, write_json
from ..weights import save
from .config import TrainConfig
from .journal import Journal, Row, environment
from .optim import Ema, build_optimizer, set_lr
from .prepare import Run, prepare
from .schedule import lr_factor
from .state import RunState, forget_states, newest_state, restore, save_state
from .stop import Interrupted, StopRequest

Report = Callable[[Row], None]


def train(
    config: TrainConfig,
    out: Path,
    *,
    source: Source | None = None,
    resume: bool = False,
    overwrite: bool = False,
    report: Report = lambda row: None,
) -> Row:
    """Train and leave `best.safetensors`, `last.safetensors`, `metrics.jsonl`, `config.json` and `state/` in `out`.

    source: the images, instead of those that `config.data.source` names (such as arrays in memory).
    resume: go on from the newest readable state, or start anew if there is none. overwrite: forget an earlier run.
    report: is called with every journal row, and with rows of kind "start" and "note" that only people need.
    Returns the evaluation row of the best checkpoint. Raises `UserError` for what a user can mend, and `Interrupted`
    after a SIGINT or SIGTERM, when the state is saved.
    """
    if not resume and not overwrite and (out / "config.json").exists():
        raise UserError(f"{str(out)!r} already holds a run; add --resume, --overwrite, or choose another --out")
    run = prepare(config, source)
    sweep(make_folder(out))
    sweep(out / "state")
    state = _find_state(out, run, report) if resume else None
    if state is None:
        forget_states(out)
    report(_start_row(run, state.step if state else 0))
    with StopRequest() as stop, torch.random.fork_rng(devices=[]), cpu_threads(config.train.threads):
        write_json(out / "config.json", {"config": to_dict(run.config), "environment": environment(run.device)})
        return _Loop(run, out, state, report).go(stop)


class _Loop:
    """One run in progress: `go` is the loop, the rest its parts in order of use."""

    def __init__(self, run: Run, out: Path, state: RunState | None, report: Report) -> None:
        self.run, self.out, self.report, self.choice = run, out, report, run.config.train
        self.step = state.step if state else 0
        self.best = state.best if state else None
        self.model = run.model.train()
        self.model.set_grad_checkpointing(self.choice.grad_checkpointing)
        self.optimizer = build_optimizer(self.model, run.config.optim)
        self.judged = copy.deepcopy(self.model).eval() if self.choice.ema else self.model  # is evaluated and saved
        self.ema = Ema(self.model, self.judged, self.choice.ema) if self.choice.ema else None
        self.modules = {"model": self.model} | ({"ema": self.judged} if self.ema else {})
        if state:
            restore(state, self.modules, self.optimizer)
        self.journal = Journal(out, from_step=self.step)

    def go(self, stop: StopRequest) -> Row:
        meter = _Meter(self.run.device)
        for batch in stream(self.run.batches(), range(self.step, self.run.total_steps), workers=self.run.workers):
            meter.add(self.update(batch), len(batch.labels))
            self.step += 1
            asked_to_stop = stop.signal_number  # read once: a signal that comes later waits for the next step
            if self.log_due() or asked_to_stop:
                self.log(meter.read())
            if self.evaluation_due():
                self.evaluate()
            if self.save_due() or asked_to_stop:
                self.save_state()
            if asked_to_stop and self.step < self.run.total_steps:
                raise Interrupted(self.step, asked_to_stop)
            meter.start_clock_if_empty()
        assert self.best is not None
        return self.best

    def update(self, batch: Batch) -> Tensor:
        """One optimiser step; gives the loss, still on the device."""
        run = self.run
        torch.manual_seed(_step_seed(self.choice.seed, self.step))
        batch = batch.to(run.device)
        with autocast(self.choice.precision, run.device):
            logits = self.model(run.preprocess.normalize(batch.images))
        loss = F.cross_entropy(logits.float(), batch.labels, label_smoothing=self.choice.label_smoothing)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        if run.config.optim.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), run.config.optim.clip_norm)
        set_lr(self.optimizer, self.lr(self.step))
        self.optimizer.step()
        if self.ema:
            self.ema.update(self.step)
        return loss.detach()

    def lr(self, step: int) -> float:
        config = self.run.config
        return config.optim.lr * lr_factor(step, self.run.total_steps, self.run.warmup_steps, config.schedule)

    def log_due(self) -> bool:
        """Also before whatever is saved, so that no state holds weights whose loss was not seen to be finite."""
        return self.step % self.choice.log_every_steps == 0 or self.save_due()

    def evaluation_due(self) -> bool:
        """At the last step, and whenever a multiple of `eval_every_epochs` has just been passed."""
        now, before = (
            math.floor(self.run.epoch(s) / self.choice.eval_every_epochs) for s in (self.step, self.step - 1)
        )
        return now > before or self.step == self.run.total_steps

    def save_due(self) -> bool:
        every = self.choice.save_every_steps
        return self.evaluation_due() or (every is not None and self.step % every == 0)

    def log(self, measured: Row) -> None:
        if not math.isfinite(measured["loss"]):
            raise UserError(
                f"the loss became {measured['loss']} by step {self.step}; "
                f"start anew with a lower optim.lr (now {self.run.config.optim.lr}) or a lower optim.clip_norm"
            )
        self.record({"kind": "train", **measured, "lr": self.lr(self.step - 1)})

    def evaluate(self) -> None:
        """Measure on the validation split, write `last`, and `best` if it is the best so far."""
        run = self.run
        row: Row = {"kind": "eval", "split": "val"}
        if run.val is not None:
            result = evaluate(self.judged, run.val, run.preprocess, workers=run.workers)
            row |= {"top1": result.top1, "top5": result.top5, "loss": result.loss, "n": result.n}
        row = self.record(row)
        self.write_checkpoint("last", row)
        if self.best is None or row.get("top1", 0.0) >= self.best.get("top1", 0.0):  # of equals, the later
            self.best = row
            self.write_checkpoint("best", row)

    def write_checkpoint(self, name: str, row: Row) -> None:
        run = self.run
        provenance = run.provenance() | {"measured": {key: value for key, value in row.items() if key != "kind"}}
        path = self.out / f"{name}.safetensors"
        save(path, self.judged, preprocess=run.preprocess, labels=run.train.classes, provenance=provenance)

    def save_state(self) -> None:
        save_state(
            self.out,
            step=self.step,
            config=to_dict(self.run.config),
            fingerprint=self.run.fingerprint,
            best=self.best,
            modules=self.modules,
            optimizer=self.optimizer,
        )

    def record(self, row: Row) -> Row:
        row = {**row, "step": self.step, "epoch": round(self.run.epoch(self.step), 4)}
        self.journal.append(row)
        self.report(row)
        return row


class _Meter:
    """Mean loss and throughput since the last reading; the loss stays on the device until then."""

    def __init__(self, device: torch.device) -> None:
        self.loss = torch.zeros((), device=device)
        self.steps = self.images = 0
        self.started = time.perf_counter()

    def start_clock_if_empty(self) -> None:
        """After a reading, leave out the time that evaluating and saving took."""
        if self.steps == 0:
            self.started = time.perf_counter()

    def add(self, loss: Tensor, images: int) -> None:
        self.loss += loss
        self.steps, self.images = self.steps + 1, self.images + images

    def read(self) -> Row:
        loss, seconds = self.loss.item() / self.steps, time.perf_counter() - self.started
        row = {
            "loss": round(loss, 6),
            "images_per_second": round(self.images / seconds, 1),
            "seconds": round(seconds, 4),
        }
        self.loss.zero_()
        self.steps = self.images = 0
        return row


def _find_state(out: Path, run: Run, report: Report) -> RunState | None:
    state, complaints = newest_state(out)
    if state is None and complaints:
        raise UserError(f"no saved state can be read: {'; '.join(complaints)}; use --overwrite to start anew")
    for complaint in complaints:
        report({"kind": "note", "text": f"{complaint}: using the state before it"})
    if state is None:
        report({"kind": "note", "text": f"no saved state in {str(out)!r}: starting anew"})
        return None
    changed = _changes(state.config, to_dict(run.config))
    if changed:
        raise UserError(f"{str(out)!r} has other settings: {'; '.join(changed)}; use the old ones or a new --out")
    if state.fingerprint != run.fingerprint:
        raise UserError(
            f"the images of {run.source.spec!r} are not those that {str(out)!r} began with; use a new --out"
        )
    return state


_FREE_TO_CHANGE = {"train.save_every_steps", "train.log_every_steps", "train.device", "data.workers", "data.source"}


def _changes(old: Any, new: Any, where: str = "") -> list[str]:
    """The settings that differ and would bend the run, as `a.b was 1, is now 2`."""
    if isinstance(old, dict) and isinstance(new, dict):
        inside = f"{where}." if where else ""
        return [text for key in old | new for text in _changes(old.get(key), new.get(key), inside + key)]
    return [] if old == new or where in _FREE_TO_CHANGE else [f"{where} was {old}, is now {new}"]


def _start_row(run: Run, step: int) -> Row:
    return {
        "kind": "start",
        "model": run.config.model.name,
        "parameters": sum(parameter.numel() for parameter in run.model.parameters()),
        "source": run.source.spec,
        "classes": len(run.train.classes),
        "n_train": len(run.train),
        "n_val": len(run.val) if run.val is not None else 0,
        "device": str(run.device),
        "step": step,
        "total_steps": run.total_steps,
        "epochs": run.config.train.epochs,
    }


def _step_seed(seed: int, step: int) -> int:
    """A seed for torch's generators at one step, so that dropout and stochastic depth need no saved state."""
    return (seed * 0x9E3779B97F4A7C15 + step * 0xBF58476D1CE4E5B9 + 1) & 0x7FFFFFFFFFFFFFFF
