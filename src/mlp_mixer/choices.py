"""The words that settings may hold, where several rooms share them. No torch.

Configurations and recipes name these types, so they load without torch and
`mlp-mixer recipes` answers at once.
"""

from __future__ import annotations

from typing import Literal

Precision = Literal["auto", "fast", "fp32", "bf16"]
"""Of the forward pass.

auto: bf16 on a GPU that computes in it, else fp32. fast: the same, and bf16 also on a
CPU that has instructions for it (AMX or AVX512-BF16).
"""

Kernels = Literal["auto", "plain", "fused"]
"""Token mixing on a GPU; auto: fused where it passes its check there, else plain."""

Gelu = Literal["tanh", "erf"]
"""The tanh approximation (the paper's code) or the exact form (timm, most ports)."""

DropPathRule = Literal["paper", "timm", "deit"]
"""Stochastic depth by block, and whether what stays is divided by its probability.

paper: linear from 0, not rescaled (big_vision). timm: constant, rescaled (its Mixers).
deit: linear from 0, rescaled (DeiT, and timm's ViTs).
"""

ResizeMethod = Literal["block_diagonal", "interpolate"]
"""How token-mixing weights come to another grid of patches (`models.resolution`)."""

MixRule = Literal["paper", "timm"]
"""Which share of a mixed image is its own: the larger one, or as drawn."""

EraseValue = Literal["zero", "mean", "random"]
"""What a randomly erased rectangle holds."""

Policy = Literal[
    "none",
    "randaugment_bv",
    "randaugment_timm",
    "randaugment",
    "autoaugment_cifar10",
    "autoaugment_imagenet",
    "autoaugment_svhn",
    "trivialaugment",
]
"""Augmentation policies of `images.policies`."""
