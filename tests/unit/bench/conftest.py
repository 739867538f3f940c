"""What the tests of the bench share: a real row of Table 1, with one block."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from mlp_mixer.bench import competitors, run
from mlp_mixer.models import VARIANTS, MixerConfig, MlpMixer


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> MixerConfig:
    """S/32 with one block takes the place of its row; no large matmul is measured."""
    config = dataclasses.replace(VARIANTS["mixer_s32"], num_blocks=1, num_classes=7)
    monkeypatch.setitem(VARIANTS, "mixer_s32", config)

    def create_model(name: str, gelu: str) -> MlpMixer:
        return MlpMixer(dataclasses.replace(config, gelu=gelu))

    def roofline(device: torch.device, dtype: str) -> dict[str, float]:
        return {"flops": 1e12, "bytes": 1e10}

    monkeypatch.setattr(run, "create_model", create_model)
    monkeypatch.setattr(run, "roofline", roofline)
    return config


def _twin(job: Any) -> Any:
    """timm's network of one block, which none of its names makes."""
    from timm.models.mlp_mixer import MlpMixer

    model = MlpMixer(num_classes=7, patch_size=32, num_blocks=1, embed_dim=512)
    model.load_state_dict(job.model.state_dict())
    return model.eval()


@pytest.fixture
def timm_of_one_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """Takes the place of timm's network where one is built."""
    monkeypatch.setattr(competitors, "timm_twin", _twin)
