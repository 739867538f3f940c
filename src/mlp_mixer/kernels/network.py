"""Put the fused kernels into a Mixer, or say in words why they cannot be used."""

from __future__ import annotations

import functools
import importlib.util
import os
import warnings

import torch
from torch import nn

from ..models.families import build_network
from ..models.isotropic import IsotropicMlp
from ..models.mixer import MixerBlock, MixerConfig
from .tiles import MOST_TOKENS

# LayerNorm's kernels hold whole rows of channels in registers.
_MOST_CHANNELS = 8192


def available(device: torch.device | str | None = None) -> bool:
    """Return whether this machine can run the kernels.

    Args:
        device: The device to ask about; by default the current CUDA device.
    """
    return _machine_lacks(torch.device(device or "cuda")) is None


def why_not(
    model: IsotropicMlp, device: torch.device | str | None = None
) -> str | None:
    """Return why `fuse(model)` would change nothing, or None if it can be fused.

    Args:
        model: The network.
        device: Where it will run; by default where its parameters are, or the current
            CUDA device if they are on the CPU.
    """
    weight = model.stem.proj.weight
    if device is None:
        # A model on the CPU is usually fused first and moved afterwards.
        device = weight.device if weight.device.type != "cpu" else "cuda"
    lacking = _machine_lacks(torch.device(device))
    if lacking:
        return lacking
    config = model.config
    if not isinstance(config, MixerConfig):
        return "its blocks are not those of a Mixer"
    if config.num_patches > MOST_TOKENS:
        return (
            f"it has {config.num_patches} tokens, and the kernel holds at most "
            f"{MOST_TOKENS}"
        )
    if config.hidden_dim > _MOST_CHANNELS:
        return (
            f"it has {config.hidden_dim} channels, and the kernel's norm holds at most "
            f"{_MOST_CHANNELS}"
        )
    if config.dropout > 0 and model.training:
        return "dropout inside the MLPs is on in training, and the kernel has none"
    if weight.dtype == torch.float64:
        return "its parameters are float64, and the kernel sums in float32"
    return None


def fuse(model: IsotropicMlp, *, deterministic: bool = True) -> IsotropicMlp:
    """Return the same network with its token mixing in one kernel.

    The kernel computes in bf16 or fp16. The result
    shares all modules but the blocks themselves with `model`: the same parameters and
    the same state dict, and training either trains both. Fuse before wrapping (DDP,
    `fully_shard`, `torch.compile`), and before or after moving to the GPU. Calls that
    the kernel cannot take, such as those on the CPU, are computed plainly.

    Args:
        model: The network.
        deterministic: Sum the gradients of the weights in a fixed order. Without it,
            atomic additions need a smaller workspace, and the last bits vary.

    Returns:
        The fused network. Where `why_not(model)` has a reason, `model` itself, after a
        warning with that reason.
    """
    reason = why_not(model)
    if reason:
        warnings.warn(f"token mixing stays plain: {reason}", stacklevel=2)
        return model
    # Imports Triton, which not every machine has.
    from .block import FusedBlock

    # Parameters on "meta" have no memory; the model's own modules replace them.
    with torch.device("meta"):
        fused = build_network(model.config)
    for name, part in model.named_children():
        setattr(fused, name, part)
    blocks = nn.ModuleList()
    for block in model.blocks:
        assert isinstance(block, MixerBlock)
        blocks.append(FusedBlock(block, deterministic=deterministic))
    fused.blocks = blocks
    fused.blocks.training = model.blocks.training
    fused.training = model.training
    fused.set_grad_checkpointing(model.grad_checkpointing)
    return fused


@functools.cache
def _machine_lacks(device: torch.device) -> str | None:
    """Say what the machine lacks for the kernels on a device; None if nothing."""
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    if os.environ.get("TRITON_INTERPRET") == "1":
        # Triton's interpreter runs the kernels on the CPU, for the tests.
        return None
    if device.type != "cuda":
        return f"the kernel needs a CUDA device, not {device.type}"
    if not torch.cuda.is_available():
        return "there is no CUDA device"
    if torch.version.hip:
        return "the kernel is not tested on ROCm"
    major, minor = torch.cuda.get_device_capability(device)
    if major < 8:
        # 8.0 is the first with products in bf16 and TF32.
        return f"compute capability {major}.{minor} is older than 8.0"
    return None
