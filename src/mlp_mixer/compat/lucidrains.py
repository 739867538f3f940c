"""The constructors of github.com/lucidrains/mlp-mixer-pytorch 0.3.1.

Their arguments, names and numbers are kept, and a trap: since 0.3.0 `expansion_factor`
widens the token MLP and `expansion_factor_token` the channel MLP.

Axes: B batch, S patches (tokens), C dim, K classes, T frames, P patch side, R frames of
a patch. A suffix names them.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn

from ..errors import UserError
from ..models.base import size_pair
from ..models.mixer import MixerConfig
from ..models.nd import cut_patches


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
    """Return a network from images (B, channels, H, W) to logits (B, K).

    It begins with torch's default initialisation.

    Args:
        image_size: Side, or (height, width), in pixels.
        channels: Of an image.
        patch_size: P, in pixels.
        dim: C.
        depth: Blocks.
        num_classes: K.
        expansion_factor: Times C gives the width of the token MLP, whatever its name
            says; truncated.
        expansion_factor_token: Times C gives the width of the channel MLP; truncated.
        dropout: The probability to drop a number inside the MLPs.

    Raises:
        UserError: A size cannot be built.
    """
    patch = _Patch(patch_size)
    shape = (channels, *_sides(image_size))
    factors = (expansion_factor, expansion_factor_token)
    return _build(shape, patch, dim, depth, num_classes, factors, dropout)


def MLPMixer3D(  # noqa: N802  (the name people know)
    *,
    time_size: int,
    time_patch_size: int,
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
    """Return a network from videos (B, channels, T, H, W) to logits (B, K).

    It is `MLPMixer` on boxes of P x P pixels and R frames.

    Args:
        time_size: T.
        time_patch_size: R; it divides T.
        image_size: As in `MLPMixer`, like the rest.
        channels: Of an image.
        patch_size: P, in pixels.
        dim: C.
        depth: Blocks.
        num_classes: K.
        expansion_factor: Of the token MLP.
        expansion_factor_token: Of the channel MLP.
        dropout: The probability to drop a number inside the MLPs.

    Raises:
        UserError: A size cannot be built.
    """
    if time_patch_size < 1 or time_size < 1 or time_size % time_patch_size:
        raise UserError(
            f"time_size {time_size} is not divisible by time_patch_size "
            f"{time_patch_size}; make it so"
        )
    patch = _Patch(patch_size, time_patch_size)
    shape = (channels, time_size, *_sides(image_size))
    factors = (expansion_factor, expansion_factor_token)
    return _build(shape, patch, dim, depth, num_classes, factors, dropout)


@dataclass(frozen=True)
class _Patch:
    side: int  # P
    frames: int = 1  # R


def _sides(image_size: int | Sequence[int]) -> tuple[int, int]:
    sides = image_size if isinstance(image_size, int) else tuple(image_size)
    if isinstance(sides, tuple) and len(sides) != 2:
        raise UserError(
            f"image_size must be the side or (height, width), got {image_size!r}"
        )
    return size_pair(sides)


def _build(
    shape: tuple[int, ...],
    patch: _Patch,
    dim: int,
    depth: int,
    num_classes: int,
    factors: tuple[float, float],
    dropout: float,
) -> nn.Sequential:
    if num_classes < 1:
        raise UserError(f"num_classes must be at least 1, got {num_classes}")
    # Only to check every number, in the words of our own networks.
    config = MixerConfig(
        patch_size=patch.side,
        num_blocks=depth,
        hidden_dim=dim,
        tokens_mlp_dim=int(factors[0] * dim),
        channels_mlp_dim=int(factors[1] * dim),
        image_size=(shape[-2], shape[-1]),
        in_channels=shape[0],
        dropout=dropout,
    )
    if factors == (4.0, 0.5):
        warnings.warn(
            f"the default expansions make the token MLP 4*dim = {config.tokens_mlp_dim} "
            f"and the channel MLP dim/2 = {config.channels_mlp_dim} wide, which is not "
            "the paper's Mixer; for its widths pass expansion_factor=0.5 and "
            "expansion_factor_token=4, or use mlp_mixer.create_model('mixer_s16')",
            UserWarning,
            stacklevel=3,
        )
    # Without a time axis the product is that of nothing, 1.
    moments = math.prod(shape[1:-2]) // patch.frames
    num_patches = config.num_patches * moments
    values = patch.side**2 * patch.frames * shape[0]
    return nn.Sequential(
        Patches(shape, patch.side, patch.frames),
        nn.Linear(values, dim),
        *(_block(config, num_patches) for _ in range(depth)),
        nn.LayerNorm(dim),
        MeanTokens(),
        nn.Linear(dim, num_classes),
    )


def _block(config: MixerConfig, num_patches: int) -> nn.Sequential:
    C = config.hidden_dim
    D_S = config.tokens_mlp_dim
    D_C = config.channels_mlp_dim
    # Convolutions of width 1 take the tokens of (B, S, C) for channels, so that nothing
    # is transposed. The order is that of the original: a seed gives the same weights.
    widen = nn.Conv1d(num_patches, D_S, 1)
    narrow = nn.Conv1d(D_S, num_patches, 1)
    mix_tokens = _mlp(widen, narrow, config.dropout)
    mix_channels = _mlp(nn.Linear(C, D_C), nn.Linear(D_C, C), config.dropout)
    return nn.Sequential(
        PreNormResidual(C, mix_tokens),
        PreNormResidual(C, mix_channels),
    )


def _mlp(widen: nn.Module, narrow: nn.Module, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        widen, nn.GELU(), nn.Dropout(dropout), narrow, nn.Dropout(dropout)
    )


class Patches(nn.Module):
    """Map (B, channels, [T,] H, W) to patches (B, S, P*P*R*channels).

    They come by row, column, frame, and so do the values in one.
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
                f"this model takes inputs of shape (batch, {expected}), "
                f"got {tuple(image.shape)}"
            )
        patch: tuple[int, ...] = (self.patch_size, self.patch_size)
        if image.ndim == 5:
            # Time last, as the values of a patch have it.
            image = image.movedim(2, -1)
            patch = (*patch, self.time_patch_size)
        return cut_patches(image, patch).flatten(1, -2)

    def extra_repr(self) -> str:
        patch = f"patch_size={self.patch_size}, time_patch_size={self.time_patch_size}"
        return f"{self.shape}, {patch}"


class PreNormResidual(nn.Module):
    """Apply norm, `fn` and skip connection."""

    def __init__(self, dim: int, fn: nn.Module) -> None:
        super().__init__()
        self.fn = fn
        self.norm = nn.LayerNorm(dim)

    def forward(self, x_BSC: Float[Tensor, "B S C"]) -> Float[Tensor, "B S C"]:
        return x_BSC + self.fn(self.norm(x_BSC))


class MeanTokens(nn.Module):
    """Take the mean over the tokens."""

    def forward(self, x_BSC: Float[Tensor, "B S C"]) -> Float[Tensor, "B C"]:
        return x_BSC.mean(dim=1)
