"""Inference with the products of the channel MLPs in fp8 (e4m3).

These products are 88 % of a Mixer's multiplications, and fp8 doubles bf16's rate.
Weights are rounded once, with a scale for each output channel; activations at every
call, with a scale for each token. Each scale puts the largest value at e4m3's largest.
Sums are float32, all else is bf16. Token mixing stays in bf16: its products are small,
and the fused kernel already keeps the hidden values out of memory, where fp8 would
save most.

Axes: M tokens of all images, N outputs, K inputs.
"""

from __future__ import annotations

import copy

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..errors import UserError
from ..models.isotropic import IsotropicMlp
from ..models.mixer import MixerConfig

E4M3 = torch.float8_e4m3fn
# 448. A cast makes NaN of a value that would round to more, so scales end here.
_LARGEST = torch.finfo(E4M3).max
# Bytes: on CUDA the rows of both factors and of the result are aligned to it.
_ALIGNMENT = 16


def why_not_fp8(
    model: IsotropicMlp, device: torch.device | str | None = None
) -> str | None:
    """Return why `fp8(model)` cannot be used, in words; None if it can.

    The CPU can compute it too: slowly, to see what fp8 does to answers.

    Args:
        model: The network.
        device: Where it will run; by default where its parameters are.
    """
    place = torch.device(device or model.stem.proj.weight.device)
    config = model.config
    if not isinstance(config, MixerConfig):
        return "its blocks are not those of a Mixer"
    widths = (config.hidden_dim, config.channels_mlp_dim)
    if any(width % _ALIGNMENT for width in widths):
        return (
            f"its widths {widths[0]} and {widths[1]} are not both multiples of "
            f"{_ALIGNMENT}"
        )
    if torch.version.hip:
        return "fp8 is built for CUDA and the CPU, not for ROCm"
    if place.type not in ("cpu", "cuda"):
        return f"fp8 is built for CUDA and the CPU, not for {place.type}"
    if place.type == "cuda":
        return _cuda_lacks(place)
    return None


def _cuda_lacks(device: torch.device) -> str | None:
    """Say why a CUDA device has no products in fp8; None if it has."""
    if not torch.cuda.is_available():
        return "there is no CUDA device"
    major, minor = torch.cuda.get_device_capability(device)
    if (major, minor) < (8, 9):
        return (
            f"compute capability {major}.{minor} is older than 8.9, the first with "
            "products in fp8"
        )
    return None


def fp8(model: IsotropicMlp) -> IsotropicMlp:
    """Copy a model for inference, with the products of its channel MLPs in e4m3.

    The answers differ from the model's by some percent: measure what that costs on
    your data. For speed, `fuse` the copy and `torch.compile` it: then the norm and the
    GELU before each product also round, in the same pass. Do not call `.to(dtype)` on
    it: that would cast the fp8 weights without their scales.

    Args:
        model: A Mixer; it is not changed.

    Returns:
        The copy in bf16 and in evaluation mode, which takes images in bf16.

    Raises:
        UserError: `why_not_fp8(model)` has a reason.
    """
    if reason := why_not_fp8(model):
        raise UserError(f"this model cannot run in fp8: {reason}; use bf16")
    rounded = copy.deepcopy(model).eval().requires_grad_(False).to(torch.bfloat16)
    # Weights are rounded once, from the model's own numbers: from the bf16 copy they
    # would be rounded twice.
    for name, linear in model.named_modules():
        if isinstance(linear, nn.Linear) and ".mlp_channels." in name:
            rounded.set_submodule(name, Fp8Linear(linear))
    return rounded


class Fp8Linear(nn.Module):
    """Take the place of an `nn.Linear` in inference, with its product in fp8.

    The weight is stored in e4m3, x is rounded row by row, and the result is bf16.

    Args:
        linear: The layer to replace.

    Attributes:
        weight: (N, K) in e4m3.
        scale: (1, N) in float32: one for each output.
        bias: (N) in bf16.
    """

    weight: Tensor
    scale: Tensor
    bias: Tensor

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight, scale = rounded_rows(linear.weight.detach())
        self.register_buffer("weight", weight)
        self.register_buffer("scale", scale.t().contiguous())
        self.register_buffer("bias", linear.bias.detach().to(torch.bfloat16))

    def forward(self, x: Float[Tensor, "*batch K"]) -> Float[Tensor, "*batch N"]:
        """Return x W' + b in bf16.

        Args:
            x: Any float dtype.
        """
        rows, row_scales = rounded_rows(x.flatten(0, -2))
        if not rows.is_cuda:
            return self._plainly(rows, row_scales).view(*x.shape[:-1], -1)
        # Hopper sums fp8 products in 14 bits unless it moves them to float32 often.
        # Without fast accumulation it does so, and is slower than bf16.
        y = torch._scaled_mm(
            rows,
            self.weight.t(),
            row_scales,
            self.scale,
            bias=self.bias,
            out_dtype=torch.bfloat16,
            use_fast_accum=True,
        )
        return y.view(*x.shape[:-1], -1)

    def _plainly(self, rows: Tensor, row_scales: Tensor) -> Tensor:
        """Multiply the rounded numbers themselves, which are exact in float32.

        Torch's own product on the CPU takes no scale for each row in its version 2.11.
        """
        sums = rows.float() @ self.weight.t().float()
        y = sums * row_scales * self.scale + self.bias.float()
        return y.to(torch.bfloat16)


def rounded_rows(
    x: Float[Tensor, "M K"],
) -> tuple[Float[Tensor, "M K"], Float[Tensor, "M 1"]]:
    """Round each row of x to e4m3 with a scale of its own.

    Args:
        x: Any float dtype.

    Returns:
        x / scale in e4m3, and the scales in float32. A scale puts the largest value of
        its row at e4m3's largest.
    """
    # The clamp keeps a row of zeros a row of zeros: 0 / 0 would be NaN.
    largest = x.abs().amax(1).float().clamp(min=1e-12)
    scale = largest[:, None] / _LARGEST
    return (x.float() / scale).to(E4M3), scale
