"""The words that settings may hold, where several rooms share them. No torch.

Configurations and recipes name these types, so they load without torch and
`mlp-mixer recipes` answers at once.
"""

from __future__ import annotations

from typing import Literal, get_args

from .errors import UserError, unknown

Precision = Literal["auto", "fast", "fp32", "bf16"]
"""Of the forward pass in training.

auto: bf16 on a GPU that computes in it, and on a CPU where a short trial says that it
is worth it; else fp32. fast: an older word for auto.
"""

Computed = Literal["fp32", "bf16"]
"""What a choice of precision comes to on a machine."""

Asked = Literal["auto", "fp32", "bf16"]
"""The precision of answers; auto: fp32, and what a tolerance admits beside it."""

ASKED: tuple[str, ...] = get_args(Asked)

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


def check_asked(fast: bool, precision: str) -> None:
    """Refuse a precision of answers that is unknown, or that contradicts `--fast`.

    Args:
        fast: Whether less than fp32 was asked for in words.
        precision: One of `ASKED`.

    Raises:
        UserError: It is neither, or the two contradict each other.
    """
    if precision not in ASKED:
        raise unknown("precision", precision, ASKED)
    if fast and precision == "fp32":
        raise UserError(
            "--fast admits other precisions than fp32, and --precision fp32 forbids "
            "them: leave one away"
        )
