"""The registry builds the right class, and refuses in words."""

from __future__ import annotations

import pytest
import torch

from mlp_mixer import UserError
from mlp_mixer.models import (
    FAMILIES,
    IsotropicMlp,
    MixerConfig,
    MlpMixer,
    build_network,
    create_model,
)
from mlp_mixer.models.base import size_pair
from mlp_mixer.models.families import need_mixer

# One variant of each family.
ONE = {family: next(iter(rows.values())) for family, (_, rows) in FAMILIES.items()}


@pytest.mark.parametrize("family", ONE)
def test_a_mixer_is_an_mlp_mixer_and_others_are_not(family: str) -> None:
    with torch.device("meta"):
        model = build_network(ONE[family])
    expected = MlpMixer if family == "mixer" else IsotropicMlp
    assert type(model) is expected
    assert model.config == ONE[family]


def test_create_model_builds_the_same_classes() -> None:
    with torch.device("meta"):
        assert type(create_model("mixer_pico2")) is MlpMixer
        assert type(create_model("gmlp_ti16")) is IsotropicMlp


@pytest.mark.parametrize("family", [name for name in ONE if name != "mixer"])
def test_mlp_mixer_and_what_needs_one_refuse_other_families(family: str) -> None:
    config = ONE[family]
    name = type(config).__name__
    with pytest.raises(UserError, match=f"MlpMixer takes a MixerConfig, got {name}"):
        MlpMixer(config)
    with pytest.raises(UserError, match="fusing knows Mixers only, got "):
        need_mixer(config, "fusing")


def test_a_mixers_configuration_is_handed_on() -> None:
    config = ONE["mixer"]
    assert isinstance(config, MixerConfig)
    assert need_mixer(config, "fusing") is config


def test_one_number_is_the_side_of_a_square() -> None:
    assert size_pair(8) == (8, 8)
    assert size_pair((8, 12)) == (8, 12)
