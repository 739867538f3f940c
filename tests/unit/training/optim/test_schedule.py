"""The learning rate, step by step, against the published formulas."""

from __future__ import annotations

import math
from typing import Any

import pytest

from mlp_mixer import UserError
from mlp_mixer.config import override
from mlp_mixer.training.config import ScheduleChoice, TrainConfig
from mlp_mixer.training.optim.schedule import lr_factor, warmup_length


def factors(
    decay: str = "cosine", *, total: int = 100, warmup: int = 10, **fields: Any
) -> list[float]:
    schedule = ScheduleChoice(decay=decay, **fields)  # type: ignore[arg-type]
    return [lr_factor(step, total, warmup, schedule) for step in range(total)]


@pytest.mark.parametrize("decay", ["cosine", "linear", "rsqrt", "constant"])
def test_warmup_is_linear_and_reaches_the_peak(decay: str) -> None:
    values = factors(decay)
    assert values[:10] == pytest.approx([(step + 1) / 11 for step in range(10)])
    assert values[10] == 1
    assert max(values) == 1


def test_cosine_and_linear_follow_their_formulas() -> None:
    progress = [(step - 10) / 90 for step in range(10, 100)]
    cosine = [0.5 * (1 + math.cos(math.pi * p)) for p in progress]
    assert factors("cosine")[10:] == pytest.approx(cosine)
    assert factors("linear")[10:] == pytest.approx([1 - p for p in progress])
    assert set(factors("constant")[10:]) == {1.0}


@pytest.mark.parametrize("decay", ["cosine", "linear"])
def test_the_decay_stays_above_its_final_share(decay: str) -> None:
    values = factors(decay, final=0.1)
    assert values[10:] == sorted(values[10:], reverse=True)
    assert 0.1 < values[-1] < 0.12


def test_edges() -> None:
    plain = ScheduleChoice()
    from_zero = ScheduleChoice(warmup_from="zero")
    cooled = ScheduleChoice(warmup_from="zero", cooldown_steps=4)
    assert lr_factor(0, 1, 0, plain) == 1, "one step without a warm-up"
    assert 0 < lr_factor(4, 5, 50, plain) < 1, "a warm-up longer than the run"
    assert lr_factor(0, 1, 0, cooled) == 0.25
    assert lr_factor(5, 5, 5, from_zero) == 1, "a warm-up as long as the run"


def earlier(
    step: int, total_steps: int, warmup_steps: int, schedule: ScheduleChoice
) -> float:
    """The schedule of the first version."""
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    if schedule.decay == "constant":
        return 1.0
    remaining = 1 - progress
    if schedule.decay == "cosine":
        remaining = (1 + math.cos(math.pi * progress)) / 2
    return schedule.final + (1 - schedule.final) * remaining


@pytest.mark.parametrize("decay", ["cosine", "linear", "constant"])
@pytest.mark.parametrize("final", [0.0, 0.01, 0.3])
@pytest.mark.parametrize(("total", "warmup"), [(97, 13), (97, 0), (5, 9)])
def test_the_schedules_of_before_keep_their_bits(
    decay: Any, final: float, total: int, warmup: int
) -> None:
    """Runs that were begun with the earlier code go on as they were."""
    schedule = ScheduleChoice(decay=decay, final=final)
    for step in range(total):
        now = lr_factor(step, total, warmup, schedule)
        assert now == earlier(step, total, warmup, schedule)


def big_vision(
    step: int,
    total: int,
    warmup: int,
    decay: str,
    *,
    end: float = 0.0,
    timescale: float = 10_000,
    cooldown: int = 0,
) -> float:
    """`create_learning_rate_schedule` of big_vision/utils.py with base 1.

    step: The optimiser's update, from 0.
    """
    lr = 1.0
    progress = min(max((step - warmup) / float(total - warmup), 0.0), 1.0)
    if decay == "linear":
        lr = end + (lr - end) * (1.0 - progress)
    elif decay == "cosine":
        lr = lr * 0.5 * (1.0 + math.cos(math.pi * progress))
    elif decay == "rsqrt" and warmup <= step:
        lr = lr / math.sqrt(1 + (step - warmup) / timescale)
    if warmup:
        lr = lr * min(1.0, step / warmup)
    if cooldown:
        lr = lr * min(1.0, (total - step) / cooldown)
    return lr


