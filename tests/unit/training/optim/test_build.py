"""Which parameters decay, how fast each learns, and what the average of weights is."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import Optimizer

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


def by_name(optimizer: Optimizer, model: nn.Module, key: str) -> dict[str, Any]:
    """A field of the group of each parameter, by the parameter's name."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            found[names[id(parameter)]] = group[key]
    return found


def names_in(group: dict[str, Any], model: nn.Module) -> set[str]:
    own = {id(parameter) for parameter in group["params"]}
    return {name for name, p in model.named_parameters() if id(p) in own}


def of_groups(optimizer: Optimizer, key: str) -> list[Any]:
    return [group[key] for group in optimizer.param_groups]


def random_gradients(model: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(
            parameter.shape, generator=generator, dtype=parameter.dtype
        )


@pytest.mark.parametrize("name", ["adamw", "sgd", "lion", "lamb"])
def test_kernels_decay_and_the_rest_does_not(model: nn.Module, name: Any) -> None:
    optimizer = build_optimizer(model, OptimChoice(name=name, weight_decay=0.3))
    decayed, spared = optimizer.param_groups
    names = {name for name, _ in model.named_parameters()}
    kernels = {n for n in names if n.endswith("weight") and "norm" not in n}
    assert names_in(decayed, model) == kernels
    assert names_in(spared, model) == names - kernels
    assert of_groups(optimizer, "weight_decay") == [0.3, 0.0]
    set_lr(optimizer, 0.5)
    assert of_groups(optimizer, "lr") == [0.5, 0.5]


def test_muon_takes_the_kernels_of_the_blocks(model: nn.Module) -> None:
    choice = OptimChoice(name="muon", lr=0.02, weight_decay=0.3, muon_adamw_lr=0.25)
    optimizer = build_optimizer(model, choice)
    matrices, kernels, rest = optimizer.param_groups
    assert names_in(matrices, model) == {
        "blocks.0.mlp_tokens.fc1.weight",
        "blocks.0.mlp_tokens.fc2.weight",
        "blocks.0.mlp_channels.fc1.weight",
        "blocks.0.mlp_channels.fc2.weight",
    }
    assert names_in(kernels, model) == {"stem.proj.weight", "head.weight"}
    assert all(parameter.ndim == 1 for parameter in rest["params"])
    counts = [len(params) for params in of_groups(optimizer, "params")]
    assert sum(counts) == len(list(model.parameters()))
    assert of_groups(optimizer, "matrices") == [True, False, False]
    assert of_groups(optimizer, "weight_decay") == [0.3, 0.3, 0.0]
    assert of_groups(optimizer, "lr") == [0.02, 0.005, 0.005]
    set_lr(optimizer, 0.4)
    assert of_groups(optimizer, "lr") == [0.4, 0.1, 0.1]


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (
            OptimChoice(name="lion", betas=(0.1, 0.2), lion_betas=(0.3, 0.4)),
            {"betas": (0.3, 0.4)},
        ),
        (
            OptimChoice(name="sgd", momentum_dtype="bf16", momentum=0.3, nesterov=True),
            {"dtype": torch.bfloat16, "momentum": 0.3, "nesterov": True},
        ),
        (
            OptimChoice(
                name="muon",
                betas=(0.1, 0.2),
                muon_momentum=0.3,
                muon_nesterov=False,
                muon_ns_steps=4,
                muon_ns_dtype="fp32",
                muon_adjust_lr="original",
                # Of sgd.
                nesterov=True,
            ),
            {
                "betas": (0.1, 0.2),
                "momentum": 0.3,
                "nesterov": False,
                "ns_steps": 4,
                "dtype": torch.float32,
                "adjust_lr": "original",
            },
        ),
        (OptimChoice(name="muon"), {"adjust_lr": "match_rms_adamw"}),
    ],
    ids=["lion", "sgd-bf16", "muon", "muon's default"],
)
def test_every_setting_arrives(
    model: nn.Module, choice: OptimChoice, expected: dict[str, Any]
) -> None:
    for group in build_optimizer(model, choice).param_groups:
        assert {key: group[key] for key in expected} == expected


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_the_optimisers_of_before_keep_their_bits(model: nn.Module, name: Any) -> None:
    """A run with the earlier settings does what it did before there were others."""
    twin = copy.deepcopy(model)
    parameters = list(twin.parameters())
    kernels = [parameter for parameter in parameters if parameter.ndim >= 2]
    others = [parameter for parameter in parameters if parameter.ndim < 2]
    groups = [
        {"params": kernels, "weight_decay": 0.05},
        {"params": others, "weight_decay": 0.0},
    ]
    earlier: Optimizer
    if name == "sgd":
        earlier = torch.optim.SGD(groups, lr=1e-3, momentum=0.9, nesterov=False)
    else:
        earlier = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.999), fused=True)
    optimizer = build_optimizer(model, OptimChoice(name=name))
    for step in range(5):
        for network, each in ((model, optimizer), (twin, earlier)):
            random_gradients(network, step)
            set_lr(each, 1e-2 / (step + 1))
            each.step()
    for one, other in zip(model.parameters(), parameters, strict=True):
        assert torch.equal(one, other)
    # A saved state numbers the parameters in this order.
    shapes = []
    for params in of_groups(optimizer, "params"):
        shapes.append([parameter.shape for parameter in params])
    assert shapes == [[p.shape for p in kernels], [p.shape for p in others]]


