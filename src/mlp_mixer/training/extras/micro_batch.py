"""How many images to compute at a time: what fits and is fastest, found by trying.

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
from ..config import TrainConfig
from ..optim.build import build_optimizer
from ..run import Run
from ..state import RunState
from ..step import Stepper

# A larger part must be this much faster: memory is worth something too.
_WORTH = 1.03

# Steps that are timed, after one that warms up.
_TIMED = 2

# Share of the machine's free memory that is used. A CPU does not refuse more: Linux
# kills the process.
_MEMORY_SHARE = 0.7

# Parts of up to this many images are not halved again.
_SMALL_PART = 8


class Trial(NamedTuple):
    """Holds a size of the parts and its speed.

    Attributes:
        images: The size.
        images_per_second: 0 where memory was too small.
    """

    images: int
    images_per_second: float


def with_fitting_parts(run: Run, state: RunState | None) -> Run:
    """Choose `train.accumulate` so that the parts fit into memory and are fastest here.

    With several processes all try, and the smallest part that one of them can take is
    everyone's.

    Args:
        run: The run.
        state: That of a run to go on with, which keeps its parts: others would add in
            another order.

    Returns:
        The run with these parts, and a note that says what was tried.

    Raises:
        UserError: Other settings decide about the parts, or memory is too small for the
            smallest.
    """
    config = run.config
    if run.task:
        raise UserError(
            "--find-batch-size is for a classifier: set train.batch_size by hand for "
            "pretext.name"
        )
    if config.augment.sides:
        raise UserError(
            "--find-batch-size tries one size only: set train.accumulate by hand for "
            "augment.sides"
        )
    if state is not None:
        return replace(
            run, config=_in_parts(config, state.config["train"]["accumulate"])
        )
    if config.optim.rho:
        raise UserError(
            "the parts of a sharpness-aware step are optim.sam_images; leave out "
            "--find-batch-size"
        )
    if config.train.parallel == "fsdp":
        raise UserError(
            "--find-batch-size needs whole weights in each process; set train.accumulate "
            "by hand for fsdp"
        )
    share = config.train.batch_size // world_size()
    group = config.mix.group if config.mix.active else 1
    with cpu_threads(config.train.threads):
        trials = try_sizes(run, _sizes(share, group))

    fitting = [trial for trial in trials if trial.images_per_second]
    largest = _best(fitting).images if fitting else 0
    size = min(all_gather(largest))
    if size == 0:
        raise UserError(
            f"memory is too small for {trials[0].images} images at a time; use a smaller "
            "model or image"
        )
    parts = -(-share // size)
    tried = ", ".join(_described(trial) for trial in trials)
    note = (
        f"parts of {size} of {share} images fit best (train.accumulate {parts}; tried "
        f"{tried})"
    )
    return replace(run, config=_in_parts(config, parts), notes=(*run.notes, note))


def _in_parts(config: TrainConfig, parts: int) -> TrainConfig:
    return replace(config, train=replace(config.train, accumulate=parts))


def _described(trial: Trial) -> str:
    if trial.images_per_second == 0:
        return f"{trial.images}: too large"
    return f"{trial.images}: {trial.images_per_second:.1f} images/s"


def try_sizes(run: Run, sizes: list[int]) -> list[Trial]:
    """Train a copy of the model on noise with parts of each size.

    Args:
        run: The run; nothing of it changes.
        sizes: In rising order.

    Returns:
        The trials, up to the first for which memory was too small or speed fell.
    """
    trials: list[Trial] = []
    for images in sizes:
        speed = 0.0
        if images * _bytes_per_image(run) <= _free_bytes(run.device):
            speed = _speed(run, images)
        trials.append(Trial(images, speed))
        fastest = max(trial.images_per_second for trial in trials)
        if speed == 0 or speed * _WORTH < fastest:
            break
    return trials


def _sizes(share: int, group: int) -> list[int]:
    """Halve a process's share as often as the mixing groups allow; smallest first."""
    sizes = [share]
    while sizes[-1] % (2 * group) == 0 and sizes[-1] > _SMALL_PART:
        sizes.append(sizes[-1] // 2)
    return sizes[::-1]


def _best(trials: list[Trial]) -> Trial:
    best = trials[0]
    for trial in trials[1:]:
        if trial.images_per_second > best.images_per_second * _WORTH:
            best = trial
    return best


def _speed(run: Run, images: int) -> float:
    """Return images per second of training steps of a size; 0 without the memory."""
    try:
        return _timed(run, images)
    except torch.OutOfMemoryError:
        return 0.0
    finally:
        # The next size must find the memory of this one free.
        gc.collect()
        if run.device.type == "cuda":
            torch.cuda.empty_cache()


def _timed(run: Run, images: int) -> float:
    choice = replace(run.config.train, batch_size=images * world_size(), accumulate=1)
    model = copy.deepcopy(run.model).train()
    model.set_grad_checkpointing(choice.grad_checkpointing)
    trial = replace(run, config=replace(run.config, train=choice), model=model)
    optimizer = build_optimizer(model, trial.config.optim, precision=run.precision)
    stepper = Stepper(trial, model, optimizer, None)

    shape = (images, model.config.in_channels, *model.config.image_size)
    numbers = torch.arange(images)
    classes = max(1, model.config.num_classes)
    pixels = torch.randint(256, shape, dtype=torch.uint8)
    noise = Batch(pixels, numbers % classes, numbers)

    # `.item()` waits for the GPU; the first step also compiles and allocates.
    stepper(noise, 0).loss.item()
    start = time.perf_counter()
    for step in range(1, 1 + _TIMED):
        stepper(noise, step).loss.item()
    return _TIMED * images / (time.perf_counter() - start)


def _bytes_per_image(run: Run) -> float:
    """Return what autograd keeps for one image, in fp32."""
    return 4.0 * cost(run.model.config).activations


def _free_bytes(device: torch.device) -> float:
    """Return the memory that a CPU may use; a GPU says itself when it is full."""
    if device.type != "cpu" or not hasattr(os, "sysconf"):
        return float("inf")
    if "SC_AVPHYS_PAGES" not in os.sysconf_names:
        return float("inf")
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return _MEMORY_SHARE * free / world_size()
