"""The same network for another image size or patch size.

A configuration and its tensors go in, new ones come out. Only the stem and the token
mixing know the grid of patches. The stem is resized by FlexiViT's rule (Beyer et al.
2022, arXiv 2212.08013), token mixing by one of two methods.

Axes: S patches of the old grid, N of the new one, D tokens_mlp_dim, T tiles, C
channels, P and Q patch sides.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ..choices import ResizeMethod
from ..errors import UserError, unknown
from .base import size_pair
from .mixer import MixerConfig

Grid = tuple[int, int]
TokenMlp = tuple[Tensor, Tensor, Tensor, Tensor]
"""W1 (D, S), b1 (D), W2 (S, D), b2 (S)."""

_PARTS = ("fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias")


def resized(
    config: MixerConfig,
    tensors: Mapping[str, Tensor],
    image_size: int | tuple[int, int],
    *,
    method: ResizeMethod = "block_diagonal",
    patch_size: int | None = None,
) -> tuple[MixerConfig, dict[str, Tensor]]:
    """Return a network's configuration and state dict for images of another size.

    Args:
        config: Of the network as it is.
        tensors: Its state dict; it is not changed.
        image_size: Side, or (height, width), in pixels.
        method: What happens to the token mixing where the grid of patches changes.
            "block_diagonal": the paper's App. C. The image is cut into T tiles of the
            old grid; W1 and W2 get T copies of themselves along the diagonal, so D
            grows T-fold and they T^2-fold. Exact: the new pooled features are the mean
            of the tiles'. Only for whole multiples of the old grid.
            "interpolate": the weights are resampled as maps over the grid. For any
            grid; D is kept.
        patch_size: In pixels; the old one by default.

    Returns:
        The new configuration, and new tensors of the old dtype.

    Raises:
        UserError: The method is unknown, or the patch size, the method or the memory
            does not allow the size.
    """
    if method not in get_args(ResizeMethod):
        raise unknown("method", method, get_args(ResizeMethod))
    size = size_pair(image_size)
    patch_size = config.patch_size if patch_size is None else patch_size
    target = replace(config, image_size=size, patch_size=patch_size)
    out = {name: tensor.detach().clone() for name, tensor in tensors.items()}
    grow = interpolate
    if method == "block_diagonal":
        _check_tiles(config.grid, target)
        tiles = target.num_patches // config.num_patches
        target = replace(target, tokens_mlp_dim=tiles * config.tokens_mlp_dim)
        grow = block_diagonal
    try:
        if patch_size != config.patch_size:
            out["stem.proj.weight"] = resized_stem(out["stem.proj.weight"], patch_size)
        if target.grid != config.grid:
            for i in range(config.num_blocks):
                names = [f"blocks.{i}.mlp_tokens.{part}" for part in _PARTS]
                W1, b1, W2, b2 = (out[name] for name in names)
                grown = grow(config.grid, target.grid, W1, b1, W2, b2)
                out |= zip(names, grown, strict=True)
    except RuntimeError as error:
        # torch's, for a size that no memory holds.
        reason = " ".join(str(error).split())
        raise UserError(
            f"{size[0]}x{size[1]} is too large ({reason}); choose less"
        ) from error
    return target, out


def _check_tiles(old: Grid, target: MixerConfig) -> None:
    """Raise `UserError` unless the new grid is made of whole old ones."""
    unit = [side * target.patch_size for side in old]
    sides = list(zip(target.image_size, unit, strict=True))
    if all(side % step == 0 for side, step in sides):
        return
    near = [max(1, round(side / step)) * step for side, step in sides]
    raise UserError(
        f"block_diagonal growth is for whole multiples of {unit[0]}x{unit[1]}, such as "
        f"{near[0]}x{near[1]}, got {target.image_size[0]}x{target.image_size[1]}; "
        "take one of them, or the method interpolate, which is for any size"
    )


def block_diagonal(
    old: Grid, new: Grid, W1: Tensor, b1: Tensor, W2: Tensor, b2: Tensor
) -> TokenMlp:
    """Return a token MLP for a grid of T tiles, each mixed by itself (App. C).

    Args:
        old: Rows and columns of a tile.
        new: Rows and columns of all tiles together.
        W1, b1, W2, b2: The token MLP of one tile.
    """
    rows = new[0] // old[0]
    columns = new[1] // old[1]
    # The copies follow each other tile by tile, but tokens row by row over the whole
    # image, which the paper leaves open: for each token in its row, the number it has
    # tile by tile.
    by_tiles = torch.arange(new[0] * new[1]).view(rows, columns, *old)
    number_N = by_tiles.transpose(1, 2).flatten()
    diagonal_TT = torch.eye(rows * columns).to(W1)
    W1 = torch.kron(diagonal_TT, W1)[:, number_N]
    W2 = torch.kron(diagonal_TT, W2)[number_N]
    b1 = b1.repeat(rows * columns)
    b2 = b2.repeat(rows * columns)[number_N]
    return W1, b1, W2, b2


def interpolate(
    old: Grid, new: Grid, W1: Tensor, b1: Tensor, W2: Tensor, b2: Tensor
) -> TokenMlp:
    """Return a token MLP that works on another grid by resampling to its own and back.

    It reads the new grid as if resampled to the old one, and its answer is resampled
    back.

    Args:
        old: Rows and columns that the MLP has.
        new: Rows and columns that it gets.
        W1, b1, W2, b2: The token MLP.
    """
    read_SN = resampling(new, old)
    write_SN = resampling(old, new).T
    W1 = _product(W1, read_SN)
    W2 = _product(W2.T, write_SN).T.contiguous()
    return W1, b1, W2, _product(b2, write_SN)


def resized_stem(
    kernel: Float[Tensor, "C in_channels P P"], patch_size: int
) -> Float[Tensor, "C in_channels Q Q"]:
    """Return the stem's kernel for patches of another side, by FlexiViT's rule.

    The rule is the pseudo-inverse of the bilinear resampling of patches: a patch that is
    scaled up is embedded exactly as before; one that is scaled down, as closely as can
    be.

    Args:
        kernel: The stem's weight.
        patch_size: Q, the new side, in pixels.
    """
    matrix = resampling((kernel.shape[2], kernel.shape[3]), (patch_size, patch_size))
    flat = _product(kernel.flatten(2), torch.linalg.pinv(matrix))
    return flat.view(*kernel.shape[:2], patch_size, patch_size)


def resampling(old: Grid, new: Grid) -> Float[Tensor, "N S"]:
    """Return the matrix from maps over the old grid to maps over the new one.

    It is bilinear and antialiased, in fp64; each row sums to 1.
    """
    rows = _resampling_of_axis(old[0], new[0])
    columns = _resampling_of_axis(old[1], new[1])
    return torch.kron(rows, columns)


def _resampling_of_axis(old: int, new: int) -> Tensor:
    # Column j of the matrix is what becomes of a one at place j: an identity resampled
    # along one axis holds all of them.
    identity = torch.eye(old, dtype=torch.float64)[None, None]
    size = (new, old)
    return F.interpolate(identity, size, mode="bilinear", antialias=True)[0, 0]


def _product(weight: Tensor, matrix: Tensor) -> Tensor:
    """Return the product, computed in fp64, in the weight's dtype and on its device."""
    return (weight.cpu().double() @ matrix).to(weight)
