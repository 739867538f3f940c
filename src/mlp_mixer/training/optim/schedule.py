"""The learning rate as a pure function of the step."""

from __future__ import annotations

import math

from ..config import ScheduleChoice


def lr_factor(
    step: int, total_steps: int, warmup_steps: int, schedule: ScheduleChoice
) -> float:
    """Return the share of the peak learning rate at a step.

    With a warm-up of w steps and a run of T: the warm-up is linear and reaches the peak
    at step w: (step + 1) / (w + 1) from "one", step / w from "zero". Then, with
    p = (step - w) / (T - w), the rate falls from 1 to `final` as

        cosine     (1 + cos(pi p)) / 2
        linear     1 - p
        rsqrt      1 / sqrt(1 + (step - w) / timescale), for any T
        constant   1, whatever `final` is

    The final value is reached one step after the last, so no step has rate 0. Over the
    last `cooldown_steps` c, everything is multiplied by (T - step) / c.

    With "zero", all of them are what `create_learning_rate_schedule` of
    google-research/big_vision gives (`utils.py`; its `linear_end` is `final`, its cosine
    and rsqrt have a `final` of 0), and cosine is also that of vit_jax (`utils.py` of
    google-research/vision_transformer, the fine-tuning of the paper) and of timm with
    `warmup_prefix`.

    Args:
        step: Counted from 0.
        total_steps: T.
        warmup_steps: w.
        schedule: The other settings.
    """
    if step >= warmup_steps:
        factor = _decay(step - warmup_steps, total_steps - warmup_steps, schedule)
    elif schedule.warmup_from == "zero":
        factor = step / warmup_steps
    else:
        factor = (step + 1) / (warmup_steps + 1)
    if total_steps - step < schedule.cooldown_steps:
        factor *= (total_steps - step) / schedule.cooldown_steps
    return factor


def _decay(step: int, total_steps: int, schedule: ScheduleChoice) -> float:
    """Return the share of the peak at a step of the `total_steps` after the warm-up."""
    # A warm-up may be as long as the run.
    progress = step / max(1, total_steps)
    if schedule.decay == "constant":
        return 1.0
    if schedule.decay == "linear":
        remaining = 1 - progress
    elif schedule.decay == "rsqrt":
        remaining = 1 / math.sqrt(1 + step / schedule.timescale)
    else:
        remaining = (1 + math.cos(math.pi * progress)) / 2
    return schedule.final + (1 - schedule.final) * remaining


def warmup_length(
    schedule: ScheduleChoice, total_steps: int, images: int, batch_size: int
) -> int:
    """Return the warm-up in steps, however it is stated.

    Args:
        schedule: States it in steps, as a share of the run, or in epochs.
        total_steps: Steps of the run.
        images: Images of the training set.
        batch_size: Images of a batch over all processes.
    """
    if schedule.warmup_steps is not None:
        return schedule.warmup_steps
    if schedule.warmup_share is not None:
        return round(schedule.warmup_share * total_steps)
    return round(schedule.warmup_epochs * images / batch_size)
