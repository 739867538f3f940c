"""Fused kernels for training where they prove themselves: one block on the very device,
forward and backward.
"""

from __future__ import annotations

import copy
from typing import cast

import torch
from torch import Tensor, nn

from ..choices import Kernels, Precision
from ..devices import autocast
from ..errors import UserError
from ..models.mixer import MixerBlock, MlpMixer
from .network import fuse, why_not


def with_kernels(
    model: MlpMixer, choice: Kernels, precision: Precision
) -> tuple[MlpMixer, tuple[str, ...]]:
    """The model for training on its device in this precision, and a note for people:
    fused, or why not.

    auto: fused on CUDA if `self_check` finds nothing. `UserError` for "fused" where it
        finds something.
    """
    weight = model.stem.proj.weight
    if choice == "plain" or (choice == "auto" and weight.device.type != "cuda"):
        return model, ()
    with autocast(precision, weight.device):
        automatic = torch.is_autocast_enabled(weight.device.type)
        reason = self_check(
            model,
            torch.get_autocast_dtype(weight.device.type) if automatic else weight.dtype,
        )
    if reason and choice == "fused":
        raise UserError(
            f"train.kernels=fused cannot be: {reason}; use train.kernels=auto"
        )
    return (
        (model, (f"token mixing stays plain: {reason}",))
        if reason
        else (fuse(model), ("token mixing is fused",))
    )


def self_check(model: MlpMixer, dtype: torch.dtype) -> str | None:
    """Why the model's device should not run the fused kernel in this dtype, in words;
    None if the first block passes.

    The rule of the tests, for the norm of each tensor: as far from float64 as twice the
        plain block is, in gradients
    three times, and a rounding.
    """
    place = model.stem.proj.weight.device
    if reason := why_not(model, place):
        return reason
    from .block import FusedBlock  # imports Triton, which not every machine has

    draw = torch.Generator(place).manual_seed(0)
    size = (2, model.config.num_patches, model.config.hidden_dim)
    block = copy.deepcopy(cast(MixerBlock, model.blocks[0])).eval()
    for parameter in block.parameters():  # no zeros, behind which an error could hide
        parameter.data += 0.1 * torch.randn(
            parameter.shape, generator=draw, device=place
        )
    nn.init.zeros_(block.mlp_channels.fc2.weight)  # leaves token mixing alone
    fused = FusedBlock(block.to(dtype), deterministic=True)
    x, dy = (
        torch.randn(size, generator=draw, device=place).to(dtype) for _ in range(2)
    )
    if not fused._fused(x):
        return f"{str(dtype)[6:]} is faster in plain layers here"
    try:
        results = [
            _computed(one, x, dy)
            for one in (copy.deepcopy(block).double(), block, fused)
        ]
    except Exception as error:  # of a compiler or driver that does not suit
        return f"it fails here: {type(error).__name__} {str(error).strip().partition(chr(10))[0][:100]}"
    rounding = max(torch.finfo(dtype).eps, 2**-10)  # of TF32 at least
    for i, (exact, plain, ours) in enumerate(zip(*results, strict=True)):
        error_of_ours, error_of_plain = (
            (one - exact).norm() / exact.norm() for one in (ours, plain)
        )
        if not error_of_ours <= (3 if i else 2) * error_of_plain + rounding:
            what = "a gradient" if i else "the output"
            return f"{what} is off by {error_of_ours:.1e} here, that of plain layers by {error_of_plain:.1e}"
    return None


def _computed(block: MixerBlock, x: Tensor, dy: Tensor) -> list[Tensor]:
    """The output and all gradients of a block's token mixing, in float64."""
    x = x.detach().to(block.norm1.weight.dtype).requires_grad_()
    leaves = [x, *block.norm1.parameters(), *block.mlp_tokens.parameters()]
    with torch.autocast(x.device.type, enabled=False):
        y = block(x)
    return [
        one.detach().double()
        for one in (y, *torch.autograd.grad(y, leaves, dy.to(y.dtype)))
    ]
