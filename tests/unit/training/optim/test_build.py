"""Which parameters decay and how fast each learns, and what the average of the weights
is.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from mlp_mixer import UserError
from mlp_mixer.config import override
from mlp_mixer.models import create_model
from mlp_mixer.training.config import OptimChoice, ScheduleChoice, TrainConfig
from mlp_mixer.training.optim.build import (
    Ema,
    build_optimizer,
    decay_of_big_vision,
    set_lr,
)
from mlp_mixer.training.optim.schedule import lr_factor


@pytest.fixture
def model() -> nn.Module:
    return create_model("mixer_pico2", num_classes=3, in_channels=1, num_blocks=1)


def rates(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, float]:
    """The learning rate of each parameter by name."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        names[id(p)]: group["lr"]
        for group in optimizer.param_groups
        for p in group["params"]
    }


def random_gradients(model: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(
            parameter.shape, generator=generator, dtype=parameter.dtype
        )


@pytest.mark.parametrize("name", ["adamw", "sgd", "lion"])
def test_kernels_decay_and_the_rest_does_not(model: nn.Module, name: str) -> None:
    optimizer = build_optimizer(model, OptimChoice(name=name, weight_decay=0.3))  # type: ignore[arg-type]
    decayed, spared = (
        {id(p) for p in group["params"]} for group in optimizer.param_groups
    )
    names = dict(model.named_parameters())
    assert {n for n, p in names.items() if id(p) in decayed} == {
        n for n in names if n.endswith("weight") and "norm" not in n
    }
    assert decayed | spared == {id(p) for p in names.values()}
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.3, 0.0]
    set_lr(optimizer, 0.5)
    assert {group["lr"] for group in optimizer.param_groups} == {0.5}


def test_muon_takes_the_kernels_of_the_blocks(model: nn.Module) -> None:
    choice = OptimChoice(name="muon", lr=0.02, weight_decay=0.3, muon_adamw_lr=0.25)
    optimizer = build_optimizer(model, choice)
    matrices, kernels, rest = optimizer.param_groups
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert {names[id(p)] for p in matrices["params"]} == {
        f"blocks.0.{mlp}.{layer}.weight"
        for mlp in ("mlp_tokens", "mlp_channels")
        for layer in ("fc1", "fc2")
    }
    assert {names[id(p)] for p in kernels["params"]} == {
        "stem.proj.weight",
        "head.weight",
    }
    assert [group["matrices"] for group in optimizer.param_groups] == [
        True,
        False,
        False,
    ]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [
        0.3,
        0.3,
        0.0,
    ]
    assert [group["lr"] for group in optimizer.param_groups] == [0.02, 0.005, 0.005]
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(names)
    assert all(p.ndim == 1 for p in rest["params"])
    set_lr(optimizer, 0.4)
    assert [group["lr"] for group in optimizer.param_groups] == [0.4, 0.1, 0.1]


def test_every_setting_arrives(model: nn.Module) -> None:
    lion = build_optimizer(
        model, OptimChoice(name="lion", betas=(0.1, 0.2), lion_betas=(0.3, 0.4))
    )
    assert all(group["betas"] == (0.3, 0.4) for group in lion.param_groups)
    sgd = build_optimizer(
        model,
        OptimChoice(name="sgd", momentum_dtype="bf16", momentum=0.3, nesterov=True),
    )
    assert all(
        (g["dtype"], g["momentum"], g["nesterov"]) == (torch.bfloat16, 0.3, True)
        for g in sgd.param_groups
    )
    choice = OptimChoice(
        name="muon", betas=(0.1, 0.2), muon_momentum=0.3, muon_nesterov=False, muon_ns_steps=4, muon_ns_dtype="fp32",
        muon_adjust_lr="original", nesterov=True,
    )  # fmt: skip
    expected = {
        "betas": (0.1, 0.2),
        "momentum": 0.3,
        "nesterov": False,
        "ns_steps": 4,
        "dtype": torch.float32,
    }
    for group in build_optimizer(model, choice).param_groups:
        assert {key: group[key] for key in expected} == expected
        assert group["adjust_lr"] == "original"
    assert (
        build_optimizer(model, OptimChoice(name="muon")).param_groups[0]["adjust_lr"]
        == "match_rms_adamw"
    )


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_the_optimisers_of_before_keep_their_bits(model: nn.Module, name: str) -> None:
    """A run with the earlier settings does what it did before there were others."""
    twin = copy.deepcopy(model)
    parameters = list(twin.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": 0.05},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    earlier: torch.optim.Optimizer
    if name == "sgd":
        earlier = torch.optim.SGD(groups, lr=1e-3, momentum=0.9, nesterov=False)
    else:
        earlier = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.999), fused=True)
    optimizer = build_optimizer(model, OptimChoice(name=name))  # type: ignore[arg-type]
    for step in range(5):
        for network, each in ((model, optimizer), (twin, earlier)):
            random_gradients(network, step)
            for group in each.param_groups:
                group["lr"] = 0.0
            set_lr(each, 1e-2 / (step + 1))
            each.step()
    assert all(
        torch.equal(a, b) for a, b in zip(model.parameters(), parameters, strict=True)
    )
    indices = [
        (tuple(p.shape) for p in group["params"]) for group in optimizer.param_groups
    ]
    assert list(map(list, indices)) == [
        [tuple(p.shape) for p in group["params"]] for group in groups
    ]  # type: ignore


