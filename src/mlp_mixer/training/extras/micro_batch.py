"""How many images to compute at a time: what fits into memory and is fastest, found by
trying.

The batch that the weights see stays the recipe's; it is only computed in
`train.accumulate` parts.
"""

from __future__ import annotations

import copy
import gc
import os
import time
from dataclasses import replace
from typing import NamedTuple

import torch

from ...data.loader import Batch
from ...devices import cpu_threads
from ...distributed import all_gather, world_size
from ...errors import UserError
from ...models import cost
from ..optim.build import build_optimizer
from ..run import Run
from ..state import RunState
from ..step import Stepper

_WORTH = 1.03  # a larger part must be this much faster: memory is worth something too
_TIMED = 2  # steps, after one that warms up
_MEMORY_SHARE = 0.7  # of the machine's free memory: a CPU does not refuse, it kills


class Trial(NamedTuple):
    """A size of the parts, and how fast it was; 0 images per second where memory was
    too small.
    """

    images: int
    images_per_second: float


def with_fitting_parts(run: Run, state: RunState | None) -> Run:
    """The run with the `train.accumulate` that is fastest here, and a note that says
    what was tried.

    state: of a run to go on with, which keeps its parts, since others would add in
        another order. With several
    processes all try, and the smallest part that one of them can take is everyone's.
    Raises `UserError` for runs whose parts are settled otherwise, or if memory is too
    small for the smallest.
    """
    config = run.config
    if state is not None:
        parts = state.config["train"]["accumulate"]
        return replace(
            run, config=replace(config, train=replace(config.train, accumulate=parts))
        )
    if config.optim.rho:
        raise UserError(
            "the parts of a sharpness-aware step are optim.sam_images; leave out --find-batch-size"
        )
    if config.train.parallel == "fsdp":
        raise UserError(
            "--find-batch-size needs whole weights in each process; set train.accumulate by hand for fsdp"
        )
    share = config.train.batch_size // world_size()
    with cpu_threads(config.train.threads):
        trials = try_sizes(
            run, _sizes(share, config.mix.group if config.mix.active else 1)
        )
    fitting = [trial for trial in trials if trial.images_per_second]
    best = _best(fitting).images if fitting else 0
    best = min(all_gather(best))
    if best == 0:
        raise UserError(
            f"memory is too small for {trials[0].images} images at a time; use a smaller model or image"
        )
    accumulate = -(-share // best)
    tried = ", ".join(
        f"{trial.images}: {f'{trial.images_per_second:.1f} images/s' if trial.images_per_second else 'too large'}"
        for trial in trials
    )
    note = f"parts of {best} of {share} images fit best (train.accumulate {accumulate}; tried {tried})"
    chosen = replace(config, train=replace(config.train, accumulate=accumulate))
    return replace(run, config=chosen, notes=(*run.notes, note))


def try_sizes(run: Run, sizes: list[int]) -> list[Trial]:
    """Train a copy of the model on noise with parts of each size, until memory is too
    small or speed falls.
    """
    trials: list[Trial] = []
    for images in sizes:
        speed = (
            0.0
            if images * _bytes_per_image(run) > _free_bytes(run.device)
            else _speed(run, images)
        )
        trials.append(Trial(images, speed))
        if speed == 0 or speed * _WORTH < max(
            trial.images_per_second for trial in trials
        ):
            break
    return trials


def _sizes(share: int, group: int) -> list[int]:
    """The share of a process, halved as often as it and the mixing groups allow,
    smallest first.
    """
    sizes = [share]
    while sizes[-1] % (2 * group) == 0 and sizes[-1] > 8:
        sizes.append(sizes[-1] // 2)
    return sizes[::-1]


def _best(trials: list[Trial]) -> Trial:
    best = trials[0]
    for trial in trials[1:]:
        best = (
            trial if trial.images_per_second > best.images_per_second * _WORTH else best
        )
    return best


def _speed(run: Run, images: int) -> float:
    """Images per second of whole training steps of that size; 0 if the device has no
    memory for them.
    """
    choice = replace(run.config.train, batch_size=images * world_size(), accumulate=1)
    model = copy.deepcopy(run.model).train()
    model.set_grad_checkpointing(choice.grad_checkpointing)
    trial = replace(run, config=replace(run.config, train=choice), model=model)
    shape = (images, model.config.in_channels, *model.config.image_size)
    noise = Batch(
        torch.randint(256, shape, dtype=torch.uint8),
        torch.arange(images) % max(1, model.config.num_classes),
        torch.arange(images),
    )
    try:
        stepper = Stepper(
            trial, model, build_optimizer(model, trial.config.optim), None
        )
        stepper(noise, 0).loss.item()
        start = time.perf_counter()
        for step in range(1, 1 + _TIMED):
            stepper(noise, step).loss.item()
        return _TIMED * images / (time.perf_counter() - start)
    except torch.OutOfMemoryError:
        return 0.0
    finally:
        del model, trial
        gc.collect()
        if run.device.type == "cuda":
            torch.cuda.empty_cache()


def _bytes_per_image(run: Run) -> float:
    """What autograd keeps for one image, in fp32."""
    return 4.0 * cost(run.model.config).activations


def _free_bytes(device: torch.device) -> float:
    """Memory that a CPU may use; a GPU says itself when it is full."""
    if (
        device.type != "cpu"
        or not hasattr(os, "sysconf")
        or "SC_AVPHYS_PAGES" not in os.sysconf_names
    ):
        return float("inf")
    return (
        _MEMORY_SHARE
        * os.sysconf("SC_AVPHYS_PAGES")
        * os.sysconf("SC_PAGE_SIZE")
        / world_size()
    )
