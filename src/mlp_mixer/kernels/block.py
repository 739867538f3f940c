"""A Mixer block whose token branch is one operator."""

from __future__ import annotations

from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..models.mixer import MixerBlock
from .ops import DTYPES, INTERPRETED, float32_products, token_mix


class FusedBlock(MixerBlock):
    """Another way to compute a `MixerBlock`: its very submodules under their own names,
    so its state dict too.

    Where the kernel does not apply (on the CPU, with dropout in training, in float64 or
    in float32 without TF32) a call is computed as in the plain block. Hooks on `norm1`
    and `mlp_tokens` and their parts see nothing of a fused call.
    """

    def __init__(self, block: MixerBlock, *, deterministic: bool) -> None:
        nn.Module.__init__(self)
        for name, part in block.named_children():
            self.add_module(name, part)
        self.deterministic = deterministic
        self.training = block.training

    def forward(
        self,
        x_BSC: Float[Tensor, "B S C"],
        draws_B2: Float[Tensor, "B 2"] | None = None,
    ) -> Float[Tensor, "B S C"]:
        """As in the plain block. Under autocast x is taken in autocast's dtype, which
        is what the network gives it.
        """
        if torch.is_autocast_enabled(x_BSC.device.type):
            x_BSC = x_BSC.to(torch.get_autocast_dtype(x_BSC.device.type))
        if not self._fused(x_BSC):
            return super().forward(x_BSC, draws_B2)
        of_tokens, of_channels = (
            (None, None) if draws_B2 is None else draws_B2.unbind(1)
        )
        norm = self.norm1
        mlp = self.mlp_tokens
        factors_B = None
        if self.training and self.drop_path.rate > 0:  # the plain rule, on ones
            factors_B = self.drop_path(
                x_BSC.new_ones(len(x_BSC), 1, 1), of_tokens
            ).flatten()
        x_BSC, _, _ = token_mix(
            x_BSC.contiguous(), norm.weight, norm.bias, mlp.fc1.weight, mlp.fc1.bias, mlp.fc2.weight, mlp.fc2.bias,
            factors_B, norm.eps, mlp.act.approximate == "tanh", self.deterministic,
        )  # fmt: skip
        if self.training and torch.is_grad_enabled():
            mixed = self._mix_channels_keeping_less(x_BSC)
        else:
            mixed = self.mix_channels(x_BSC)
        return x_BSC + self.drop_path(mixed, of_channels)

    def _mix_channels_keeping_less(self, x_BSC: Tensor) -> Tensor:
        """The backward pass takes GELU once more instead of keeping its result: a third
        of what a block would keep.
        """
        mlp = self.mlp_channels  # without dropout, which is computed plainly
        hidden = mlp.fc1(self.norm2(x_BSC))
        rest = lambda hidden: mlp.fc2(mlp.act(hidden))  # noqa: E731
        return cast(
            Tensor,
            checkpoint(rest, hidden, use_reentrant=False, preserve_rng_state=False),
        )

    def _fused(self, x: Tensor) -> bool:
        if self.training and self.mlp_tokens.drop.p > 0:
            return False
        if INTERPRETED:
            return x.dtype in DTYPES
        if (
            x.dtype == torch.float32 and float32_products() == "ieee"
        ):  # without tensor cores cuBLAS is faster
            return False
        return x.is_cuda and x.dtype in DTYPES
