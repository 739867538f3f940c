"""Which parameters decay, and what the average of the weights is."""

from __future__ import annotations

import copy

import pytest
import torch

from mlp_mixer.models import create_model
from mlp_mixer.train.config import OptimChoice
from mlp_mixer.train.optim import Ema, build_optimizer, set_lr


@pytest.fixture
def model() -> torch.nn.Module:
    return create_model("mixer_pico2", num_classes=3, in_channels=1, num_blocks=1)


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_kernels_decay_and_the_rest_does_not(model: torch.nn.Module, name: str) -> None:
    optimizer = build_optimizer(model, OptimChoice(name=name, weight_decay=0.3))  # type: ignore[arg-type]
    decayed, spared = ({id(p) for p in group["params"]} for group in optimizer.param_groups)
    names = dict(model.named_parameters())
    assert {n for n, p in names.items() if id(p) in decayed} == {
        n for n in names if n.endswith("weight") and "norm" not in n
    }
    assert decayed | spared == {id(p) for p in names.values()}
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.3, 0.0]
    set_lr(optimizer, 0.5)
    assert {group["lr"] for group in optimizer.param_groups} == {0.5}


def test_the_average_follows_its_formula(model: torch.nn.Module) -> None:
    average = copy.deepcopy(model)
    ema = Ema(model, average, decay=0.9)
    expected = model.head.bias.detach().clone()
    for step in range(30):
        with torch.no_grad():
            model.head.bias.copy_(torch.full((3,), float(step)))
        ema.update(step)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
    torch.testing.assert_close(average.head.bias.detach(), expected)
    assert model.head.bias[0] == 29  # the model itself is untouched
