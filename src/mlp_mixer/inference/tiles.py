"""Pictures with more pixels than a network takes: cut into tiles, answered together."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..images.preprocess import Preprocess

_MOST_TILES = 4  # a side


def cut(image: np.ndarray[Any, Any], preprocess: Preprocess) -> Tensor:
    """Scale a decoded image to T x T times the network's size, and cut it into tiles.

    Args:
        image: uint8 (H, W, C).
        preprocess: Of the network.

    Returns:
        (T T, C, H, W) of the network's size, T being how often it fits into both sides
        of the image, 1 to 4.
    """
    height, width = preprocess.image_size
    fits = min(image.shape[0] // height, image.shape[1] // width)
    T = min(fits, _MOST_TILES)
    if T <= 1:
        return preprocess(image)[None]
    grown = replace(preprocess, image_size=(T * height, T * width))
    rows_and_columns = grown(image).view(-1, T, height, T, width)
    return rows_and_columns.permute(1, 3, 0, 2, 4).flatten(0, 1)


def mean_of(tiles: list[Any]) -> Any:
    """Average what was computed for the tiles of one picture.

    The head is linear, so the mean of the logits is the logits of the mean features.

    Args:
        tiles: Logits, or arrays by name; at least one.
    """
    if len(tiles) == 1:
        return tiles[0]
    if isinstance(tiles[0], dict):
        return {
            name: np.mean([tile[name] for tile in tiles], axis=0) for name in tiles[0]
        }
    return torch.stack(tiles).mean(dim=0)
