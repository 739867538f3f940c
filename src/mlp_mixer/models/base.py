"""What a family brings to the network that all families share (isotropic.py).

It brings a configuration, and the block that the configuration stands for. Axes as in
mixer.py.
"""

from __future__ import annotations

import reprlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, get_args, get_origin, get_type_hints

from torch import Tensor, nn

from ..choices import DropPathRule, Gelu
from ..config import plain_numbers
from ..errors import UserError
from .layers import DropPath

Tap = Callable[[str, Tensor], Tensor]
"""A name and a tensor in, the same tensor out: `features` notes it on the way."""


def no_tap(name: str, tensor: Tensor) -> Tensor:
    """Return the tensor: the tap of a forward pass whose intermediates nobody wants."""
    return tensor


@dataclass(frozen=True)
class NetworkConfig(ABC):
    """Describe the architecture, as a checkpoint carries it: the fields of every family.

    Each family adds its widths and options. They are stated, never derived from ratios.

    Attributes:
        patch_size: P, the side of a square patch, in pixels.
        num_blocks: L.
        hidden_dim: C, the channels of a token.
        image_size: Height and width, in pixels; P divides both.
        in_channels: Channels of an image.
        num_classes: K; 0 makes no head, and the network returns pooled features.
        gelu: "erf" in timm and most ports. A gMixer has no GELU and ignores it.
        dropout: The probability to drop a number inside the MLPs.
        drop_path: The probability to drop a branch (stochastic depth).
        drop_path_rule: Which blocks have which rate, and whether what stays is rescaled.
    """

    patch_size: int
    num_blocks: int
    hidden_dim: int
    image_size: tuple[int, int] = field(default=(224, 224), kw_only=True)
    in_channels: int = field(default=3, kw_only=True)
    num_classes: int = field(default=1000, kw_only=True)
    gelu: Gelu = field(default="tanh", kw_only=True)
    dropout: float = field(default=0.0, kw_only=True)
    drop_path: float = field(default=0.0, kw_only=True)
    drop_path_rule: DropPathRule = field(default="paper", kw_only=True)

    def __post_init__(self) -> None:
        """Check every field; the error names it, its value and what is legal.

        Raises:
            UserError: A value is not legal.
        """
        # By type and by name, so that the fields which families add are checked too.
        for name, hint in get_type_hints(type(self)).items():
            value = plain_numbers(getattr(self, name))
            # A checkpoint carries it as JSON, which has no numbers of NumPy.
            object.__setattr__(self, name, value)
            _check_field(name, hint, value)
        if self.num_classes < 0:
            raise UserError(
                f"num_classes must be 0 (no head) or more, got {self.num_classes}"
            )
        _check_image_size(self.image_size, self.patch_size)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        height, width = self.image_size
        return height // self.patch_size, width // self.patch_size

    @property
    def num_patches(self) -> int:
        """S, the number of tokens."""
        rows, columns = self.grid
        return rows * columns

    @property
    def own_blocks(self) -> int:
        """How many blocks at the end have shapes of their own; all others are alike."""
        return 0

    @abstractmethod
    def block(self, i: int, drop_path: float) -> Block:
        """Return a new block of the family.

        Args:
            i: Its number, from 0.
            drop_path: Its rate of stochastic depth.
        """

    def block_norm(self) -> nn.Module:
        """Return a new norm for the beginning of a branch."""
        return nn.LayerNorm(self.hidden_dim, eps=1e-6)

    def last_norm(self) -> nn.Module:
        """Return the norm after the last block."""
        return self.block_norm()


def _check_field(name: str, hint: Any, value: Any) -> None:
    if hint is int and type(value) is not int:
        raise UserError(f"{name} must be an integer, got {value!r}")
    if hint is float and type(value) not in (int, float):
        raise UserError(f"{name} must be a number, got {value!r}")
    if hint is int and value < 1 and name != "num_classes":
        raise UserError(f"{name} must be at least 1, got {value}")
    if get_origin(hint) is Literal and value not in get_args(hint):
        legal = ", ".join(get_args(hint))
        raise UserError(f"{name} must be one of {legal}, got {value!r}")
    if name.endswith("norm_eps") and not 0 < value < 1:
        raise UserError(f"{name} must be above 0 and below 1, got {value}")
    if name in ("dropout", "drop_path") and not 0 <= value < 1:
        raise UserError(f"{name} must be at least 0 and below 1, got {value}")


def _check_image_size(image_size: tuple[int, int], patch_size: int) -> None:
    is_pair = isinstance(image_size, tuple) and len(image_size) == 2
    if not is_pair or any(type(side) is not int for side in image_size):
        raise UserError(f"image_size must be (height, width), got {image_size!r}")
    height, width = image_size
    if min(image_size) >= 1 and height % patch_size == 0 and width % patch_size == 0:
        return
    nearest = [max(1, round(side / patch_size)) * patch_size for side in image_size]
    raise UserError(
        f"image size {height}x{width} is not divisible by the patch size {patch_size}; "
        f"the nearest legal size is {nearest[0]}x{nearest[1]}"
    )


def size_pair(size: int | tuple[int, int]) -> tuple[int, int]:
    """Return (height, width): a single number is the side of a square."""
    sides = plain_numbers(size)
    if isinstance(sides, int):
        return sides, sides
    if not isinstance(sides, (tuple, list)):
        raise UserError(
            f"an image size is a side, or (height, width), in whole pixels, got {size!r}"
        )
    return tuple(sides)


def class_count(num_classes: Any) -> int:
    """Return a number of classes as Python's.

    Args:
        num_classes: Any whole number, also of NumPy or torch.

    Raises:
        UserError: It is no whole number, or below 0.
    """
    count = plain_numbers(num_classes)
    if type(count) is not int or count < 0:
        raise UserError(
            f"num_classes must be 0 (no head) or more, got {reprlib.repr(num_classes)}"
        )
    return count


class Block(nn.Module, ABC):
    """A block of any family: one or two residual branches, one after the other."""

    def __init__(self, config: NetworkConfig, drop_path: float) -> None:
        super().__init__()
        self.drop_path = DropPath(drop_path, rescale=config.drop_path_rule != "paper")

    @abstractmethod
    def forward(
        self, x_BSC: Tensor, draws_B2: Tensor | None = None, tap: Tap = no_tap
    ) -> Tensor:
        """Add each branch to its input.

        Args:
            x_BSC: Tokens.
            draws_B2: Each sample's uniform numbers for stochastic depth, one a branch.
            tap: Sees each branch before its skip connection, by the branch's name.

        Returns:
            Tokens (B, T, C); T is S except in a pyramid.
        """

    def reset_parameters(self) -> None:
        """Initialise what begins otherwise than lecun-normal kernels and zero biases."""


def branch_draws(draws_B2: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    """Return the draws of the first branch and those of the second, (B,) each."""
    if draws_B2 is None:
        return None, None
    return draws_B2[:, 0], draws_B2[:, 1]
