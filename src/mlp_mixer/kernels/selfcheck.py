"""Use fused kernels in training only where they pass a check on the device itself.

A kernel that compiles may still be wrong on a GPU, driver or Triton that nobody has
tried. So before training one block runs forward and backward, fused and plain.
"""

from __future__ import annotations

import copy
from typing import cast

import torch
from torch import Tensor, nn

from ..choices import Kernels, Precision
from ..devices import autocast
from ..errors import UserError
from ..models.isotropic import IsotropicMlp
from ..models.mixer import MixerBlock
from .network import fuse, why_not
from .tiles import PROGRAMS

# A kernel that reads before a copy has ended is right most of the time: on a busy GPU
# it does not repeat its bits.
_REPEATS = 20


def with_kernels(
    model: IsotropicMlp, choice: Kernels, precision: Precision
) -> tuple[IsotropicMlp, tuple[str, ...]]:
    """Prepare a model for training with the kernels that were chosen.

    Args:
        model: The network, on the device of the training.
        choice: "plain" changes nothing, "fused" demands the kernels, and "auto" takes
            them on CUDA if `self_check` finds nothing.
        precision: The precision of the forward pass.

    Returns:
        The model to train, and notes for the journal: that it is fused, or why not.

    Raises:
        UserError: The choice is "fused" and `self_check` finds a reason against it.
    """
    weight = model.stem.proj.weight
    if choice == "plain" or (choice == "auto" and weight.device.type != "cuda"):
        return model, ()
    # The check must run in the dtype that the block will see in training.
    dtype = weight.dtype
    with autocast(precision, weight.device):
        if torch.is_autocast_enabled(weight.device.type):
            dtype = torch.get_autocast_dtype(weight.device.type)
        reason = self_check(model, dtype)
    if not reason:
        return fuse(model), ("token mixing is fused",)
    if choice == "fused":
        raise UserError(
            f"train.kernels=fused cannot be used: {reason}; use train.kernels=auto"
        )
    return model, (f"token mixing stays plain: {reason}",)


def self_check(model: IsotropicMlp, dtype: torch.dtype) -> str | None:
    """Compare the fused with the plain first block on the model's own device.

    The rule is that of the tests, on the norm of each tensor: the error against
    float64 is at most twice the plain block's (three times in gradients), plus one
    rounding. The batch fills the GPU twice, and twenty runs must give the same bits.

    Args:
        model: The network; it is not changed.
        dtype: The dtype of the tokens in training.

    Returns:
        Why the kernel should not be used here, in words; None if the block passes.
    """
    device = model.stem.proj.weight.device
    if reason := why_not(model, device):
        return reason
    # Imports Triton, which not every machine has.
    from .block import FusedBlock

    generator = torch.Generator(device).manual_seed(0)
    block = _block_without_zeros(model, generator)
    fused = FusedBlock(block.to(dtype), deterministic=True)
    batch = _batch(model, device)
    size = (batch, model.config.num_patches, model.config.hidden_dim)
    x = torch.randn(size, generator=generator, device=device).to(dtype)
    dy = torch.randn(size, generator=generator, device=device).to(dtype)
    if not fused._can_fuse(x):
        return f"{str(dtype)[6:]} is faster in plain layers here"
    try:
        exact = _results(copy.deepcopy(block).double(), x, dy)
        plain = _results(block, x, dy)
        ours = _results(fused, x, dy)
        again = range(_repeats(device) - 1)
        steady = all(_same(_results(fused, x, dy), ours) for _ in again)
    # Whatever a compiler or a driver raises is a reason to stay plain, not to stop.
    except Exception as error:
        first_line = str(error).strip().partition("\n")[0][:100]
        return f"it fails here: {type(error).__name__} {first_line}"
    if reason := _compare(exact, plain, ours, dtype):
        return reason
    return None if steady else "its bits vary from run to run here"


def _batch(model: IsotropicMlp, device: torch.device) -> int:
    """Return so many images that the kernel's programs fill a GPU twice."""
    if device.type != "cuda":
        # Triton's interpreter, for which two are many.
        return 2
    tiles = -(-model.config.hidden_dim // 128)
    return -(-2 * PROGRAMS // tiles)


def _repeats(device: torch.device) -> int:
    """Return how often the kernel must give the same bits."""
    return _REPEATS if device.type == "cuda" else 1


def _same(left: list[Tensor], right: list[Tensor]) -> bool:
    """Return whether all bits are the same."""
    pairs = zip(left, right, strict=True)
    # A NaN is found by the comparison with float64.
    return all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in pairs)


def _block_without_zeros(model: IsotropicMlp, generator: torch.Generator) -> MixerBlock:
    """Copy the first block and disturb its parameters."""
    block = copy.deepcopy(cast(MixerBlock, model.blocks[0])).eval()
    # Behind a zero (a fresh bias, for one) an error of the kernel could hide.
    for parameter in block.parameters():
        noise = torch.randn(
            parameter.shape, generator=generator, device=parameter.device
        )
        parameter.data += 0.1 * noise
    # Channel mixing is the same code in both blocks; at zero it leaves token mixing
    # alone in the comparison.
    nn.init.zeros_(block.mlp_channels.fc2.weight)
    return block


def _results(block: MixerBlock, x: Tensor, dy: Tensor) -> list[Tensor]:
    """Compute the output and all gradients of a block's token mixing, in float64."""
    dtype = next(block.parameters()).dtype
    x = x.detach().to(dtype).requires_grad_()
    leaves = [x, *block.norm1.parameters(), *block.mlp_tokens.parameters()]
    with torch.autocast(x.device.type, enabled=False):
        y = block(x)
    grads = torch.autograd.grad(y, leaves, dy.to(y.dtype))
    return [tensor.detach().double() for tensor in (y, *grads)]


def _compare(
    exact: list[Tensor], plain: list[Tensor], ours: list[Tensor], dtype: torch.dtype
) -> str | None:
    """Say which of our results is further from the exact ones than is allowed."""
    # TF32 keeps 10 bits of float32's 23, in the plain layers too.
    rounding = max(torch.finfo(dtype).eps, 2**-10)
    for i, truth in enumerate(exact):
        what = "a gradient" if i else "the output"
        factor = 3 if i else 2
        our_error = _relative_error(ours[i], truth)
        plain_error = _relative_error(plain[i], truth)
        # "not <=" and not ">": a NaN must not pass.
        if not our_error <= factor * plain_error + rounding:
            return (
                f"{what} is off by {our_error:.1e} here, that of plain layers by "
                f"{plain_error:.1e}"
            )
    return None


def _relative_error(tensor: Tensor, truth: Tensor) -> Tensor:
    return (tensor - truth).norm() / truth.norm()
