"""Patch side, channels and image size: what the shapes of the tensors tell of them.

Some files leave them open (a flattened stem, a grid that is no square); then the image
size has to be stated. It is never resized to.
"""

from __future__ import annotations

import math

from torch import Tensor

from ...errors import UserError
from .lineage import Entry

Size = tuple[int, int]

# A flattened stem is tried with these numbers of channels: RGB, gray, RGBA.
_CHANNELS_TRIED = (3, 1, 4)


def patch(
    stem: Entry,
    tensor: Tensor,
    num_patches: int,
    source: str,
    image_size: Size | None,
) -> tuple[int, int]:
    """Return the side of a patch in pixels and the number of input channels.

    Args:
        stem: The row of the lineage's table for the weight of the stem.
        tensor: That weight, in the file's layout. If it is flattened, it tells only the
            product P P channels.
        num_patches: How many patches the token MLPs mix.
        source: The file, for the errors.
        image_size: (height, width) that was stated.

    Raises:
        UserError: The patches are not square, or the shape leaves their side open.
    """
    if stem.layout.rows is None:
        _, in_channels, height, width = stem.layout.ours(tensor).shape
        if height != width:
            raise UserError(
                f"{source} has patches of {height}x{width} pixels, expected square ones"
            )
        return height, in_channels
    values = stem.layout.rows(tensor).shape[1]
    if image_size is None:
        for channels in _CHANNELS_TRIED:
            side = math.isqrt(values // channels)
            if side * side * channels == values:
                return side, channels
    else:
        # The stated size settles the side of a patch, and so the channels.
        side = math.isqrt(image_size[0] * image_size[1] // num_patches)
        if side and values % side**2 == 0:
            return side, values // side**2
    at = f" at {image_size[0]}x{image_size[1]} pixels" if image_size else ""
    raise UserError(
        f"{source} flattens each patch to {values} values, which does not tell its "
        f"side and channels{at}; state the image size (height and width) that gives its "
        f"{num_patches} patches"
    )


def channels_guessed(stem: Entry, tensor: Tensor) -> int | None:
    """Return how many values a flattened patch has, which leave its side open.

    Args:
        stem: The row of the lineage's table for the weight of the stem.
        tensor: That weight, in the file's layout.

    Returns:
        The values; None for a stem whose shape tells side and channels.
    """
    return None if stem.layout.rows is None else stem.layout.rows(tensor).shape[1]


def image_size_of(
    num_patches: int, patch_size: int, source: str, image_size: Size | None
) -> Size:
    """Return (height, width): the stated size if it fits, else a square.

    Args:
        num_patches: How many patches the token MLPs mix.
        patch_size: The side of a patch in pixels.
        source: The file, for the errors.
        image_size: (height, width) that was stated.

    Raises:
        UserError: The stated size gives another number of patches, or none is stated
            and the patches form no square.
    """
    if image_size is None:
        side = math.isqrt(num_patches)
        if side * side != num_patches:
            raise UserError(
                f"{source} was made for {num_patches} patches of {patch_size} pixels, "
                "which form no square; state the image size (height and width), such "
                f"as {_example(num_patches, patch_size)}"
            )
        return side * patch_size, side * patch_size
    rows = image_size[0] // patch_size
    columns = image_size[1] // patch_size
    whole = image_size == (rows * patch_size, columns * patch_size)
    if rows * columns != num_patches or not whole:
        raise UserError(
            f"{source} was made for {num_patches} patches of {patch_size} pixels, and "
            f"{image_size[0]}x{image_size[1]} gives {rows} x {columns}; the size is "
            "only stated, never changed to"
        )
    return image_size


def _example(num_patches: int, patch_size: int) -> str:
    """Return the most square size with that many patches, such as "32x48"."""
    rows = math.isqrt(num_patches)
    while num_patches % rows:
        rows -= 1
    columns = num_patches // rows
    return f"{rows * patch_size}x{columns * patch_size}"
