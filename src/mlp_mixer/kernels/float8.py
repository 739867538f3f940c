"""Inference with the channel MLPs' products in fp8 (e4m3): 88 % of a Mixer's
multiplications at twice bf16's rate.

Weights are rounded once, with a scale for each output channel; activations as they
come, with a scale for each token, both such that the largest value is e4m3's largest.
Sums are float32, all else is bf16. Token mixing stays in bf16: its products are small,
and the fused kernel keeps what lies between them out of memory, where fp8 would save
most.

Axes: M tokens of all images, N outputs, K inputs.
"""

from __future__ import annotations

import copy

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..errors import UserError
from ..models.mixer import MixerConfig, MlpMixer

E4M3 = torch.float8_e4m3fn
_LARGEST = torch.finfo(E4M3).max  # 448; a cast makes NaN of what would round to more
_STEP = 16  # bytes: rows of the factors, and of the results, are aligned to it on CUDA


def why_not_fp8(
    model: MlpMixer, device: torch.device | str | None = None
) -> str | None:
    """Why `fp8(model)` cannot be, in words; None if it can. On the CPU it can: slowly,
    to see what it does to answers.

    device: where it will run; by default where its parameters are.
    """
    place = torch.device(device or model.stem.proj.weight.device)
    config = model.config
    if not isinstance(config, MixerConfig):
        return "its blocks are not those of a Mixer"
    if config.hidden_dim % _STEP or config.channels_mlp_dim % _STEP:
        return f"its widths {config.hidden_dim} and {config.channels_mlp_dim} are not both multiples of {_STEP}"
    if place.type not in ("cpu", "cuda") or torch.version.hip:
        return f"fp8 is built for CUDA and the CPU, not for {'ROCm' if torch.version.hip else place.type}"
    if place.type == "cuda":
        if not torch.cuda.is_available():
            return "there is no CUDA device"
        major, minor = torch.cuda.get_device_capability(place)
        if (major, minor) < (8, 9):
            return f"compute capability {major}.{minor} is older than 8.9, the first with products in fp8"
    return None


def fp8(model: MlpMixer) -> MlpMixer:
    """A copy in bf16 for inference, in evaluation mode, whose channel MLPs multiply in
    e4m3; weights are rounded here.

    Images come in bf16. Its answers differ from the model's by some percent: measure
    what that costs on your data. `fuse` it and `torch.compile` it: then the norm and
    GELU before each product also round, in the same pass. Give it to no `.to(dtype)`,
    which would take the rounded weights for numbers of any float type. Raises
    `UserError` with the reason of `why_not_fp8`.
    """
    if reason := why_not_fp8(model):
        raise UserError(f"this model cannot run in fp8: {reason}; use bf16")
    rounded = copy.deepcopy(model).eval().requires_grad_(False).to(torch.bfloat16)
    for name, linear in model.named_modules():
        if isinstance(linear, nn.Linear) and ".mlp_channels." in name:
            rounded.set_submodule(name, Fp8Linear(linear))
    return rounded


class Fp8Linear(nn.Module):
    """Takes the place of an `nn.Linear` in inference: its weight in e4m3, x rounded row
    by row, the result in bf16.
    """

    weight: Tensor  # (N, K) in e4m3
    scale: Tensor  # (1, N) in float32
    bias: Tensor  # (N) in bf16

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight, scale = rounded_rows(linear.weight.detach())
        self.register_buffer("weight", weight)
        self.register_buffer("scale", scale.t().contiguous())
        self.register_buffer("bias", linear.bias.detach().to(torch.bfloat16))

    def forward(self, x: Float[Tensor, "*batch K"]) -> Float[Tensor, "*batch N"]:
        rows, scale = rounded_rows(x.flatten(0, -2))
        y = torch._scaled_mm(
            rows,
            self.weight.t(),
            scale,
            self.scale,
            bias=self.bias,
            out_dtype=torch.bfloat16,
            use_fast_accum=True,
        )
        return y.view(*x.shape[:-1], -1)


def rounded_rows(
    x: Float[Tensor, "M K"],
) -> tuple[Float[Tensor, "M K"], Float[Tensor, "M 1"]]:
    """x / scale in e4m3, and in float32 the scale of each row, which puts its largest
    value at e4m3's largest.
    """
    scale = (
        x.abs().amax(1).float().clamp(min=1e-12)[:, None] / _LARGEST
    )  # a row of zeros stays one
    return (x.float() / scale).to(E4M3), scale