@pytest.mark.parametrize("name", ["adamw", "sgd", "lion", "lamb", "muon"])
def test_layer_decay_is_timms(name: Any) -> None:
    import timm
    from timm.optim import param_groups_layer_decay

    theirs = timm.create_model("mixer_s32_224", num_classes=5)
    groups: list[dict[str, Any]] = param_groups_layer_decay(
        theirs, weight_decay=0.3, layer_decay=0.7
    )
    names = {id(parameter): name for name, parameter in theirs.named_parameters()}
    rates = {}
    decays = {}
    for group in groups:
        for parameter in group["params"]:
            rates[names[id(parameter)]] = 0.5 * group["lr_scale"]
            decays[names[id(parameter)]] = group["weight_decay"]

    ours = create_model("mixer_s32", num_classes=5)
    choice = OptimChoice(name=name, lr=0.5, weight_decay=0.3, layer_decay=0.7)
    optimizer = build_optimizer(ours, choice)
    found = by_name(optimizer, ours, "lr")
    assert found == pytest.approx(rates)
    assert found["stem.proj.weight"] == pytest.approx(0.5 * 0.7**9)
    assert found["head.weight"] == 0.5
    assert by_name(optimizer, ours, "weight_decay") == decays


def test_layer_decay_counts_frozen_layers(model: nn.Module) -> None:
    model.get_submodule("head").requires_grad_(False)
    optimizer = build_optimizer(model, OptimChoice(lr=1.0, layer_decay=0.5))
    found = by_name(optimizer, model, "lr")
    assert found["blocks.0.norm1.weight"] == 0.5
    assert "head.weight" not in found


def test_layer_decay_and_muon_need_names(model: nn.Module) -> None:
    wrapped = nn.Sequential(model)
    assert build_optimizer(wrapped, OptimChoice()).param_groups
    for choice in (OptimChoice(layer_decay=0.5), OptimChoice(name="muon")):
        with pytest.raises(AssertionError, match="before it is wrapped"):
            build_optimizer(wrapped, choice)


def test_big_visions_decay_is_torchs_divided_by_the_learning_rate() -> None:
    """Its chain, written out: clip, Adam, times lr, plus wd * kernel, times schedule.

    The run is that of mlp_mixer_i1k.py, shortened.
    """
    # The paper's Table 4.
    assert decay_of_big_vision(1e-4, 1e-3) == pytest.approx(0.1)
    assert decay_of_big_vision(1e-3, 3e-3) == pytest.approx(1 / 3)
    lr = 1e-3
    wd = 1e-4
    total = 40
    warmup = 10
    final = 1e-5
    layers = {
        "kernel": nn.Linear(3, 2, bias=False),
        "norm": nn.LayerNorm(2, bias=False),
    }
    model = nn.ModuleDict(layers).double()
    weights = [parameter.detach().numpy().copy() for parameter in model.parameters()]
    first = [np.zeros_like(w) for w in weights]
    second = [np.zeros_like(w) for w in weights]
    choice = OptimChoice(lr=lr, weight_decay=decay_of_big_vision(wd, lr))
    optimizer = build_optimizer(model, choice)
    schedule = ScheduleChoice(decay="linear", final=final, warmup_from="zero")
    for step in range(total):
        random_gradients(model, step)
        set_lr(optimizer, lr * lr_factor(step, total, warmup, schedule))
        optimizer.step()

        progress = max(0.0, (step - warmup) / (total - warmup))
        factor = final + (1 - final) * (1 - progress)
        factor *= min(1.0, step / warmup)
        for i, parameter in enumerate(model.parameters()):
            assert parameter.grad is not None
            gradient = parameter.grad.numpy()
            first[i] = 0.9 * first[i] + 0.1 * gradient
            second[i] = 0.999 * second[i] + 0.001 * gradient**2
            mean = first[i] / (1 - 0.9 ** (step + 1))
            square = second[i] / (1 - 0.999 ** (step + 1))
            update = lr * mean / (np.sqrt(square) + 1e-8)
            if weights[i].ndim > 1:
                update = update + wd * weights[i]
            weights[i] = weights[i] - factor * update
            found = parameter.detach().numpy()
            np.testing.assert_allclose(found, weights[i], rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["name=adam"], "optim.name"),
        (["layer_decay=0"], "optim.layer_decay must be above 0 and at most 1"),
        (["layer_decay=1.1"], "optim.layer_decay must be above 0 and at most 1"),
        (["lion_betas=0.9,1"], "optim.lion_betas must be at least 0 and below 1"),
        (["muon_momentum=1"], "optim.muon_momentum must be at least 0 and below 1"),
        (["muon_ns_steps=0"], "optim.muon_ns_steps must be at least 1"),
        (["muon_adamw_lr=0"], "optim.muon_adamw_lr must be above 0"),
        (["rho=-1"], "optim.rho must be at least 0"),
        (["rho_min=-1"], "optim.rho_min must be at least 0"),
        (["alpha=-1"], "optim.alpha must be at least 0"),
        (["sam_images=0"], "optim.sam_images must be above 0"),
        (["momentum=0", "nesterov=true"], "optim.nesterov needs a momentum"),
    ],
)
def test_settings_that_cannot_be(settings: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        override(TrainConfig(), [f"optim.{setting}" for setting in settings])


def test_the_average_follows_its_formula(model: nn.Module) -> None:
    average = copy.deepcopy(model)
    ema = Ema(model, average, decay=0.9)
    bias = model.get_parameter("head.bias").data
    expected = bias.clone()
    for step in range(30):
        bias.fill_(float(step))
        ema.update(step)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
    found = average.get_parameter("head.bias").data
    torch.testing.assert_close(found, expected)
    assert bias[0] == 29, "the model itself is untouched"
