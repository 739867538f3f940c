"""LAMB against its formula, timm's, Adam, and its own lengths."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Adam

from mlp_mixer.training.optim.lamb import Lamb


def parameters(*shapes: tuple[int, ...]) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes]
    return [nn.Parameter(tensor) for tensor in drawn]


def gradients(own: list[nn.Parameter], step: int) -> None:
    generator = torch.Generator().manual_seed(step)
    for parameter in own:
        parameter.grad = torch.randn(
            parameter.shape, generator=generator, dtype=parameter.dtype
        )


def moved(
    optimizer: torch.optim.Optimizer, own: list[nn.Parameter], steps: int
) -> None:
    for step in range(steps):
        gradients(own, step)
        optimizer.step()


def test_one_step_number_by_number() -> None:
    """After the first step Adam's direction is the sign of the gradient, almost."""
    weight = nn.Parameter(torch.tensor([3.0, 4.0], dtype=torch.float64))
    weight.grad = torch.tensor([2.0, -0.5], dtype=torch.float64)
    Lamb([{"params": [weight]}], lr=0.1, weight_decay=0.5).step()
    direction = [2 / (2 + 1e-6) + 1.5, -0.5 / (0.5 + 1e-6) + 2.0]
    length = math.hypot(*direction)
    expected = [
        3 - 0.1 * 5 / length * direction[0],
        4 - 0.1 * 5 / length * direction[1],
    ]
    assert weight.tolist() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("decay", [0.2, 0.02, 0.0])
def test_it_is_timms(decay: float) -> None:
    from timm.optim import Lamb as Theirs

    ours = parameters((5, 3), (4,), (2, 3, 3))
    theirs = parameters((5, 3), (4,), (2, 3, 3))
    # timm's clips by itself; here the loop does.
    original = Theirs(theirs, lr=0.01, weight_decay=decay, max_grad_norm=None)
    moved(original, theirs, 30)
    groups = [{"params": ours}]
    moved(Lamb(groups, lr=0.01, weight_decay=decay), ours, 30)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-12)


def test_without_decay_it_is_adam() -> None:
    ours = parameters((5, 3), (4,))
    theirs = parameters((5, 3), (4,))
    moved(Adam(theirs, lr=0.01, eps=1e-6), theirs, 20)
    moved(Lamb([{"params": ours}], lr=0.01), ours, 20)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_a_step_is_as_long_as_the_parameter_times_lr(scale: float) -> None:
    (weight,) = parameters((6, 5))
    with torch.no_grad():
        weight.mul_(scale)
    before: Tensor = weight.detach().clone()
    optimizer = Lamb([{"params": [weight]}], lr=0.01, weight_decay=0.02)
    moved(optimizer, [weight], 1)
    step = (weight.detach() - before).norm()
    assert (step / before.norm()).item() == pytest.approx(0.01, rel=1e-9)


def test_a_head_of_zeros_moves() -> None:
    """Its length is 0: the ratio is 1 then, as in timm."""
    weight = nn.Parameter(torch.zeros(3, 2))
    optimizer = Lamb([{"params": [weight]}], lr=0.01, weight_decay=0.1)
    moved(optimizer, [weight], 1)
    assert weight.detach().abs().flatten().tolist() == pytest.approx(
        6 * [0.01], rel=1e-3
    )
    # Nothing to divide by: neither length is above 0.
    still = nn.Parameter(torch.zeros(2))
    still.grad = torch.zeros(2)
    Lamb([{"params": [still]}], lr=0.01, weight_decay=0.1).step()
    assert still.tolist() == [0.0, 0.0]
