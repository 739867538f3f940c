"""`token_mix` and its gradients beside the plain layers in float64.

Run by `test_interpreted.py`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mlp_mixer.kernels import launch, ops

NAMES = ("y", "x", "gamma", "beta", "w1", "b1", "w2", "b2")


class Case(NamedTuple):
    batch: int
    tokens: int
    channels: int
    hidden: int
    tanh: bool = True
    scaled: bool = False
    deterministic: bool = True
    # How many sum: each has several steps, and there are several sums.
    programs: int = 3


CASES = [
    Case(1, 1, 1, 1, deterministic=False),
    Case(2, 1, 37, 5, tanh=False, scaled=True),
    Case(2, 49, 37, 24, scaled=True),
    Case(2, 16, 64, 80, tanh=False, deterministic=False),
    Case(1, 64, 130, 32, programs=132),
    Case(4, 40, 200, 16, scaled=True, programs=1),
    Case(2, 196, 33, 40, tanh=False),
    Case(1, 256, 16, 16, scaled=True),
]


def plain(
    x: Tensor,
    gamma: Tensor,
    beta: Tensor,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    b2: Tensor,
    scale: Tensor | None,
    tanh: bool,
) -> Tensor:
    """The token branch of torch's own layers."""
    x_BCS = F.layer_norm(x, (x.shape[-1],), gamma, beta, 1e-6).transpose(1, 2)
    hidden = F.gelu(F.linear(x_BCS, w1, b1), approximate="tanh" if tanh else "none")
    branch = F.linear(hidden, w2, b2).transpose(1, 2)
    return x + (branch if scale is None else branch * scale[:, None, None])


def tensors(
    case: Case, dtype: torch.dtype
) -> tuple[list[Tensor], Tensor | None, Tensor]:
    """x and the parameters, each image's factor, and a gradient from above."""
    B, S, C, D = case[:4]
    made = [
        2 * torch.randn(B, S, C) + torch.randn(B, S, 1),
        1 + 0.3 * torch.randn(C),
        0.3 * torch.randn(C),
        torch.randn(D, S) / S**0.5,
        0.3 * torch.randn(D),
        torch.randn(S, D) / D**0.5,
        0.3 * torch.randn(S),
    ]
    scale = None
    if case.scaled:
        factors = torch.tensor([1.25, 1.0, 0.5, 0.0, 0.0])
        scale = factors[torch.arange(B) % 5].to(dtype)
    return [t.to(dtype) for t in made], scale, torch.randn(B, S, C).to(dtype)


def results(
    case: Case,
    inputs: list[Tensor],
    scale: Tensor | None,
    dy: Tensor,
    dtype: torch.dtype | None,
) -> list[Tensor]:
    """The output and all gradients.

    Plainly in `dtype`; with None by the kernels, in the dtype of the inputs.
    """
    leaves = [t.to(dtype or t.dtype).clone().requires_grad_() for t in inputs]
    if dtype is None:
        launch.PROGRAMS = case.programs
        options = (1e-6, case.tanh, case.deterministic)
        y, _, _ = ops.token_mix(*leaves, scale, *options)
    else:
        factors = None if scale is None else scale.to(dtype)
        y = plain(*leaves, factors, case.tanh)
    grads = torch.autograd.grad(y, leaves, dy.to(y.dtype))
    return [y.detach(), *grads]


def assert_close_as_plain(
    kernel: list[Tensor], plain: list[Tensor], exact: list[Tensor]
) -> None:
    """Within twice (a gradient: three times) the error of the plain layers.

    And one rounding of the largest number.
    """
    for name, ours, theirs, truth in zip(NAMES, kernel, plain, exact, strict=True):
        assert ours.dtype == theirs.dtype
        assert ours.shape == theirs.shape
        our_error = (ours.double() - truth).abs().max()
        plain_error = (theirs.double() - truth).abs().max()
        factor = 2 if name == "y" else 3
        rounding = torch.finfo(ours.dtype).eps * truth.abs().max()
        assert our_error <= factor * plain_error + rounding, (
            f"{name}: off by {our_error:.3g}, the plain layers by {plain_error:.3g}"
        )