@pytest.mark.parametrize("warmup", [0, 1, 30])
@pytest.mark.parametrize(
    ("decay", "ours", "theirs"),
    [
        # mlp_mixer_i1k.py
        ("linear", {"final": 1e-5}, {"end": 1e-5}),
        # GSAM
        ("linear", {"final": 0.01}, {"end": 0.01}),
        ("cosine", {}, {}),
        ("cosine", {"cooldown_steps": 50}, {"cooldown": 50}),
        (
            "rsqrt",
            {"timescale": 40.0, "cooldown_steps": 25},
            {"timescale": 40, "cooldown": 25},
        ),
        ("rsqrt", {}, {}),
        # The cooldown begins in the warm-up.
        ("rsqrt", {"cooldown_steps": 190}, {"cooldown": 190}),
    ],
)
def test_big_vision(
    decay: str, ours: dict[str, Any], theirs: dict[str, Any], warmup: int
) -> None:
    total = 200
    found = factors(decay, total=total, warmup=warmup, warmup_from="zero", **ours)
    expected = []
    for step in range(total):
        expected.append(big_vision(step, total, warmup, decay, **theirs))
    assert found == pytest.approx(expected, rel=1e-12)
    if warmup:
        assert found[0] == 0


@pytest.mark.parametrize("step", [0, 1, 250, 499, 500, 501, 5_250, 9_999])
def test_vit_jax_fine_tuning(step: int) -> None:
    """`create_learning_rate_schedule` of vit_jax/utils.py.

    The numbers are those of configs/mixer_base16_cifar10.py.
    """
    total = 10_000
    base = 0.03
    warmup = 500
    progress = min(max((step - warmup) / float(total - warmup), 0.0), 1.0)
    cosine = base * 0.5 * (1.0 + math.cos(math.pi * progress))
    expected = cosine * min(1.0, step / warmup)
    schedule = ScheduleChoice(decay="cosine", warmup_from="zero")
    found = base * lr_factor(step, total, warmup, schedule)
    assert found == pytest.approx(expected, rel=1e-12)


def test_timm() -> None:
    import torch
    from timm.scheduler import CosineLRScheduler

    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    theirs = CosineLRScheduler(
        optimizer,
        t_initial=90,
        lr_min=0.05,
        warmup_t=10,
        warmup_lr_init=0.0,
        warmup_prefix=True,
        t_in_epochs=False,
    )
    for step, factor in enumerate(factors(warmup_from="zero", final=0.05)):
        theirs.step_update(step)
        assert factor == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)


@pytest.mark.parametrize(
    ("fields", "total", "steps"),
    [
        ({"warmup_epochs": 1.5}, 999, round(1500 / 128)),
        ({"warmup_steps": 7}, 999, 7),
        ({"warmup_steps": 0}, 999, 0),
        ({"warmup_share": 0.1}, 999, 100),
        ({"warmup_share": 0.1}, 99, 10),
    ],
)
def test_the_warmup_in_epochs_steps_and_shares(
    fields: dict[str, Any], total: int, steps: int
) -> None:
    schedule = ScheduleChoice(**fields)
    assert warmup_length(schedule, total, images=1000, batch_size=128) == steps


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("decay=stair", "schedule.decay"),
        ("warmup_from=two", "schedule.warmup_from"),
        ("warmup_steps=-1", "schedule.warmup_steps must be at least 0"),
        ("warmup_share=1.5", "schedule.warmup_share must be at least 0 and at most 1"),
        ("timescale=0", "schedule.timescale must be above 0"),
        ("cooldown_steps=-1", "schedule.cooldown_steps must be at least 0"),
    ],
)
def test_settings_that_cannot_be(setting: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        override(TrainConfig(), [f"schedule.{setting}"])


def test_the_warmup_is_stated_once() -> None:
    with pytest.raises(UserError, match="exclude each other; set one to none"):
        ScheduleChoice(warmup_steps=3, warmup_share=0.1)
