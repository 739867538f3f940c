"""Tensors of small Mixers, which several tests of lineages share."""

from __future__ import annotations

import torch
from torch import Tensor

from mlp_mixer import MixerConfig, MlpMixer


def random_tensors(
    config: MixerConfig,
    dtype: torch.dtype = torch.float32,
    *,
    shared_norm: bool = False,
) -> dict[str, Tensor]:
    """Every tensor of the network under our names, none at its initial value."""
    with torch.device("meta"):
        shapes = {
            name: tensor.shape for name, tensor in MlpMixer(config).state_dict().items()
        }
    tensors = {
        name: (torch.randn(shape) * 0.3).to(dtype) for name, shape in shapes.items()
    }
    if shared_norm:
        tensors |= {
            name.replace("norm1", "norm2"): t
            for name, t in tensors.items()
            if "norm1" in name
        }
    return tensors


SQUARE = MixerConfig(2, 2, 6, 5, 7, image_size=(8, 8), num_classes=3)
