"""Small networks for 28 to 64 pixels at about equal cost: our Mixer, and timm's ViT and
ResNet with its CIFAR stem.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import timm
import torch
from common import Data
from torch import Tensor, nn

from mlp_mixer import MixerConfig, MlpMixer


def mixer(
    side: int,
    channels: int,
    classes: int,
    *,
    width: int = 64,
    depth: int = 4,
    patch: int = 0,
    **other: Any,
) -> nn.Module:
    """A Mixer of 4-pixel patches (2 on 8-pixel digits), D_S = 64 unless told, D_C = 4 C
    as in the paper.
    """
    settings: dict[str, Any] = {
        "tokens_mlp_dim": 64,
        "channels_mlp_dim": 4 * width,
        "gelu": "erf",
    } | other
    return MlpMixer(
        MixerConfig(
            image_size=(side, side),
            patch_size=patch or (2 if side < 16 else 4),
            in_channels=channels,
            hidden_dim=width,
            num_blocks=depth,
            num_classes=classes,
            **settings,
        )
    )


def vit(
    side: int,
    channels: int,
    classes: int,
    *,
    width: int = 64,
    depth: int = 3,
    patch: int = 0,
) -> nn.Module:
    """timm's ViT with mean pooling, as many patches as the Mixer."""
    return timm.models.VisionTransformer(
        img_size=side,
        patch_size=patch or (2 if side < 16 else 4),
        in_chans=channels,
        num_classes=classes,
        embed_dim=width,
        depth=depth,
        num_heads=max(1, width // 16),
        class_token=False,
        global_pool="avg",
    )


def resnet(
    side: int,
    channels: int,
    classes: int,
    *,
    width: int = 12,
    layers: tuple[int, ...] = (1, 1, 1, 1),
) -> nn.Module:
    """Build timm's ResNet of basic blocks with the usual stem for small images.

    The stem is 3 x 3 with stride 1, without pooling.
    """
    del side
    model = timm.models.ResNet(
        timm.models.resnet.BasicBlock,
        layers,
        num_classes=classes,
        in_chans=channels,
        channels=tuple(width * 2**stage for stage in range(len(layers))),
        stem_type="deep",
        stem_width=width // 2,
    )
    model.conv1 = nn.Conv2d(channels, width, 3, padding=1, bias=False)
    model.maxpool = nn.Identity()
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d) and _overruns(layer):
            layer.stride = (1, 1)
            layer.register_forward_pre_hook(_every_other)
    return model.to(memory_format=torch.channels_last)


def _overruns(conv: nn.Conv2d) -> bool:
    """Whether oneDNN 3.13, which torch 2.15 brings, breaks this weight gradient.

    With fewer channels than a vector register holds floats (8 with AVX2, 16 with
    AVX-512) and images in channels_last it writes past its workspace: the heap is
    corrupted, or the gradient is wrong (uxlfoundation/oneDNN issue 6035).
    """
    strided_1x1 = (conv.kernel_size, conv.stride) == ((1, 1), (2, 2))
    return strided_1x1 and conv.in_channels < 16


def _every_other(_: nn.Module, inputs: tuple[Tensor]) -> Tensor:
    """Return all that a 1 x 1 convolution of stride 2 reads, for one of stride 1."""
    # A slice would do as well, but its gradient is slow.
    return nn.functional.avg_pool2d(inputs[0], 1, stride=2)


NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "Mixer": mixer,
    "ViT": vit,
    "ResNet": resnet,
}
Sizes = dict[str, dict[str, dict[str, Any]]]
# Three sizes of each, about equal in cost across a column: LITTLE with 4 x 4 patches,
# MEDIUM with 8 x 8.
LITTLE: Sizes = {
    "Mixer": {
        "S": {"width": 32, "tokens_mlp_dim": 16},
        "M": {"width": 64, "tokens_mlp_dim": 32},
        "L": {"width": 128, "tokens_mlp_dim": 64, "depth": 6},
    },
    "ViT": {
        "S": {"width": 32, "depth": 3},
        "M": {"width": 64, "depth": 3},
        "L": {"width": 128, "depth": 4},
    },
    "ResNet": {"S": {"width": 4}, "M": {"width": 6}, "L": {"width": 14}},
}
# The least that has all parts of a network: for rehearsals.
LEAST: Sizes = {
    "Mixer": {
        "S": {"width": 8, "tokens_mlp_dim": 4, "depth": 1},
        "M": {"width": 16, "tokens_mlp_dim": 8, "depth": 1},
        "L": {"width": 24, "tokens_mlp_dim": 12, "depth": 2},
    },
    "ViT": {
        "S": {"width": 16, "depth": 1},
        "M": {"width": 32, "depth": 1},
        "L": {"width": 32, "depth": 2},
    },
    "ResNet": {"S": {"width": 4}, "M": {"width": 6}, "L": {"width": 8}},
}
MEDIUM: Sizes = {
    "Mixer": {
        "S": {"width": 64, "tokens_mlp_dim": 32},
        "M": {"width": 128, "tokens_mlp_dim": 64, "depth": 8},
        "L": {"width": 256, "tokens_mlp_dim": 128, "depth": 12},
    },
    "ViT": {
        "S": {"width": 64, "depth": 3},
        "M": {"width": 128, "depth": 6},
        "L": {"width": 256, "depth": 9},
    },
    "ResNet": {
        "S": {"width": 12},
        "M": {"width": 24, "layers": (2,) * 4},
        "L": {"width": 64, "layers": (2,) * 4},
    },
}


def build(name: str, data: Data, seed: int, *, grid: int, **size: Any) -> nn.Module:
    """That network for those images, its weights drawn by the seed; grid: patches on a
    side, where it has patches.
    """
    torch.manual_seed(seed)
    channels, side = data.images.shape[1:3]
    patches = {} if name == "ResNet" else {"patch": side // grid}
    return NETWORKS[name](side, channels, len(data.classes), **patches, **size)


def mmacs(model: nn.Module, side: int, channels: int) -> float:
    """Millions of multiply-accumulates for one image, as torch counts them (half its
    FLOPs).
    """
    from torch.utils.flop_counter import FlopCounterMode

    device = next(model.parameters()).device
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model.eval()(torch.zeros(1, channels, side, side, device=device))
    return counter.get_total_flops() / 2e6


@torch.inference_mode()
def images_per_second(
    models: dict[str, nn.Module], images: Tensor, rounds: int = 9
) -> dict[str, float]:
    """Medians of inference, measured in turns; on a CPU a second is one of processor
    time: others may run beside.
    """
    times: dict[str, list[float]] = {name: [] for name in models}
    clock = time.process_time if images.device.type == "cpu" else time.perf_counter
    for _ in range(rounds):
        for name, model in models.items():
            start, _sum = (
                clock(),
                model.to(images.device).eval()(images).sum().item(),
            )  # .item() waits for a GPU
            times[name].append(clock() - start)
    return {
        name: len(images) / statistics.median(spent) for name, spent in times.items()
    }
