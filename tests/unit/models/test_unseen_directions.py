"""What a Mixer does not see: the mean over the channels of its tokens.

All that reads the tokens between stem and head is a LayerNorm over channels, which takes
that mean off. So whatever is added to all channels of a token alike changes nothing; in
token mixing that is the second bias, one number for each token.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mlp_mixer.models import IsotropicMlp, MixerConfig, build_network
from mlp_mixer.models.base import NetworkConfig
from mlp_mixer.models.gmixer import GMixerConfig
from mlp_mixer.models.gmlp import GMlpConfig
from mlp_mixer.models.resmlp import ResMlpConfig
from mlp_mixer.models.token_mixing import TokenMixingConfig

SIZES: dict[str, Any] = {"image_size": (8, 12), "num_classes": 5}


def mixer(blocks: int = 2, **fields: Any) -> MixerConfig:
    return MixerConfig(4, blocks, 12, 7, 9, **SIZES, **fields)


def other(**fields: Any) -> TokenMixingConfig:
    return TokenMixingConfig(4, 2, 12, 7, 9, **SIZES, **fields)


# Networks that do not see the second bias of token mixing, at any depth.
UNSEEN: dict[str, NetworkConfig] = {
    "mixer": mixer(),
    "one block": mixer(1),
    "five blocks, erf": mixer(5, gelu="erf"),
    "another epsilon": mixer(norm_eps=0.1),
    "stochastic depth": mixer(3, drop_path=0.5),
    "stochastic depth, rescaled": mixer(3, drop_path=0.5, drop_path_rule="deit"),
    "gmixer": GMixerConfig(4, 2, 12, 7, 9, **SIZES),
    "pyramid": other(pyramid=(3, 2)),
    "token mixing as in a Mixer": other(),
}
# Networks that see it.
SEEN: dict[str, NetworkConfig] = {
    "no final norm": mixer(final_norm=False),
    "dropout": mixer(dropout=0.3),
    "groups": other(group=2),
    "untied": other(token_mlps=12),
}


def network(config: NetworkConfig, dtype: torch.dtype = torch.float64) -> IsotropicMlp:
    """Every parameter random; in training mode, for dropout and stochastic depth."""
    model = build_network(config).to(dtype)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            drawn = torch.randn(
                parameter.shape, generator=generator, dtype=torch.float64
            )
            parameter.copy_(0.5 * drawn)
    return model.train()


def images(dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(6, 3, 8, 12, dtype=torch.float64, generator=generator).to(dtype)


def logits(model: IsotropicMlp, image: Tensor) -> Tensor:
    torch.manual_seed(3)  # of dropout
    draws = torch.rand(len(image), len(model.blocks), 2, dtype=image.dtype)
    return model(image, draws)


def second_biases(model: nn.Module) -> dict[str, nn.Parameter]:
    return {
        name: parameter
        for name, parameter in model.named_parameters()
        if name.endswith(("mlp_tokens.fc2.bias", "mlp_tokens.bias2"))
    }


def moved(model: IsotropicMlp) -> float:
    """The largest change of a logit when the second biases change by about 1."""
    image = images(next(model.parameters()).dtype)
    before = logits(model, image)
    generator = torch.Generator().manual_seed(2)
    biases = second_biases(model)
    assert biases
    with torch.no_grad():
        for bias in biases.values():
            bias += torch.randn(bias.shape, generator=generator, dtype=bias.dtype)
    return ((logits(model, image) - before).abs().max() / before.abs().max()).item()


@pytest.mark.parametrize("config", UNSEEN.values(), ids=UNSEEN)
def test_the_second_bias_of_token_mixing_does_nothing(config: NetworkConfig) -> None:
    assert moved(network(config)) < 1e-13
    assert moved(network(config, torch.float32)) < 2e-5


@pytest.mark.parametrize("config", SEEN.values(), ids=SEEN)
def test_it_does_something_elsewhere(config: NetworkConfig) -> None:
    assert moved(network(config)) > 1e-3


@pytest.mark.parametrize("config", UNSEEN.values(), ids=UNSEEN)
@pytest.mark.parametrize(
    ("dtype", "bound"), [(torch.float64, 1e-13), (torch.float32, 1e-5)]
)
def test_its_gradient_is_rounding(
    config: NetworkConfig, dtype: torch.dtype, bound: float
) -> None:
    """Beside the gradient of the first bias, which is one number for each unit."""
    model = network(config, dtype)
    logits(model, images(dtype)).square().sum().backward()
    for name, bias in second_biases(model).items():
        first = model.get_parameter(name.replace("fc2", "fc1"))
        assert bias.grad is not None
        assert first.grad is not None
        assert bias.grad.abs().max() < bound * first.grad.abs().max(), name


@pytest.mark.parametrize("family", ["mixer", "gmixer", "gmlp"])
def test_nothing_in_that_direction_is_seen(family: str) -> None:
    """The stem and the channel MLPs write there too: one direction of C for each."""
    configs: dict[str, NetworkConfig] = {
        "mixer": mixer(),
        "gmixer": UNSEEN["gmixer"],
        "gmlp": GMlpConfig(4, 2, 12, 9, **SIZES),
    }
    model = network(configs[family])
    before = logits(model, images())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # The same for all rows of a kernel that writes channels, and its bias.
            if name.startswith("stem.") or "mlp_channels.fc2." in name:
                parameter += torch.randn_like(parameter[:1])
    torch.testing.assert_close(logits(model, images()), before, rtol=0, atol=1e-11)


def test_without_a_final_norm_only_the_sum_of_all_is_seen() -> None:
    """The mean over tokens, summed over blocks, times the sums of the head's rows."""
    model = network(mixer(3, final_norm=False))
    before = logits(model, images())
    change = torch.zeros((), dtype=torch.float64)
    with torch.no_grad():
        for bias in second_biases(model).values():
            delta = torch.randn_like(bias)
            bias += delta
            change += delta.mean()
    expected = before + change * model.get_parameter("head.weight").sum(dim=1)
    torch.testing.assert_close(logits(model, images()), expected, rtol=0, atol=1e-11)


def test_of_groups_only_what_all_have_in_common_is_unseen() -> None:
    model = network(other(group=2))
    before = logits(model, images())
    with torch.no_grad():
        for bias in second_biases(model).values():
            shared = torch.randn(bias.numel() // 2, dtype=bias.dtype)
            bias += shared.repeat(2)
    torch.testing.assert_close(logits(model, images()), before, rtol=0, atol=1e-11)


def test_resmlp_sees_its_biases() -> None:
    """Its norms only scale and shift: nothing is taken off."""
    model = network(ResMlpConfig(4, 2, 12, 9, **SIZES))
    before = logits(model, images())
    with torch.no_grad():
        model.get_parameter("blocks.0.linear_tokens.bias").add_(1.0)
    assert (logits(model, images()) - before).abs().max() > 1e-3


# What the tokens are kept in


def test_the_tokens_are_kept_in_bf16_under_autocast() -> None:
    """The sums of the skip connections too; docs/training.md says so."""
    model = network(mixer(), torch.float32).eval()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = model.features(images(torch.float32))
    assert found["stem"].dtype == torch.bfloat16
    assert found["blocks.0"].dtype == torch.bfloat16
    assert found["blocks.1"].dtype == torch.bfloat16
    # The weights stay as they are.
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
