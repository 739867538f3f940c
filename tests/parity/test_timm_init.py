"""How ResMLP, gMLP and gMixer begin: as timm's own networks do."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from timm.layers import GatedMlp, GluMlp
from timm.models import mlp_mixer as theirs
from torch import nn

from mlp_mixer.models import create_model

SHARED = {"img_size": 64, "patch_size": 4, "num_blocks": 1, "num_classes": 10}
# Families at a width whose kernels are large enough to measure; S is 256.
TIMM: dict[str, dict[str, Any]] = {
    "resmlp_12": {
        "embed_dim": 96,
        "mlp_ratio": 4,
        "block_layer": partial(theirs.ResBlock, init_values=1e-4),
        "norm_layer": theirs.Affine,
    },
    "gmlp_ti16": {
        "embed_dim": 96,
        "mlp_ratio": 6,
        "block_layer": theirs.SpatialGatingBlock,
        "mlp_layer": GatedMlp,
    },
    "gmixer_12": {
        "embed_dim": 96,
        "mlp_ratio": (1.0, 4.0),
        "mlp_layer": GluMlp,
        "act_layer": nn.SiLU,
    },
}
# Hidden widths of the same networks here: of the gated ones, what the gate leaves.
OURS: dict[str, dict[str, int]] = {
    "resmlp_12": {"channels_mlp_dim": 384},
    "gmlp_ti16": {"channels_mlp_dim": 288},
    "gmixer_12": {"tokens_mlp_dim": 48, "channels_mlp_dim": 192},
}
QUANTILES = np.linspace(0, 1, 21)


def pair(name: str) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(1)
    ours = create_model(
        name,
        image_size=64,
        patch_size=4,
        num_blocks=1,
        num_classes=10,
        hidden_dim=96,
        **OURS[name],
    )
    torch.manual_seed(2)
    return ours, theirs.MlpMixer(**SHARED, **TIMM[name])


@pytest.mark.parametrize("name", TIMM)
def test_every_parameter_begins_with_timm_s_distribution(name: str) -> None:
    ours, original = pair(name)
    expected = dict(original.named_parameters())
    found = dict(ours.named_parameters())
    assert found.keys() == expected.keys()
    for key, parameter in found.items():
        # The gate's half of a first layer begins otherwise than the value's.
        halves = 2 if name == "gmixer_12" and ".fc1." in key else 1
        parts = zip(parameter.chunk(halves), expected[key].chunk(halves), strict=True)
        for own, other in parts:
            assert own.shape == other.shape
            same_distribution(own.detach(), other.detach(), key)


def same_distribution(own: torch.Tensor, other: torch.Tensor, key: str) -> None:
    spread = other.std().item()
    if spread == 0:
        assert torch.equal(own, other), key
        return
    # A deviation from n numbers has itself a relative one of 1 / sqrt(2 n).
    slack = 5 / (2 * own.numel()) ** 0.5
    assert own.std().item() == pytest.approx(spread, rel=2 * slack), key
    if own.numel() < 2000:
        return
    ours = np.quantile(own / spread, QUANTILES[1:-1])
    expected = np.quantile(other / spread, QUANTILES[1:-1])
    # Of a normal distribution the outer quantiles would be 0.1 deviations away.
    assert np.abs(ours - expected).max() < 0.06 + slack, key


def test_the_published_sizes_have_timm_s_deviations() -> None:
    """Xavier-uniform: sqrt(2 / (fan_in + fan_out)), cut off at sqrt(3) of that."""
    model = create_model("gmixer_24", num_blocks=1)
    fc2 = model.blocks[0].mlp_channels.fc2.weight
    std = (2 / (768 + 384)) ** 0.5
    assert fc2.std().item() == pytest.approx(std, rel=0.01)
    assert fc2.abs().max().item() == pytest.approx(3**0.5 * std, rel=1e-3)


@pytest.mark.parametrize("name", ["mixer_s32", "untied_nano4"])
def test_mixers_keep_the_initialisation_of_the_paper(name: str) -> None:
    model = create_model(name, num_blocks=1)
    fc1 = model.blocks[0].mlp_channels.fc1.weight
    assert fc1.std().item() == pytest.approx(fc1.shape[1] ** -0.5, rel=0.02)
    assert not model.blocks[0].mlp_channels.fc1.bias.any()
