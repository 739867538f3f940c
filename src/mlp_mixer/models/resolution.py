"""The same network for another image size or patch size: a configuration and its
tensors in, new ones out.

Only the stem and the token mixing know the grid of patches: the one follows a new patch
    size by FlexiViT's rule
(Beyer et al. 2022, arXiv 2212.08013), the other a new grid by one of two.

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
from .mixer import MixerConfig

Grid = tuple[int, int]
TokenMlp = tuple[Tensor, Tensor, Tensor, Tensor]  # W1 (D, S), b1 (D), W2 (S, D), b2 (S)


def resized(
    config: MixerConfig,
    tensors: Mapping[str, Tensor],
    image_size: int | tuple[int, int],
    *,
    method: ResizeMethod = "block_diagonal",
    patch_size: int | None = None,
) -> tuple[MixerConfig, dict[str, Tensor]]:
    """A network's configuration and state dict, for images of another size; the tensors
    are new, the dtype is kept.

    image_size: side, or (height, width), in pixels. patch_size: in pixels, the old one
        by default.
    method: what happens to the token mixing where the grid of patches changes.
        "block_diagonal": the paper's App. C. The image is cut into T tiles of the old
            grid; W1 and W2 get T copies of themselves along the diagonal, so D grows
            T-fold and they T^2-fold. Exact: the new pooled features are the mean of the
            tiles'. Only for whole multiples of the old grid.
        "interpolate": the weights are resampled as maps over the grid. For any grid; D
            is kept.
    Raises `UserError` for an unknown method, or a size that the patch size, the method
    or the memory does not allow.
    """
    if method not in get_args(ResizeMethod):
        raise unknown("method", method, get_args(ResizeMethod))
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    patch_size = config.patch_size if patch_size is None else patch_size
    target = replace(config, image_size=size, patch_size=patch_size)
    out = {name: tensor.detach().clone() for name, tensor in tensors.items()}
    grow = block_diagonal if method == "block_diagonal" else interpolate
    if method == "block_diagonal":
        _check_tiles(config.grid, target)
        target = replace(
            target,
            tokens_mlp_dim=target.num_patches
            // config.num_patches
            * config.tokens_mlp_dim,
        )
    try:
        if patch_size != config.patch_size:
            out["stem.proj.weight"] = resized_stem(out["stem.proj.weight"], patch_size)
        for i in range(config.num_blocks if target.grid != config.grid else 0):
            names = [
                f"blocks.{i}.mlp_tokens.{part}"
                for part in ("fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias")
            ]
            out |= zip(
                names,
                grow(config.grid, target.grid, *(out[name] for name in names)),
                strict=True,
            )
    except RuntimeError as error:  # torch's, for sizes that no memory has
        raise UserError(
            f"{size[0]}x{size[1]} is too large ({' '.join(str(error).split())}); choose less"
        ) from error
    return target, out


def _check_tiles(old: Grid, target: MixerConfig) -> None:
    """`UserError` unless the new grid is made of whole old ones."""
    unit = [side * target.patch_size for side in old]
    if any(side % step for side, step in zip(target.image_size, unit, strict=True)):
        near = [
            max(1, round(side / step)) * step
            for side, step in zip(target.image_size, unit, strict=True)
        ]
        came, whole, nearest = (
            "x".join(map(str, size)) for size in (target.image_size, unit, near)
        )
        raise UserError(
            f"block_diagonal growth is for whole multiples of {whole}, such as {nearest}, got {came}; "
            "take one of them, or the method interpolate, which is for any size"
        )


def block_diagonal(
    old: Grid, new: Grid, W1: Tensor, b1: Tensor, W2: Tensor, b2: Tensor
) -> TokenMlp:
    """A token MLP for a grid of T tiles, each mixed by the old weights and none with
    another (App. C).
    """
    rows = new[0] // old[0]
    columns = new[1] // old[1]
    # The copies follow each other tile by tile, but tokens row by row over the whole
    # image, which the paper leaves
    # open: for each token in its row, the number it has tile by tile.
    number_N = (
        torch.arange(new[0] * new[1])
        .view(rows, columns, *old)
        .transpose(1, 2)
        .flatten()
    )
    diagonal_TT = torch.eye(rows * columns).to(W1)
    W1 = torch.kron(diagonal_TT, W1)[:, number_N]
    W2 = torch.kron(diagonal_TT, W2)[number_N]
    return W1, b1.repeat(rows * columns), W2, b2.repeat(rows * columns)[number_N]


def interpolate(
    old: Grid, new: Grid, W1: Tensor, b1: Tensor, W2: Tensor, b2: Tensor
) -> TokenMlp:
    """A token MLP that reads the new grid as if resampled to the old one, and whose
    answer is resampled back.
    """
    read_SN = resampling(new, old)
    write_SN = resampling(old, new).T
    return (
        _product(W1, read_SN),
        b1,
        _product(W2.T, write_SN).T.contiguous(),
        _product(b2, write_SN),
    )


def resized_stem(
    kernel: Float[Tensor, "C in_channels P P"], patch_size: int
) -> Float[Tensor, "C in_channels Q Q"]:
    """The stem's kernel for patches of another side: FlexiViT's pseudo-inverse of the
    bilinear resampling of patches.

    A patch that is scaled up is embedded exactly as before; one that is scaled down, as
    closely as can be.
    """
    matrix = resampling((kernel.shape[2], kernel.shape[3]), (patch_size, patch_size))
    return _product(kernel.flatten(2), torch.linalg.pinv(matrix)).view(
        *kernel.shape[:2], patch_size, patch_size
    )


def resampling(old: Grid, new: Grid) -> Float[Tensor, "N S"]:
    """The matrix from maps over the old grid to maps over the new one: bilinear,
    antialiased; rows sum to 1.
    """
    rows, columns = (
        F.interpolate(
            torch.eye(a, dtype=torch.float64)[None, None],
            (b, a),
            mode="bilinear",
            antialias=True,
        )[0, 0]
        for a, b in zip(old, new, strict=True)
    )
    return torch.kron(rows, columns)


def _product(weight: Tensor, matrix: Tensor) -> Tensor:
    """Their product, computed on the CPU in fp64, in the weight's dtype and on its
    device.
    """
    return (weight.cpu().double() @ matrix).to(weight)
