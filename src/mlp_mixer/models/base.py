"""What a family brings to the one network of mixer.py: a configuration, and the block
that it stands for.

Axes as there, and T tokens after a block.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, get_args, get_origin, get_type_hints

from torch import Tensor, nn

from ..choices import DropPathRule, Gelu
from ..errors import UserError
from .layers import DropPath

Branches = dict[str, Callable[[Tensor], Tensor]]


@dataclass(frozen=True)
class NetworkConfig(ABC):
    """What every family has to know; each adds its widths and options, stated, never
    derived from ratios.
    """

    patch_size: int
    num_blocks: int
    hidden_dim: int
    image_size: tuple[int, int] = field(default=(224, 224), kw_only=True)
    in_channels: int = field(default=3, kw_only=True)
    num_classes: int = field(
        default=1000, kw_only=True
    )  # 0: no head, the network answers with pooled features
    gelu: Gelu = field(
        default="tanh", kw_only=True
    )  # "erf" in timm and most ports; a gMixer has none, whichever
    dropout: float = field(default=0.0, kw_only=True)
    drop_path: float = field(default=0.0, kw_only=True)  # stochastic depth
    drop_path_rule: DropPathRule = field(default="paper", kw_only=True)

    def __post_init__(self) -> None:
        """`UserError` names the field, what came and what is legal."""
        for name, hint in get_type_hints(type(self)).items():
            value = getattr(self, name)
            if hint is int and value < 1 and name != "num_classes":
                raise UserError(f"{name} must be at least 1, got {value}")
            if get_origin(hint) is Literal and value not in get_args(hint):
                raise UserError(
                    f"{name} must be one of {', '.join(get_args(hint))}, got {value!r}"
                )
            if name.endswith("norm_eps") and not 0 < value < 1:
                raise UserError(f"{name} must be above 0 and below 1, got {value}")
            if name in ("dropout", "drop_path") and not 0 <= value < 1:
                raise UserError(f"{name} must be at least 0 and below 1, got {value}")
        if self.num_classes < 0:
            raise UserError(
                f"num_classes must be 0 (no head) or more, got {self.num_classes}"
            )
        if not (isinstance(self.image_size, tuple) and len(self.image_size) == 2):
            raise UserError(
                f"image_size must be (height, width), got {self.image_size!r}"
            )
        height, width = self.image_size
        if (
            height < 1
            or width < 1
            or height % self.patch_size
            or width % self.patch_size
        ):
            legal = "x".join(
                str(_nearest_multiple(side, self.patch_size))
                for side in self.image_size
            )
            raise UserError(
                f"image size {height}x{width} is not divisible by the patch size {self.patch_size}; "
                f"the nearest legal size is {legal}"
            )

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return self.image_size[0] // self.patch_size, self.image_size[
            1
        ] // self.patch_size

    @property
    def num_patches(self) -> int:
        """S, the number of tokens."""
        return self.grid[0] * self.grid[1]

    @abstractmethod
    def block(self, i: int, drop_path: float) -> Block:
        """A new block number `i` (from 0) of the family, with that rate of stochastic
        depth.
        """

    def norm(self) -> nn.Module:
        """A new norm, as after the last block and, in most families, in the blocks."""
        return nn.LayerNorm(self.hidden_dim, eps=1e-6)


def _nearest_multiple(side: int, patch_size: int) -> int:
    return max(1, round(side / patch_size)) * patch_size


class Block(nn.Module, ABC):
    """A block of any family: residual branches, one after the other."""

    def __init__(self, config: NetworkConfig, drop_path: float) -> None:
        super().__init__()
        self.drop_path = DropPath(drop_path, rescale=config.drop_path_rule == "timm")

    @abstractmethod
    def branches(self) -> Branches:
        """What is added to x, in order, by the names of `MlpMixer.features`."""

    def reset_parameters(self) -> None:
        """What begins otherwise than the lecun-normal kernels and zero biases of all
        families.
        """

    def forward(self, x_BSC: Tensor, draws_B2: Tensor | None = None) -> Tensor:
        """draws_B2: each sample's uniform numbers for stochastic depth, one for each
        branch.
        """
        for i, branch in enumerate(self.branches().values()):
            x_BSC = self.add(
                x_BSC, branch(x_BSC), None if draws_B2 is None else draws_B2[:, i]
            )
        return x_BSC

    def add(
        self, x_BSC: Tensor, branch_BTC: Tensor, draws_B: Tensor | None = None
    ) -> Tensor:
        """The skip connection; a branch that changes the number of tokens has none and
        takes the place of x.
        """
        same = x_BSC.shape[1] == branch_BTC.shape[1]
        return x_BSC + self.drop_path(branch_BTC, draws_B) if same else branch_BTC
