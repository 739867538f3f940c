"""Files as they are published, with random weights, which several tests share."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

from mlp_mixer import MixerConfig
from mlp_mixer.weights import catalog
from mlp_mixer.weights.formats import containers
from mlp_mixer.weights.lineages import translate
from mlp_mixer.weights.lineages.tables import LINEAGES

from .networks import random_tensors

DEMO = Path(__file__).parents[3] / "demo"


TINY = MixerConfig(16, 1, 4, 2, 8, num_classes=1000)


NAME = "mixer_b16.mmpretrain_in1k"


ALIAS = "mlp-mixer-base-p16_3rdparty_64xb64_in1k"


def published_bytes(
    config: MixerConfig, name_of_lineage: str, suffix: str, head_bias: float = 0.0
) -> bytes:
    """A file as that lineage would have published it, with random weights."""
    lineage = LINEAGES[name_of_lineage]
    config = dataclasses.replace(config, gelu=lineage.gelu, norm_eps=lineage.norm_eps)
    torch.manual_seed(0)
    ours = random_tensors(config, torch.float16)
    ours["head.bias"] += head_bias
    wrap = "state_dict" if name_of_lineage == "mmpretrain" else None
    theirs = translate.to_theirs(config, ours, lineage)
    return containers.to_bytes(suffix, theirs, wrap=wrap)


def put(record: catalog.PublishedWeights, data: bytes) -> Path:
    """The file where the cache keeps it."""
    place = catalog.cache_place(record)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(data)
    return place