@pytest.fixture(autouse=True)
def _programs(monkeypatch: pytest.MonkeyPatch) -> None:
    # `results` changes it; monkeypatch restores it after each test.
    monkeypatch.setattr(launch, "PROGRAMS", launch.PROGRAMS)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_kernels_err_no_more_than_the_plain_layers(
    case: Case, dtype: torch.dtype
) -> None:
    inputs, scale, dy = tensors(case, dtype)
    exact = results(case, inputs, scale, dy, torch.float64)
    theirs = results(case, inputs, scale, dy, dtype)
    ours = results(case, inputs, scale, dy, None)
    assert_close_as_plain(ours, theirs, exact)


def test_float32_parameters_serve_half_precision_and_get_float32_gradients() -> None:
    case = CASES[2]
    (x, *parameters), scale, dy = tensors(case, torch.float32)
    ours = results(case, [x.half(), *parameters], scale, dy, None)
    exact = results(case, [x.half(), *parameters], scale, dy.half(), torch.float64)
    assert [t.dtype for t in ours] == [torch.float16] * 2 + [torch.float32] * 6
    for name, a, b in zip(NAMES, ours, exact, strict=True):
        assert (a.double() - b).abs().max() <= 4e-3 * b.abs().max(), name


def test_a_fixed_order_of_sums_repeats_every_bit_and_atomics_agree() -> None:
    case = Case(5, 16, 130, 20)
    inputs, scale, dy = tensors(case, torch.float16)
    first = results(case, inputs, scale, dy, None)
    again = results(case, inputs, scale, dy, None)
    for a, b in zip(first, again, strict=True):
        assert torch.equal(a, b)
    atomic = results(case._replace(deterministic=False), inputs, scale, dy, None)
    for a, b in zip(first, atomic, strict=True):
        torch.testing.assert_close(a, b)


def test_a_gradient_in_another_layout_is_read_as_it_is() -> None:
    case = Case(2, 10, 12, 8)
    inputs, scale, dy = tensors(case, torch.float32)
    turned = dy.transpose(1, 2).contiguous().transpose(1, 2)
    assert not turned.is_contiguous()
    expected = results(case, inputs, scale, dy, None)
    # The operator copies it into the usual layout, so every bit is the same.
    for a, b in zip(results(case, inputs, scale, turned, None), expected, strict=True):
        assert torch.equal(a, b)


def test_a_dropped_image_passes_unchanged_and_the_others_are_as_if_alone() -> None:
    case = Case(3, 9, 20, 8)
    (x, *weights), _, _ = tensors(case, torch.float32)
    options = (1e-6, True, True)
    scale = torch.tensor([1.0, 0.0, 1.0])
    y, _, _ = ops.token_mix(x, *weights, scale, *options)
    # What is added to it is zero.
    assert torch.equal(y[1], x[1])
    alone, _, _ = ops.token_mix(x[2:], *weights, None, *options)
    torch.testing.assert_close(y[2:], alone, rtol=1e-6, atol=1e-6)


def test_the_statistics_are_those_of_layer_norm() -> None:
    x = torch.randn(3, 5, 37) * 4 + 100
    zeros = [torch.zeros(*size) for size in ((37,), (8, 5), (8,), (5, 8), (5,))]
    weights = [torch.ones(37), *zeros]
    y, mean, rstd = ops.token_mix(x, *weights, None, 1e-6, True, True)
    # The branch is zero.
    assert torch.equal(y, x)
    _, expected_mean, expected_rstd = torch.native_layer_norm(
        x.double(), (37,), None, None, 1e-6
    )
    torch.testing.assert_close(mean.double(), expected_mean[..., 0], rtol=1e-6, atol=0)
    torch.testing.assert_close(rstd.double(), expected_rstd[..., 0], rtol=1e-6, atol=0)


# The warning is of torch's own checker.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
@pytest.mark.parametrize("scaled", [False, True])
def test_torch_finds_the_operators_well_behaved(scaled: bool) -> None:
    """Its checks: schema, autograd, fake tensors, and AOT dispatch for any shapes."""
    inputs, scale, dy = tensors(Case(2, 5, 7, 6, scaled=scaled), torch.float32)
    leaves = [t.requires_grad_() for t in inputs]
    torch.library.opcheck(ops.token_mix, (*leaves, scale, 1e-6, True, True))
    x, gamma, beta, w1, b1, w2, _ = (t.detach() for t in inputs)
    statistics = torch.zeros(2, 5), torch.ones(2, 5)
    given = (dy, x, *statistics, gamma, beta, w1, b1, w2, scale, True, True)
    for weights in (True, False):
        torch.library.opcheck(ops.token_mix_backward, (*given, weights))


