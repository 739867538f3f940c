"""How many epochs fit into some minutes on this machine: a few steps tell."""

from __future__ import annotations

import copy
import dataclasses
import time
from pathlib import Path

import torch

from ..distributed import all_reduce_max
from ..evaluation import evaluate
from ..randomness import steps_for
from .config import TrainConfig, stored_config
from .optim.build import Ema, build_optimizer
from .optim.schedule import warmup_length
from .record import read_record
from .run import Run
from .step import Stepper

_TRIAL_SECONDS = 3.0
_FEWEST_STEPS = 3
_MOST_STEPS = 50
_TRIAL_IMAGES = 128  # of an evaluation
_MOST_EVALUATIONS = 40

# Of the time, left for saving checkpoints and for steps that are slower than the first.
_RESERVE = 0.05


def within_minutes(run: Run, minutes: float, started: float) -> Run:
    """Set the length of a run so that it ends after some minutes.

    Args:
        run: The run before its first step; its weights are not changed.
        minutes: From the start to the end of the last step, evaluations and the test
            included.
        started: The `time.perf_counter()` at which the time began.

    Returns:
        The run with its number of epochs, and a note that says it.
    """
    images = len(run.train)
    choice = run.config.train
    step_seconds = _seconds_of_a_step(run)
    epoch_seconds = step_seconds * images / choice.batch_size
    evaluation_seconds = _seconds_of_evaluating(run)
    val = len(run.val) if run.val is not None else 0
    test = run.source.test if run.source.held_out else None
    spent = time.perf_counter() - started
    left = 60 * minutes * (1 - _RESERVE) - spent
    left -= evaluation_seconds * (len(test) if test is not None else 0)
    # Every epoch has an evaluation, until there are too many of them.
    one = epoch_seconds + evaluation_seconds * val
    epochs = left / one
    if epochs > _MOST_EVALUATIONS:
        epochs = (left - _MOST_EVALUATIONS * evaluation_seconds * val) / epoch_seconds
    wanted = max(epochs, choice.batch_size / images)
    # Processes that measured different times must take equally many steps: as many as
    # the slowest one can.
    wanted = -all_reduce_max(-round(1000 * wanted)) / 1000
    epochs = min(wanted, choice.most_epochs)
    note = (
        f"{minutes:g} minutes are about {epochs:.3g} epochs here "
        f"({choice.batch_size / step_seconds:,.0f} images a second)"
    )
    if wanted > choice.most_epochs:
        note += "; more would not help, so it ends sooner"
    length = dataclasses.replace(
        choice,
        epochs=epochs,
        steps=None,
        images=None,
        patience=None,
        eval_every_epochs=max(1.0, round(epochs / _MOST_EVALUATIONS, 2)),
    )
    config = dataclasses.replace(run.config, train=length)
    total_steps = steps_for(epochs, choice.batch_size, images)
    return dataclasses.replace(
        run,
        config=config,
        total_steps=total_steps,
        warmup_steps=warmup_length(
            config.schedule, total_steps, images, choice.batch_size
        ),
        notes=(*run.notes, note),
    )


def with_stored_length(config: TrainConfig, out: Path) -> TrainConfig:
    """Return a configuration with the length that a run in minutes has found.

    Args:
        config: As it was given again, to resume.
        out: The folder of the run.

    Raises:
        UserError: The folder's config.json cannot be read.
    """
    found = stored_config(read_record(out)["config"]).train
    length = dataclasses.replace(
        config.train,
        epochs=found.epochs,
        steps=found.steps,
        images=found.images,
        patience=found.patience,
        eval_every_epochs=found.eval_every_epochs,
    )
    return dataclasses.replace(config, train=length)


def _seconds_of_a_step(run: Run) -> float:
    """Measure steps of a copy of the run."""
    model = copy.deepcopy(run.model).train()
    trial = dataclasses.replace(run, model=model)
    optimizer = build_optimizer(model, run.config.optim, precision=run.precision)
    ema = None
    if run.config.train.ema:
        ema = Ema(model, copy.deepcopy(model).eval(), run.config.train.ema)
    stepper = Stepper(trial, model, optimizer, ema)
    batches = trial.batches()
    seconds: list[float] = []
    with torch.random.fork_rng(devices=[]):
        for step in range(_MOST_STEPS + 1):
            began = time.perf_counter()
            # The schedule has no rate for a step after the end of a short run.
            stepper(batches[step], min(step, run.total_steps - 1))
            if run.device.type == "cuda":
                torch.cuda.synchronize(run.device)
            seconds.append(time.perf_counter() - began)
            enough = len(seconds) > _FEWEST_STEPS
            if enough and sum(seconds[1:]) > _TRIAL_SECONDS:
                break
    # The first step also allocates and compiles.
    return sum(seconds[1:]) / (len(seconds) - 1)


def _seconds_of_evaluating(run: Run) -> float:
    """Measure how long the evaluation of an image takes."""
    images = run.train if run.val is None else run.val
    some = images.subset(range(min(len(images), _TRIAL_IMAGES)))
    began = time.perf_counter()
    evaluate(run.model, some, run.preprocess, workers=0)
    return (time.perf_counter() - began) / len(some)
