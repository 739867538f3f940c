"""The learning rate as a pure function of the step."""

from __future__ import annotations

import math

from ..config import ScheduleChoice


def lr_factor(
    step: int, total_steps: int, warmup_steps: int, schedule: ScheduleChoice
) -> float:
    """The share of the peak learning rate at `step` (counted from 0) of a warm-up of w
    and a run of T steps.

    Warm-up is linear and reaches the peak at step w: (step + 1) / (w + 1) from "one",
    step / w from "zero". Then, with p = (step - w) / (T - w), the rate falls from 1 to
    `final` as

        cosine     (1 + cos(pi p)) / 2
        linear     1 - p
        rsqrt      1 / sqrt(1 + (step - w) / timescale), for any T
        constant   1, whatever `final` is

    which it would reach at the last step's successor, so that no step is spent at a
    rate of zero. Over the last `cooldown_steps` c, everything is multiplied by (T -
    step) / c.

    "zero" makes all of them what `create_learning_rate_schedule` of
    google-research/big_vision gives (`utils.py`; its `linear_end` is `final`, its
    cosine and rsqrt have a `final` of 0), and cosine what vit_jax's does (`utils.py` of
    google-research/vision_transformer, the fine-tuning of the paper), and timm's with
    `warmup_prefix`.
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
    """The share of the peak at `step` of the `total_steps` that follow the warm-up."""
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
    """The warm-up in steps, however it is stated, for a run of `total_steps` over
    `images` training images.
    """
    if schedule.warmup_steps is not None:
        return schedule.warmup_steps
    if schedule.warmup_share is not None:
        return round(schedule.warmup_share * total_steps)
    return round(schedule.warmup_epochs * images / batch_size)