@pytest.mark.parametrize(
    "wanted",
    [("x",), ("x", "gamma", "beta"), ("x", "b1"), ("gamma", "b2"), ("w1", "w2")],
    ids=str,
)
def test_frozen_weights_cost_no_kernels_and_change_no_other_gradient(
    wanted: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs, scale, dy = tensors(Case(3, 9, 20, 8, scaled=True), torch.float32)
    every = dict(zip(NAMES[1:], inputs, strict=True))
    options = (1e-6, True, True)
    launched: list[str] = []
    real = launch._run

    def noted(kernel: Any, *given: Any, **constants: Any) -> None:
        launched.append(kernel.fn.__name__)
        real(kernel, *given, **constants)

    def grads(names: Iterable[str]) -> list[Tensor]:
        launched.clear()
        leaves = {
            name: tensor.detach().requires_grad_(name in names)
            for name, tensor in every.items()
        }
        y, _, _ = ops.token_mix(*leaves.values(), scale, *options)
        return list(torch.autograd.grad(y, [leaves[name] for name in names], dy))

    everything = dict(zip(every, grads(every), strict=True))
    monkeypatch.setattr(launch, "_run", noted)
    for name, grad in zip(wanted, grads(wanted), strict=True):
        # The same sums in the same order.
        assert torch.equal(grad, everything[name]), name
    summed = 2 if {"w1", "b1", "w2"} & set(wanted) else 0
    assert launched.count("weight_gradient") == summed


@pytest.mark.parametrize("tanh", [True, False], ids=["tanh", "erf"])
def test_the_quick_gelu_of_bf16_is_the_plain_one_within_a_ninth_of_its_rounding(
    tanh: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All but the instruction itself, in float32.

    Over all inputs: the first weights are zero, and the biases are what GELU sees.
    """
    D = 225
    # Past 11 the polynomial of the erf form turns back; far out NumPy warns of the exp
    # in the plain tanh form.
    most = 9 if tanh else 14
    b1 = torch.linspace(-most, most, D)
    w2 = torch.eye(D)
    x = torch.randn(1, D, 1)
    zeros = [torch.zeros(*size) for size in ((1,), (1,), (D, D), (D,))]
    gamma, beta, w1, b2 = zeros
    dy = torch.ones_like(x)

    def both() -> tuple[Tensor, Tensor]:
        leaf = b1.clone().requires_grad_()
        given = (x, gamma, beta, w1, leaf, w2, b2, None, 1e-6, tanh, True)
        y, _, _ = ops.token_mix(*given)
        return y.detach() - x, torch.autograd.grad(y, leaf, dy)[0]

    plainly = both()
    real = launch._gelu
    quick = {"QUICK": True}
    monkeypatch.setattr(launch, "_gelu", lambda *given: real(*given) | quick)
    seen = both()
    # 2^-9 is half a step of bf16 just below 1; the slopes are kept in bf16 too.
    for found, expected, within in zip(seen, plainly, (4e-5, 2e-4), strict=True):
        assert (found - expected).abs().max() <= within
        assert found.isfinite().all()


def test_a_demand_for_a_fixed_order_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs, scale, dy = tensors(Case(2, 5, 7, 6), torch.float32)
    atomic: list[bool] = []
    real = launch._run

    def noted(*given: Any, **constants: Any) -> None:
        atomic.extend(constants[key] for key in constants if key == "ATOMIC")
        real(*given, **constants)

    monkeypatch.setattr(launch, "_run", noted)
    case = Case(2, 5, 7, 6, deterministic=False)
    for demanded in (False, True):
        torch.use_deterministic_algorithms(demanded)
        try:
            results(case, inputs, scale, dy, None)
        finally:
            torch.use_deterministic_algorithms(False)
    assert atomic == [True, True, False, False]
