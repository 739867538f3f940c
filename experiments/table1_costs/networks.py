"""The networks by the names that the paper gives them, and what they cost by count."""

from __future__ import annotations

import csv
import itertools
import sys
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

sys.path.insert(0, str(Path(__file__).parents[1]))
import competitors

from mlp_mixer import cost, create_model

TIMM = {
    "ResNet-18": "resnet18",
    "ResNet-50": "resnet50",
    "ResNet-101": "resnet101",
    "ViT-S/16": "vit_small_patch16_224",
    "ViT-B/16": "vit_base_patch16_224",
    "ViT-L/16": "vit_large_patch16_224",
    "ViT-H/14": "vit_huge_patch14_224",
}
# Blocks in each stage of a BiT-R; x2 has twice the width.
BIT = {"50": (3, 4, 6, 3), "152": (3, 8, 36, 3)}

# Networks of like accuracy, or of one name, and the data of whose rows the accuracies
# are.
PAIRS = """Mixer-S/16 BiT-R50x1 JFT-300M; Mixer-B/16 BiT-R152x1 JFT-300M;
Mixer-B/16 BiT-R50x2 JFT-300M; Mixer-L/16 BiT-R152x2 JFT-300M;
Mixer-B/16 ViT-B/16 ImageNet-21k; Mixer-L/16 ViT-L/16 JFT-300M;
Mixer-H/14 ViT-H/14 JFT-300M"""


def built(name: str) -> nn.Module:
    """With random weights and 1000 classes."""
    if name.startswith("Mixer"):
        return create_model(_ours(name), gelu="erf")
    if name.startswith("BiT"):  # timm has the class, and names for some sizes only
        depth, width = name.removeprefix("BiT-R").split("x")
        conv = partial(timm.layers.StdConv2d, eps=1e-8)
        return timm.models.ResNetV2(
            BIT[depth], width_factor=int(width), stem_type="fixed", conv_layer=conv
        )
    return timm.create_model(TIMM[name])


@cache
def counted(name: str) -> dict[str, float]:
    """Parameters with and without the classifier; multiply-accumulates by
    `mlp_mixer.cost`, of others by torch.
    """
    if name.startswith("Mixer"):
        one = cost(_ours(name))
        return {
            "params": one.params,
            "body": one.params_without_head,
            "gmacs": one.gmacs,
        }
    with torch.device("meta"):
        model = built(name)
    params, head = (
        sum(p.numel() for p in part.parameters())
        for part in (model, model.get_classifier())
    )
    return {
        "params": params,
        "body": params - head,
        "gmacs": competitors.mmacs(model, 224, 3) / 1e3,
    }


def peak_mib(call: Callable[[], Any], device: torch.device) -> float:
    """The most that torch's tensors take together during the call, in MiB, beside those
    that were there before.
    """
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        call()
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
        call()
    events = [
        event
        for event in watched.profiler.kineto_results.events()
        if event.name() == "[memory]"
    ]
    return (
        max(
            itertools.accumulate(
                e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())
            )
        )
        / 2**20
    )


def published() -> list[dict[str, str]]:
    """The rows of published.csv."""
    with (Path(__file__).parent / "published.csv").open() as file:
        return list(csv.DictReader(line for line in file if not line.startswith("#")))


def _ours(name: str) -> str:
    return name.lower().replace("-", "_").replace("/", "")
