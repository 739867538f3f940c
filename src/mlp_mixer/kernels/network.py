"""A Mixer with the same parameters, computed by the fused kernels; or the reason why
not.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import warnings

import torch
from torch import nn

from ..models.mixer import MixerBlock, MixerConfig, MlpMixer
from .tiles import MOST_TOKENS

_MOST_CHANNELS = 8192  # LayerNorm holds whole rows in registers


def available(device: torch.device | str | None = None) -> bool:
    """Whether this machine can run the kernels, on `device` or on the current CUDA
    device.
    """
    return _machine_lacks(torch.device(device or "cuda")) is None


def why_not(model: MlpMixer, device: torch.device | str | None = None) -> str | None:
    """Why `fuse(model)` would change nothing, in words; None if it can be fused.

    device: where it will run; by default where its parameters are, or the current CUDA
        device if that is the CPU.
    """
    own = model.stem.proj.weight.device
    place = (
        torch.device(device)
        if device is not None
        else own
        if own.type != "cpu"
        else torch.device("cuda")
    )
    lacking = _machine_lacks(place)
    if lacking:
        return lacking
    config = model.config
    if not isinstance(config, MixerConfig):
        return "its blocks are not those of a Mixer"
    if config.num_patches > MOST_TOKENS:
        return f"it has {config.num_patches} tokens, and the kernel holds at most {MOST_TOKENS}"
    if config.hidden_dim > _MOST_CHANNELS:
        return f"it has {config.hidden_dim} channels, and the kernel's norm holds at most {_MOST_CHANNELS}"
    if config.dropout > 0 and model.training:
        return "dropout inside the MLPs is on in training, and the kernel has none"
    if model.stem.proj.weight.dtype == torch.float64:
        return "its parameters are float64, and the kernel sums in float32"
    return None


def fuse(model: MlpMixer, *, deterministic: bool = True) -> MlpMixer:
    """The same network with its token mixing in one kernel, in bf16, fp16 or (with TF32
    allowed) fp32.

    The result shares all its modules but the blocks themselves with `model`: the same
        parameters, the same state dict,
    and training either trains both. Fuse before wrapping (DDP, `fully_shard`,
    `torch.compile`), and before or after moving to the GPU; calls that the kernel
    cannot take, such as on the CPU, are computed plainly.
    deterministic: sum the weights' gradients in a fixed order. Else atomics, with a
        smaller workspace.

    Where `why_not(model)` has a reason, that reason is a warning and `model` itself is
    what comes back.
    """
    reason = why_not(model)
    if reason:
        warnings.warn(f"token mixing stays plain: {reason}", stacklevel=2)
        return model
    from .block import FusedBlock  # imports Triton, which not every machine has

    with torch.device("meta"):
        fused = MlpMixer(model.config)
    for name, part in model.named_children():
        setattr(fused, name, part)
    blocks: list[MixerBlock] = [
        block for block in model.blocks if isinstance(block, MixerBlock)
    ]
    fused.blocks = nn.ModuleList(
        FusedBlock(block, deterministic=deterministic) for block in blocks
    )
    fused.blocks.training, fused.training = model.blocks.training, model.training
    fused.set_grad_checkpointing(model.grad_checkpointing)
    return fused


@functools.cache
def _machine_lacks(device: torch.device) -> str | None:
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    if os.environ.get("TRITON_INTERPRET") == "1":
        return None  # the interpreter computes on the CPU, for the tests
    if device.type != "cuda":
        return f"the kernel needs a CUDA device, not {device.type}"
    if not torch.cuda.is_available():
        return "there is no CUDA device"
    if torch.version.hip:
        return "the kernel is not tested on ROCm"
    major, minor = torch.cuda.get_device_capability(device)
    return (
        f"compute capability {major}.{minor} is older than 8.0" if major < 8 else None
    )
