"""The constructors of github.com/lucidrains/mlp-mixer-pytorch 0.3.1: their arguments,
names and numbers.

A trap is kept: since 0.3.0 `expansion_factor` widens the token MLP and
    `expansion_factor_token` the channel MLP.

Axes: B batch, S patches (tokens), C dim, K classes, T frames, P patch side, R frames of
    a patch. A suffix names them.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from ..errors import UserError
from ..models.mixer import MixerConfig
from ..models.nd import cut_patches


class Patches(nn.Module):
    """(B, channels, [T,] H, W) -> (B, S, P*P*R*channels): patches by row, column,
    frame; so are the values in one.
    """

    def __init__(
        self, shape: tuple[int, ...], patch_size: int, time_patch_size: int
    ) -> None:
        super().__init__()
        self.shape = shape
        self.patch_size = patch_size
        self.time_patch_size = time_patch_size

    def forward(
        self, image: Float[Tensor, "B channels *THW"]
    ) -> Float[Tensor, "B S values"]:
        if tuple(image.shape[1:]) != self.shape:
            expected = ", ".join(map(str, self.shape))
            raise UserError(
                f"this model takes inputs of shape (batch, {expected}), got {tuple(image.shape)}"
            )
        patch = (self.patch_size, self.patch_size, self.time_patch_size)[
            : image.ndim - 2
        ]
        return cut_patches(
            image.movedim(2, -1) if image.ndim == 5 else image, patch
        ).flatten(1, -2)

    def extra_repr(self) -> str:
        return f"{self.shape}, patch_size={self.patch_size}, time_patch_size={self.time_patch_size}"


class PreNormResidual(nn.Module):
    """Norm, `fn`, skip connection."""

    def __init__(self, dim: int, fn: nn.Module) -> None:
        super().__init__()
        self.fn = fn
        self.norm = nn.LayerNorm(dim)

    def forward(self, x_BSC: Float[Tensor, "B S C"]) -> Float[Tensor, "B S C"]:
        return x_BSC + self.fn(self.norm(x_BSC))


class MeanTokens(nn.Module):
    """The mean over the tokens."""

    def forward(self, x_BSC: Float[Tensor, "B S C"]) -> Float[Tensor, "B C"]:
        return x_BSC.mean(dim=1)


def MLPMixer(  # noqa: N802  (the name people know)
    *,
    image_size: int | Sequence[int],
    channels: int,
    patch_size: int,
    dim: int,
    depth: int,
    num_classes: int,
    expansion_factor: float = 4,
    expansion_factor_token: float = 0.5,
    dropout: float = 0.0,
) -> nn.Sequential:
    """Images (B, channels, H, W) -> logits (B, K), with torch's default initialisation.

    image_size: side, or (height, width). The token MLP is int(expansion_factor * dim)
        wide and the channel MLP
    int(expansion_factor_token * dim), whatever their names say. Raises `UserError` for
    what cannot be built.
    """
    shape = (channels, *_pair(image_size))
    factors = (expansion_factor, expansion_factor_token)
    return _build(shape, patch_size, 1, dim, depth, num_classes, factors, dropout)


def MLPMixer3D(  # noqa: N802  (the name people know)
    *,
    image_size: int | Sequence[int],
    time_size: int,
    channels: int,
    patch_size: int,
    time_patch_size: int,
    dim: int,
    depth: int,
    num_classes: int,
    expansion_factor: float = 4,
    expansion_factor_token: float = 0.5,
    dropout: float = 0.0,
) -> nn.Sequential:
    """Videos (B, channels, T, H, W) -> logits (B, K): `MLPMixer` on boxes of P x P
    pixels and R frames.
    """
    if time_patch_size < 1 or time_size < 1 or time_size % time_patch_size:
        raise UserError(
            f"time_size {time_size} is not divisible by time_patch_size {time_patch_size}; make it so"
        )
    shape = (channels, time_size, *_pair(image_size))
    factors = (expansion_factor, expansion_factor_token)
    return _build(
        shape, patch_size, time_patch_size, dim, depth, num_classes, factors, dropout
    )


def _pair(image_size: int | Sequence[int]) -> tuple[int, int]:
    sides = (
        (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
    )
    if len(sides) != 2:
        raise UserError(
            f"image_size must be the side or (height, width), got {image_size!r}"
        )
    return sides


def _build(
    shape: tuple[int, ...],
    patch_size: int,
    time_patch_size: int,
    dim: int,
    depth: int,
    num_classes: int,
    factors: tuple[float, float],
    dropout: float,
) -> nn.Sequential:
    tokens_mlp_dim, channels_mlp_dim = (int(factor * dim) for factor in factors)
    if num_classes < 1:
        raise UserError(f"num_classes must be at least 1, got {num_classes}")
    config = MixerConfig(  # checks every number
        patch_size=patch_size,
        num_blocks=depth,
        hidden_dim=dim,
        tokens_mlp_dim=tokens_mlp_dim,
        channels_mlp_dim=channels_mlp_dim,
        image_size=(shape[-2], shape[-1]),
        in_channels=shape[0],
        dropout=dropout,
    )
    if factors == (4.0, 0.5):
        warnings.warn(
            f"the default expansions make the token MLP 4*dim = {tokens_mlp_dim} and the channel MLP dim/2 = "
            f"{channels_mlp_dim} wide, which is not the paper's Mixer; for its widths pass expansion_factor=0.5 and "
            "expansion_factor_token=4, or use mlp_mixer.create_model('mixer_s16')",
            UserWarning,
            stacklevel=3,
        )
    num_patches = config.num_patches * (math.prod(shape[1:-2]) // time_patch_size)
    return nn.Sequential(
        Patches(shape, patch_size, time_patch_size),
        nn.Linear(patch_size**2 * time_patch_size * shape[0], dim),
        *(
            _block(dim, num_patches, tokens_mlp_dim, channels_mlp_dim, dropout)
            for _ in range(depth)
        ),
        nn.LayerNorm(dim),
        MeanTokens(),
        nn.Linear(dim, num_classes),
    )


def _block(
    dim: int,
    num_patches: int,
    tokens_mlp_dim: int,
    channels_mlp_dim: int,
    dropout: float,
) -> nn.Sequential:
    """The token MLP is made of convolutions of width 1 on (B, S, C), so that nothing is
    transposed.
    """
    widen = nn.Conv1d(num_patches, tokens_mlp_dim, 1)
    narrow = nn.Conv1d(tokens_mlp_dim, num_patches, 1)
    mix_tokens = nn.Sequential(
        widen, nn.GELU(), nn.Dropout(dropout), narrow, nn.Dropout(dropout)
    )
    fc1 = nn.Linear(dim, channels_mlp_dim)
    fc2 = nn.Linear(channels_mlp_dim, dim)
    mix_channels = nn.Sequential(
        fc1, nn.GELU(), nn.Dropout(dropout), fc2, nn.Dropout(dropout)
    )
    return nn.Sequential(
        PreNormResidual(dim, mix_tokens), PreNormResidual(dim, mix_channels)
    )
