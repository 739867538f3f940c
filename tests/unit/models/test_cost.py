import dataclasses

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mlp_mixer.errors import UserError
from mlp_mixer.models import VARIANTS, MixerConfig, MlpMixer, cost

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
SMALL = MixerConfig(4, 2, 20, 10, 28, image_size=(8, 12), num_classes=5)
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


@pytest.mark.parametrize("name", TABLE)
def test_published_numbers(name):
    counted = cost(name)
    conventions = (counted.gmacs, counted.gmacs_mmpretrain, counted.gmacs_fvcore)
    assert (
        counted.params_without_head,
        counted.params,
        *(f"{number:.4f}" for number in conventions),
    ) == TABLE[name]


@pytest.mark.parametrize(
    ("name", "mmpretrain", "fvcore"),
    [("b16", "12.61", "12.62"), ("l16", "44.57", "44.60")],
)
def test_as_the_others_print_it(name, mmpretrain, fvcore):
    counted = cost(f"mixer_{name}")
    assert (f"{counted.gmacs_mmpretrain:.2f}", f"{counted.gmacs_fvcore:.2f}") == (
        mmpretrain,
        fvcore,
    )


@pytest.mark.parametrize(
    "config", (ODD_ONES | VARIANTS).values(), ids=ODD_ONES | VARIANTS
)
def test_parameters_are_the_module_s(config):
    with torch.device("meta"):
        model = MlpMixer(config)
    assert cost(config).params == sum(
        parameter.numel() for parameter in model.parameters()
    )
    head = sum(parameter.numel() for parameter in model.head.parameters())
    assert cost(config).params_without_head == cost(config).params - head


@odd_ones
def test_macs_are_what_torch_counts(config):
    model = MlpMixer(config)
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(3, config.in_channels, *config.image_size))
    assert cost(config).macs == counter.get_total_flops() / 2 / 3
    assert cost(config).gmacs == cost(config).macs / 1e9


@odd_ones
def test_norms_stem_bias_and_pool_are_what_hooks_see(config):
    """The conventions of mmpretrain (2 per norm element, head left out) and fvcore (5)
    on the running module.
    """
    seen = {"norm": 0}

    def count(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        seen["norm"] += output[0].numel()

    model = MlpMixer(config)
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            module.register_forward_hook(count)
    tokens = model.forward_features(
        torch.zeros(1, config.in_channels, *config.image_size)
    ).numel()
    counted = cost(config)
    head = config.num_classes * config.hidden_dim
    assert counted.gmacs_fvcore * 1e9 == pytest.approx(
        counted.macs + 5 * seen["norm"], rel=1e-12
    )
    without_head = counted.macs - head + 2 * seen["norm"]
    assert counted.gmacs_mmpretrain * 1e9 == pytest.approx(
        without_head + 2 * tokens, rel=1e-12
    )


@odd_ones
@pytest.mark.parametrize("batch", [1, 3])
def test_activations_are_what_autograd_keeps(config, batch):
    model = MlpMixer(config)
    parameters = {
        parameter.untyped_storage().data_ptr() for parameter in model.parameters()
    }
    kept: dict[int, Tensor] = {}  # by storage: two views of one count once

    def keep(tensor: Tensor) -> Tensor:
        if (storage := tensor.untyped_storage().data_ptr()) not in parameters:
            kept[storage] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        logits = model(torch.randn(batch, config.in_channels, *config.image_size))
    del (
        logits
    )  # alive until here, so that no storage was freed and its address used again
    assert (
        sum(tensor.numel() for tensor in kept.values())
        == batch * cost(config).activations
    )
    assert cost(config).activation_bytes() == 4 * cost(config).activations
    assert cost(config).activation_bytes(2) == 2 * cost(config).activations


def test_by_name_configuration_and_model():
    with torch.device("meta"):
        model = MlpMixer(VARIANTS["mixer_nano4"])
    assert cost("mixer_nano4") == cost(VARIANTS["mixer_nano4"]) == cost(model)


@pytest.mark.parametrize("size", [448, (448, 224), (224, 448), 32])
def test_another_image_size_is_another_configuration(size):
    pair = (size, size) if isinstance(size, int) else size
    assert cost("mixer_b16", size) == cost(
        dataclasses.replace(VARIANTS["mixer_b16"], image_size=pair)
    )


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


def test_refusals():
    with pytest.raises(
        UserError, match="unknown model 'mixer_b61'; did you mean 'mixer_b16'"
    ):
        cost("mixer_b61")
    with pytest.raises(
        UserError, match="230x224 is not divisible .* nearest legal size is 224x224"
    ):
        cost("mixer_b16", (230, 224))
