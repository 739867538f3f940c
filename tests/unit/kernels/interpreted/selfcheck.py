"""Kernels are used in training only where they pass a check.

Run by `test_interpreted.py`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from mlp_mixer import UserError
from mlp_mixer.kernels import block, launch, ops, selfcheck
from mlp_mixer.kernels.block import FusedBlock
from mlp_mixer.kernels.selfcheck import self_check, with_kernels
from mlp_mixer.models import MixerConfig, MlpMixer

TINY = MixerConfig(4, 2, 24, 16, 32, image_size=(12, 16), num_classes=5)
DTYPES = [torch.float32, torch.float16]


@pytest.fixture(autouse=True)
def _few_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "PROGRAMS", 1)


@pytest.mark.parametrize("gelu", ["tanh", "erf"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_sound_kernels_pass_and_the_model_is_not_touched(
    dtype: torch.dtype, gelu: Any
) -> None:
    config = dataclasses.replace(TINY, num_blocks=1, gelu=gelu, drop_path=0.5)
    model = MlpMixer(config)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert self_check(model, dtype) is None
    for name, tensor in model.state_dict().items():
        assert torch.equal(before[name], tensor), name
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())


class Faulty(torch.autograd.Function):
    """The operator with a fault in what it computes, or in one gradient."""

    fault: tuple[str, int, float]

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, Tensor, Tensor]:
        x, gamma, beta, w1, b1, w2, b2, scale, eps, tanh, deterministic = inputs
        kind, which, size = Faulty.fault
        given = [x, gamma, beta, w1, b1, w2, b2]
        if kind == "forward":
            given[which] = given[which] * (1 - size)
        ctx.tanh = tanh
        y, mean, rstd = ops.token_mix(*given, scale, eps, tanh, deterministic)
        ctx.save_for_backward(x, mean, rstd, gamma, beta, w1, b1, w2)
        return y, mean, rstd

    @staticmethod
    def backward(ctx: Any, dy: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        kind, which, size = Faulty.fault
        given = (dy, *ctx.saved_tensors, None, ctx.tanh, True, True)
        grads = list(ops.token_mix_backward(*given))
        if kind == "backward":
            grads[which] = grads[which] * (1 - size)
        return (*grads, None, None, None, None)


LEFT_OUT = [("forward", i, 1.0) for i in range(1, 7)]
TWO_PERCENT = [("backward", i, 0.02) for i in range(7)]


@pytest.mark.parametrize("fault", LEFT_OUT + TWO_PERCENT)
def test_a_part_left_out_or_a_gradient_off_by_two_percent_is_found(
    fault: tuple[str, int, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Faulty, "fault", fault, raising=False)
    monkeypatch.setattr(block, "token_mix", lambda *inputs: Faulty.apply(*inputs))
    what = "the output" if fault[0] == "forward" else "a gradient"
    reason = self_check(MlpMixer(TINY), torch.float16)
    assert reason is not None
    assert reason.startswith(f"{what} is off by "), reason


@pytest.mark.parametrize("where", [0, 1, 4])
def test_bits_that_vary_are_a_reason(
    where: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a kernel reads before a copy has ended, but far below any rounding."""
    calls = 0
    real = selfcheck._results

    def racing(block: Any, x: Tensor, dy: Tensor) -> list[Tensor]:
        nonlocal calls
        found = real(block, x, dy)
        if isinstance(block, FusedBlock):
            calls += 1
            if calls == 3:
                found[where].view(-1)[0] *= 1 + 1e-12
        return found

    monkeypatch.setattr(selfcheck, "_results", racing)
    # Only on a GPU are there several runs.
    model = MlpMixer(TINY)
    assert self_check(model, torch.float16) is None
    monkeypatch.setattr(selfcheck, "_repeats", lambda device: 4)
    calls = 0
    reason = self_check(model, torch.float16)
    assert reason == "its bits vary from run to run here"


def test_nan_is_not_taken_for_a_small_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Faulty, "fault", ("forward", 6, torch.nan), raising=False)
    monkeypatch.setattr(block, "token_mix", lambda *inputs: Faulty.apply(*inputs))
    reason = self_check(MlpMixer(TINY), torch.float16)
    assert reason is not None
    assert reason.startswith("the output is off by nan here")


def test_a_kernel_that_does_not_run_is_a_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails(*inputs: Any) -> None:
        raise RuntimeError("no ptxas for this driver\nand more")

    monkeypatch.setattr(block, "token_mix", fails)
    said = "it fails here: RuntimeError no ptxas for this driver"
    assert self_check(MlpMixer(TINY), torch.float16) == said
    refused = f"^train.kernels=fused cannot be used: {said}; use train.kernels=auto$"
    with pytest.raises(UserError, match=refused):
        with_kernels(MlpMixer(TINY), "fused", "fp32")
    model = MlpMixer(TINY)
    monkeypatch.setattr(selfcheck, "self_check", lambda model, dtype: "of a reason")
    assert with_kernels(model, "plain", "fp32") == (model, ())


def test_dtypes_that_the_kernel_leaves_alone_are_a_reason() -> None:
    reason = self_check(MlpMixer(TINY), torch.bfloat16)
    assert reason == "bfloat16 is faster in plain layers here"


def test_fused_is_what_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    model = MlpMixer(TINY)
    dtypes = list[torch.dtype]()
    real: Callable[[Any, torch.dtype], str | None] = selfcheck.self_check

    def noted(model: Any, dtype: torch.dtype) -> str | None:
        dtypes.append(dtype)
        return real(model, dtype)

    monkeypatch.setattr(selfcheck, "self_check", noted)
    fused, notes = with_kernels(model, "fused", "fp32")
    assert all(isinstance(one, FusedBlock) for one in fused.blocks)
    assert notes == ("token mixing is fused",)
    # On the CPU "auto" has nothing to check.
    assert with_kernels(model, "auto", "fp32") == (model, ())
    with pytest.raises(UserError, match="bfloat16 is faster in plain layers here"):
        with_kernels(model, "fused", "bf16")
    assert dtypes == [torch.float32, torch.bfloat16]
