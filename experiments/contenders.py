"""Small networks for 28 to 64 pixels at about equal cost: our Mixer, and timm's ViT and ResNet with its CIFAR stem."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import timm
import torch
from torch import nn

from mlp_mixer import MixerConfig, MlpMixer


def mixer(
    side: int, channels: int, classes: int, *, width: int = 64, depth: int = 4, patch: int = 0, **other: Any
) -> nn.Module:
    """A Mixer of 4-pixel patches (2 on 8-pixel digits), D_S = 64 unless told, D_C = 4 C as in the paper."""
    settings: dict[str, Any] = {"tokens_mlp_dim": 64, "channels_mlp_dim": 4 * width, "gelu": "erf"} | other
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


def vit(side: int, channels: int, classes: int, *, width: int = 64, depth: int = 3, patch: int = 0) -> nn.Module:
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
    side: int, channels: int, classes: int, *, width: int = 12, layers: tuple[int, ...] = (1, 1, 1, 1)
) -> nn.Module:
    """timm's ResNet of basic blocks, with the usual stem for small images: 3 x 3, stride 1, no pooling."""
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
    return model.to(memory_format=torch.channels_last)


NETWORKS: dict[str, Callable[..., nn.Module]] = {"Mixer": mixer, "ViT": vit, "ResNet": resnet}


def mmacs(model: nn.Module, side: int, channels: int) -> float:
    """Millions of multiply-accumulates for one image, as torch counts them (half its FLOPs)."""
    from torch.utils.flop_counter import FlopCounterMode

    device = next(model.parameters()).device
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model.eval()(torch.zeros(1, channels, side, side, device=device))
    return counter.get_total_flops() / 2e6
