"""A Mixer block whose token branch is one operator."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..models.base import Tap, branch_draws, no_tap
from ..models.mixer import MixerBlock
from .launch import DTYPES, INTERPRETED
from .ops import token_mix

# A program takes 128 channels of an image, and walks over all hidden units alone. With
# fewer programs than this most multiprocessors of a large GPU would wait for a few.
LEAST_PROGRAMS = 100


class FusedBlock(MixerBlock):
    """Compute a `MixerBlock` in another way.

    It holds the very submodules of the plain block under their own names, so its state
    dict is the same too. Calls that the kernel does not serve (on the CPU, with
    dropout in training, in float32 or float64), or for which it is too slow (of a few
    images), are computed as in the plain block.
    Hooks on `norm1`, `mlp_tokens` and their parts see nothing of a fused call.

    Args:
        block: The plain block.
        deterministic: Sum the gradients of the weights in a fixed order.
    """

    def __init__(self, block: MixerBlock, *, deterministic: bool) -> None:
        # Not MixerBlock's: that would make parameters, and these exist already.
        nn.Module.__init__(self)
        for name, part in block.named_children():
            self.add_module(name, part)
        self.deterministic = deterministic
        self.training = block.training

    def forward(
        self,
        x_BSC: Float[Tensor, "B S C"],
        draws_B2: Float[Tensor, "B 2"] | None = None,
        tap: Tap = no_tap,
    ) -> Float[Tensor, "B S C"]:
        """Compute the block.

        Args:
            x_BSC: The tokens. Under autocast they are taken in its dtype, in which the
                network gives them.
            draws_B2: Uniform numbers in [0, 1) for stochastic depth, as in the plain
                block.
            tap: Sees each branch. The kernel adds the token branch without showing it,
                so a call with a tap is computed plainly.

        Returns:
            The tokens after both branches.
        """
        if tap is not no_tap:
            return super().forward(x_BSC, draws_B2, tap)
        if torch.is_autocast_enabled(x_BSC.device.type):
            x_BSC = x_BSC.to(torch.get_autocast_dtype(x_BSC.device.type))
        if not self._can_fuse(x_BSC):
            return super().forward(x_BSC, draws_B2)
        token_draws, channel_draws = branch_draws(draws_B2)
        norm = self.norm1
        mlp = self.mlp_tokens
        x_BSC, _, _ = token_mix(
            x_BSC.contiguous(),
            norm.weight,
            norm.bias,
            mlp.fc1.weight,
            mlp.fc1.bias,
            mlp.fc2.weight,
            mlp.fc2.bias,
            self._branch_factors(x_BSC, token_draws),
            norm.eps,
            mlp.act.approximate == "tanh",
            self.deterministic,
        )
        if self.training and torch.is_grad_enabled():
            mixed = self._mix_channels_keeping_less(x_BSC)
        else:
            mixed = self.mix_channels(x_BSC)
        return x_BSC + self.drop_path(mixed, channel_draws)

    def _branch_factors(self, x_BSC: Tensor, draws: Tensor | None) -> Tensor | None:
        """Return each image's factor of the token branch; None without drop path."""
        if not self.training or self.drop_path.rate == 0:
            return None
        # The plain rule applied to ones gives the factors, whichever rule it is.
        ones = x_BSC.new_ones(len(x_BSC), 1, 1)
        return self.drop_path(ones, draws).flatten()

    def _mix_channels_keeping_less(self, x_BSC: Tensor) -> Tensor:
        """Mix channels, and compute GELU again in the backward pass.

        Keeping what goes into GELU but not what comes out saves a third of what the
        block would keep; computing it again costs some 2 % of a step. There is no
        dropout here whose draws would have to be repeated: such blocks run plainly.
        """
        mlp = self.mlp_channels
        hidden = mlp.fc1(self.norm2(x_BSC))

        def rest(hidden: Tensor) -> Tensor:
            return mlp.fc2(mlp.act(hidden))

        return checkpoint(rest, hidden, use_reentrant=False, preserve_rng_state=False)

    def _can_fuse(self, x: Tensor) -> bool:
        """Return whether the kernel serves these tokens, and is worth it."""
        if self.training and self.mlp_tokens.drop.p > 0:
            return False
        if INTERPRETED:
            return x.dtype in DTYPES
        # Not float32, with TF32 or without: its tiles are so small that the weights
        # would be read through the cache four times as often, which takes longer than
        # the plain layers.
        if not x.is_cuda or x.dtype not in (torch.float16, torch.bfloat16):
            return False
        # What is exported with a free batch may not ask for its size.
        return torch.compiler.is_exporting() or _programs(x) >= LEAST_PROGRAMS


def _programs(x: Tensor) -> int:
    """Return how many programs compute the tokens x (B, S, C)."""
    return len(x) * -(-x.shape[2] // 128)
