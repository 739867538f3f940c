"""The network of `experiments/variable_resolution` is at every size what `resize` would have made, and learns there."""

from __future__ import annotations

import runpy
from pathlib import Path

import torch

from mlp_mixer import MixerConfig, MlpMixer
from mlp_mixer.models.resolution import resized

RUN = Path(__file__).parents[2] / "experiments" / "variable_resolution" / "run.py"


def test_other_sizes_are_those_of_resize_and_gradients_come_back() -> None:
    base = MlpMixer(MixerConfig(4, 2, 12, 6, 24, image_size=(16, 16), num_classes=3))
    torch.nn.init.normal_(base.head.weight)
    network, images = runpy.run_path(str(RUN))["Elastic"](base), torch.randn(2, 3, 24, 24)
    config, tensors = resized(base.config, base.state_dict(), 24, method="interpolate")
    grown = MlpMixer(config)
    grown.load_state_dict(tensors)
    torch.testing.assert_close(network(images), grown(images), rtol=0, atol=1e-6)
    torch.testing.assert_close(network(images[:, :, :16, :16]), base(images[:, :, :16, :16]), rtol=0, atol=0)
    network(images).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in base.parameters())
