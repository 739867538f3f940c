"""Tensors of small Mixers, which several tests share."""

from __future__ import annotations

import torch
from torch import Tensor

from mlp_mixer import MixerConfig, MlpMixer

SQUARE = MixerConfig(2, 2, 6, 5, 7, image_size=(8, 8), num_classes=3)


def random_tensors(
    config: MixerConfig,
    dtype: torch.dtype = torch.float32,
    *,
    shared_norm: bool = False,
    generator: torch.Generator | None = None,
) -> dict[str, Tensor]:
    """Every tensor of the network under our names, none at its initial value.

    `shared_norm`: both MLPs of a block have the same norm, as Keras needs it.
    """
    with torch.device("meta"):
        empty = MlpMixer(config).state_dict()
    tensors = {}
    for name, tensor in empty.items():
        values = torch.randn(tensor.shape, generator=generator) * 0.3
        tensors[name] = values.to(dtype)
    if shared_norm:
        for name in list(tensors):
            if "norm2" in name:
                tensors[name] = tensors[name.replace("norm2", "norm1")]
    return tensors
