"""Costs by formula against torch's counter, hooks, autograd and published tables."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mlp_mixer.errors import UserError
from mlp_mixer.models import ALL_VARIANTS, VARIANTS, MixerConfig, MlpMixer, cost
from mlp_mixer.models.cost import _watch as watch_whole

# Parameters without and with the head, then giga-MACs, the same as mmpretrain counts,
# and as fvcore counts.
TABLE = {
    "mixer_s32": (18_591_624, 19_104_624, "1.0024", "1.0028", "1.0046"),
    "mixer_s16": (18_015_264, 18_528_264, "3.7770", "3.7801", "3.7855"),
    "mixer_b32": (59_524_428, 60_293_428, "3.2377", "3.2389", "3.2424"),
    "mixer_b16": (59_111_472, 59_880_472, "12.6018", "12.6088", "12.6206"),
    "mixer_l32": (205_914_264, 206_939_264, "11.2533", "11.2573", "11.2656"),
    "mixer_l16": (207_171_168, 208_196_168, "44.5477", "44.5667", "44.5969"),
    "mixer_h14": (431_069_952, 432_350_952, "120.9899", "121.0319", "121.0964"),
}

# No two axes have the same length: 6 tokens, 20 channels.
SMALL = dataclasses.replace(
    VARIANTS["mixer_nano4"],
    image_size=(8, 12),
    num_classes=5,
    num_blocks=2,
    hidden_dim=20,
    tokens_mlp_dim=10,
    channels_mlp_dim=28,
)
ODD_ONES = {
    "plain": SMALL,
    "gray": dataclasses.replace(SMALL, in_channels=1),
    "no head": dataclasses.replace(SMALL, num_classes=0),
    "no final norm": dataclasses.replace(SMALL, final_norm=False),
    "dropout": dataclasses.replace(SMALL, dropout=0.1),
    "bare": dataclasses.replace(SMALL, num_classes=0, final_norm=False),
    "all": dataclasses.replace(
        SMALL, num_blocks=3, dropout=0.5, gelu="erf", in_channels=4
    ),
    "one patch": dataclasses.replace(SMALL, image_size=(4, 4)),
}

odd_ones = pytest.mark.parametrize("config", ODD_ONES.values(), ids=ODD_ONES)
ALL = ODD_ONES | VARIANTS


def numbers_of(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("name", TABLE)
def test_published_numbers(name):
    counted = cost(name)
    conventions = (counted.gmacs, counted.gmacs_mmpretrain, counted.gmacs_fvcore)
    printed = [f"{number:.4f}" for number in conventions]
    params = (counted.params_without_head, counted.params)
    assert (*params, *printed) == TABLE[name]


@pytest.mark.parametrize(
    ("name", "mmpretrain", "fvcore"),
    [("b16", "12.61", "12.62"), ("l16", "44.57", "44.60")],
)
def test_as_the_others_print_it(name, mmpretrain, fvcore):
    counted = cost(f"mixer_{name}")
    assert f"{counted.gmacs_mmpretrain:.2f}" == mmpretrain
    assert f"{counted.gmacs_fvcore:.2f}" == fvcore


@pytest.mark.parametrize("config", ALL.values(), ids=ALL)
def test_parameters_are_the_module_s(config):
    with torch.device("meta"):
        model = MlpMixer(config)
    counted = cost(config)
    assert counted.params == numbers_of(model)
    assert counted.params_without_head == counted.params - numbers_of(model.head)


@odd_ones
def test_macs_are_what_torch_counts(config):
    model = MlpMixer(config)
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(3, config.in_channels, *config.image_size))
    assert cost(config).macs == counter.get_total_flops() / 2 / 3
    assert cost(config).gmacs == cost(config).macs / 1e9


@odd_ones
def test_norms_stem_bias_and_pool_are_what_hooks_see(config):
    """mmpretrain counts 2 per norm element and leaves out the head, fvcore counts 5."""
    seen: list[int] = []

    def count(module: nn.Module, inputs: object, output: Tensor) -> None:
        seen.append(output[0].numel())

    model = MlpMixer(config)
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            module.register_forward_hook(count)
    image = torch.zeros(1, config.in_channels, *config.image_size)
    tokens = model.forward_features(image).numel()
    counted = cost(config)
    fvcore = counted.macs + 5 * sum(seen)
    assert counted.gmacs_fvcore * 1e9 == pytest.approx(fvcore, rel=1e-12)
    head = config.num_classes * config.hidden_dim
    mmpretrain = counted.macs - head + 2 * sum(seen) + 2 * tokens
    assert counted.gmacs_mmpretrain * 1e9 == pytest.approx(mmpretrain, rel=1e-12)


@odd_ones
@pytest.mark.parametrize("batch", [1, 3])
def test_activations_are_what_autograd_keeps(config, batch):
    model = MlpMixer(config)
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    # By storage: two views of one count once.
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage().data_ptr()
        if storage not in weights:
            kept[storage] = tensor
        return tensor

    image = torch.randn(batch, config.in_channels, *config.image_size)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        # The name keeps the graph alive: no storage is freed and its address used again.
        logits = model(image)
    held = sum(tensor.numel() for tensor in kept.values())
    del logits
    counted = cost(config)
    assert held == batch * counted.activations
    assert counted.activation_bytes() == 4 * counted.activations
    assert counted.activation_bytes(2) == 2 * counted.activations


def test_by_name_configuration_and_model():
    with torch.device("meta"):
        model = MlpMixer(VARIANTS["mixer_nano4"])
    assert cost("mixer_nano4") == cost(VARIANTS["mixer_nano4"]) == cost(model)


@pytest.mark.parametrize(
    ("size", "pair"),
    [(448, (448, 448)), ((448, 224), (448, 224)), (32, (32, 32))],
)
def test_another_image_size_is_another_configuration(size, pair):
    config = dataclasses.replace(VARIANTS["mixer_b16"], image_size=pair)
    assert cost("mixer_b16", size) == cost(config)


def test_every_variant_has_named_parts():
    for name in VARIANTS:
        parts = {part.name: part for part in cost(name).parts}
        assert list(parts) == [
            "stem",
            "norms",
            "token mixing",
            "channel mixing",
            "final norm",
            "head",
        ]
        assert parts["norms"].macs == parts["final norm"].macs == 0
    assert parts["head"].params == 1000 * (VARIANTS[name].hidden_dim + 1)


# Stochastic depth and dropout keep masks; the first block has none of the former.
OTHER_FAMILIES = {
    name: dataclasses.replace(config, dropout=rates, drop_path=rates)
    for name, config in ALL_VARIANTS.items()
    if not isinstance(config, MixerConfig)
    for rates in (0.0, 0.1 * (name.endswith("nano4") or name.startswith("resmlp_12")))
}


@pytest.mark.parametrize("name", OTHER_FAMILIES)
def test_blocks_that_are_alike_are_counted_once(name):
    config = OTHER_FAMILIES[name]
    assert config.num_blocks > 3
    assert cost(config) == watch_whole(config)


def test_refusals():
    message = "unknown model 'mixer_b61'; did you mean 'mixer_b16'"
    with pytest.raises(UserError, match=message):
        cost("mixer_b61")
    message = "230x224 is not divisible .* nearest legal size is 224x224"
    with pytest.raises(UserError, match=message):
        cost("mixer_b16", (230, 224))


def test_predicting_imports_no_triton() -> None:
    """torch's counter of operations brings it along; only other families need that."""
    code = (
        "import sys, mlp_mixer.inference.predictor; sys.exit('triton' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
