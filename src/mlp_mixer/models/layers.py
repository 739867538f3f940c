"""Small parts of a Mixer, each boring on purpose.

Axes: B batch, S patches (tokens), C channels (hidden), P patch side.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.fx import Proxy

from ..choices import DropPathRule, Gelu

# Standard deviation of a unit normal truncated at two sigma: jax's variance_scaling
# divides by it.
_TRUNCATED_STD = 0.87962566103423978


def lecun_normal_(weight: Tensor) -> Tensor:
    """Fill with a truncated normal of variance 1 / fan_in.

    `flax.linen.Dense` and `Conv` begin so by default.
    """
    std = 1 / math.sqrt(weight[0].numel()) / _TRUNCATED_STD
    return nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)


def timm_init_(layer: nn.Linear, bias_std: float = 1e-6) -> None:
    """Initialise a layer as timm begins its own networks.

    The kernel is Xavier-uniform (variance 2 / (fan_in + fan_out)), the bias almost zero.

    Args:
        layer: Any linear layer but the head.
        bias_std: Deviation of the bias; timm has 0 outside its MLPs.
    """
    nn.init.xavier_uniform_(layer.weight)
    nn.init.normal_(layer.bias, std=bias_std)


def is_traced(value: object) -> bool:
    """Return whether torch.fx traces a call: then a tensor has no shape yet."""
    return isinstance(value, Proxy)


def gelu_layer(gelu: Gelu) -> nn.GELU:
    """Return a GELU: the tanh approximation or the exact form."""
    return nn.GELU(approximate="tanh" if gelu == "tanh" else "none")


class PatchEmbed(nn.Module):
    """Cut an image into P x P patches and map each to C channels.

    The tokens come in row-major order.
    """

    def __init__(self, in_channels: int, hidden_dim: int, patch_size: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(
            in_channels, hidden_dim, kernel_size=patch_size, stride=patch_size
        )

    def forward(
        self, image: Float[Tensor, "B in_channels H W"]
    ) -> Float[Tensor, "B S C"]:
        return self.proj(image).flatten(2).transpose(1, 2)


class Mlp(nn.Module):
    """Apply Dense, GELU, dropout, Dense, dropout over the last axis."""

    def __init__(
        self,
        dim: int,
        hidden_dim: int,
        out_dim: int | None = None,
        *,
        gelu: Gelu,
        dropout: float,
    ) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.act = gelu_layer(gelu)
        self.fc2 = nn.Linear(hidden_dim, out_dim or dim)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch out"]:
        return self.drop(self.fc2(self.drop(self.act(self.fc1(x)))))


class DropPath(nn.Module):
    """Drop a residual branch for a whole sample, in training (stochastic depth).

    `rescale=True` divides what is kept by the keep probability (timm, DeiT); `False`
    leaves it as it is, which is what google-research/big_vision does and the published Mixers
    were trained with.
    """

    def __init__(self, rate: float, *, rescale: bool) -> None:
        super().__init__()
        self.rate = rate
        self.rescale = rescale

    def forward(
        self, branch: Float[Tensor, "B S C"], draws: Float[Tensor, " B"] | None = None
    ) -> Float[Tensor, "B S C"]:
        """Return the branch, with zeros for the samples that drop it.

        Args:
            branch: What a block would add to its input.
            draws: Uniform in [0, 1), one a sample; a branch is kept where its draw is
                below the keep probability. Without them torch's generator decides; a
                training run hands each sample its own (see `randomness`).
        """
        if not self.training or self.rate == 0:
            return branch
        keep = 1 - self.rate
        if draws is None:
            # Not by the number of samples, which torch.fx does not know.
            draws = torch.rand_like(branch[:, 0, 0], dtype=torch.float32)
        kept = (draws < keep).to(branch.dtype)[:, None, None]
        return branch * (kept / keep if self.rescale else kept)

    def extra_repr(self) -> str:
        return f"rate={self.rate:.3g}, rescale={self.rescale}"


def drop_path_rates(rule: DropPathRule, rate: float, num_blocks: int) -> list[float]:
    """Return the rate of each block.

    It rises linearly from 0 to `rate`; by the rule "timm" it is the same everywhere.
    """
    if rule == "timm":
        return [rate] * num_blocks
    return [rate * i / max(num_blocks - 1, 1) for i in range(num_blocks)]