@pytest.mark.parametrize("name", ["adamw", "sgd", "lion", "muon"])
def test_layer_decay_is_timms(name: str) -> None:
    import timm
    from timm.optim import param_groups_layer_decay

    theirs = timm.create_model("mixer_s32_224", num_classes=5)
    names = {id(parameter): name for name, parameter in theirs.named_parameters()}
    groups: list[dict[str, Any]] = param_groups_layer_decay(
        theirs, weight_decay=0.3, layer_decay=0.7
    )
    expected = {
        names[id(p)]: (group["lr_scale"], group["weight_decay"])
        for group in groups
        for p in group["params"]
    }

    ours = create_model("mixer_s32", num_classes=5)
    optimizer = build_optimizer(
        ours, OptimChoice(name=name, lr=0.5, weight_decay=0.3, layer_decay=0.7)
    )  # type: ignore[arg-type]
    found = rates(optimizer, ours)
    assert found == pytest.approx(
        {name: 0.5 * scale for name, (scale, _) in expected.items()}
    )
    assert found["stem.proj.weight"] == pytest.approx(0.5 * 0.7**9)
    assert found["head.weight"] == 0.5
    own = {id(parameter): name for name, parameter in ours.named_parameters()}
    decays = {
        own[id(p)]: group["weight_decay"]
        for group in optimizer.param_groups
        for p in group["params"]
    }
    assert decays == {name: decay for name, (_, decay) in expected.items()}


def test_layer_decay_counts_frozen_layers_and_needs_their_names(
    model: nn.Module,
) -> None:
    model.head.requires_grad_(False)
    found = rates(build_optimizer(model, OptimChoice(lr=1.0, layer_decay=0.5)), model)
    assert found["blocks.0.norm1.weight"] == 0.5
    assert "head.weight" not in found
    wrapped = nn.Sequential(model)
    assert build_optimizer(
        wrapped, OptimChoice()
    ).param_groups  # without layer decay, names do not matter
    with pytest.raises(AssertionError, match="before it is wrapped"):
        build_optimizer(wrapped, OptimChoice(layer_decay=0.5))
    with pytest.raises(AssertionError, match="before it is wrapped"):
        build_optimizer(wrapped, OptimChoice(name="muon"))


def test_big_visions_decay_is_torchs_divided_by_the_learning_rate() -> None:
    """Its chain, written out: clip, Adam, times lr, plus wd * kernel, times schedule.
    mlp_mixer_i1k.py, shortened.
    """
    assert decay_of_big_vision(1e-4, 1e-3) == pytest.approx(0.1)  # the paper's Table 4
    assert decay_of_big_vision(1e-3, 3e-3) == pytest.approx(1 / 3)
    lr = 1e-3
    wd = 1e-4
    total = 40
    warmup = 10
    model = nn.ModuleDict(
        {"kernel": nn.Linear(3, 2, bias=False), "norm": nn.LayerNorm(2, bias=False)}
    ).double()
    weights = [parameter.detach().numpy().copy() for parameter in model.parameters()]
    first = [np.zeros_like(w) for w in weights]
    second = [np.zeros_like(w) for w in weights]
    optimizer = build_optimizer(
        model, OptimChoice(lr=lr, weight_decay=decay_of_big_vision(wd, lr))
    )
    schedule = ScheduleChoice(decay="linear", final=1e-5, warmup_from="zero")
    for step in range(total):
        random_gradients(model, step)
        set_lr(optimizer, lr * lr_factor(step, total, warmup, schedule))
        optimizer.step()

        progress = max(0.0, (step - warmup) / (total - warmup))
        factor = (1e-5 + (1 - 1e-5) * (1 - progress)) * min(1.0, step / warmup)
        for i, parameter in enumerate(model.parameters()):
            assert parameter.grad is not None
            gradient = parameter.grad.numpy()
            first[i] = 0.9 * first[i] + 0.1 * gradient
            second[i] = 0.999 * second[i] + 0.001 * gradient**2
            update = (
                first[i]
                / (1 - 0.9 ** (step + 1))
                / (np.sqrt(second[i] / (1 - 0.999 ** (step + 1))) + 1e-8)
            )
            update = update * lr + (wd * weights[i] if weights[i].ndim > 1 else 0)
            weights[i] = weights[i] - factor * update
            np.testing.assert_allclose(
                parameter.detach().numpy(), weights[i], rtol=1e-12, atol=1e-15
            )


def test_settings_that_cannot_be() -> None:
    for settings, message in {
        ("optim.name=adam",): "optim.name",
        ("optim.layer_decay=0",): "optim.layer_decay must be above 0 and at most 1",
        ("optim.layer_decay=1.1",): "optim.layer_decay must be above 0 and at most 1",
        ("optim.lion_betas=0.9,1",): "optim.lion_betas must be at least 0 and below 1",
        (
            "optim.muon_momentum=1",
        ): "optim.muon_momentum must be at least 0 and below 1",
        ("optim.muon_ns_steps=0",): "optim.muon_ns_steps must be at least 1",
        ("optim.muon_adamw_lr=0",): "optim.muon_adamw_lr must be above 0",
        ("optim.rho=-1",): "optim.rho must be at least 0",
        ("optim.rho_min=-1",): "optim.rho_min must be at least 0",
        ("optim.alpha=-1",): "optim.alpha must be at least 0",
        ("optim.sam_images=0",): "optim.sam_images must be above 0",
        ("optim.momentum=0", "optim.nesterov=true"): "optim.nesterov needs a momentum",
    }.items():
        with pytest.raises(UserError, match=message):
            override(TrainConfig(), settings)


def test_the_average_follows_its_formula(model: nn.Module) -> None:
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
