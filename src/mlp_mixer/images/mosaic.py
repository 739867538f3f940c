"""Put many small images of one size beside and below each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def mosaic(
    tiles_NHWC: NDArray[Any],
    *,
    columns: int,
    gap: int,
    colour: int | Sequence[int],
    scale: int = 1,
) -> NDArray[np.uint8]:
    """Draw tiles in reading order, with a frame around each.

    Args:
        tiles_NHWC: N uint8 images of H x W pixels and C channels.
        columns: Tiles in a row; the last row may hold fewer.
        gap: The width of the frames in pixels; two neighbours share one.
        colour: Of the frames and of places without a tile, 0 to 255: one grey, or a
            value for each channel.
        scale: Enlarge every pixel to a square of `scale` x `scale`.

    Returns:
        One uint8 image (height, width, C).
    """
    tiles = tiles_NHWC.repeat(scale, axis=1).repeat(scale, axis=2)
    count, height, width, channels = tiles.shape
    rows = -(-count // columns)
    # Each tile brings the frame above and to its left; the last frame closes the sheet.
    sheet = np.empty(
        (rows * (height + gap) + gap, columns * (width + gap) + gap, channels),
        dtype=np.uint8,
    )
    sheet[:] = colour
    for index, tile in enumerate(tiles):
        top = gap + index // columns * (height + gap)
        left = gap + index % columns * (width + gap)
        sheet[top : top + height, left : left + width] = tile
    return sheet
