"""The learning rate as a pure function of the step."""

from __future__ import annotations

import math

from .config import ScheduleChoice


def lr_factor(step: int, total_steps: int, warmup_steps: int, schedule: ScheduleChoice) -> float:
    """The share of the peak learning rate at `step` (counted from 0).

    Warm-up is linear and reaches the peak at step `warmup_steps`; the decay then ends at `schedule.final` with the
    last step's successor, so that no step is spent at a rate of zero.
    """
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    if schedule.decay == "constant":
        return 1.0
    remaining = 1 - progress if schedule.decay == "linear" else (1 + math.cos(math.pi * progress)) / 2
    return schedule.final + (1 - schedule.final) * remaining
