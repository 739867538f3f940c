"""Images that are arrays: any number of channels, either order of axes, two ranges.

Axes: H x W pixels, C channels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError
from ..untrusted.arrays import npy_claim
from ..untrusted.arrays import read_npy as read_array
from ..untrusted.sizes import opened

_MOST_PIXELS = 64_000_000
_RULE = "expected uint8 from 0 to 255 or floats from 0 to 1, (H, W, C) or (C, H, W)"


def is_tensor(source: object) -> bool:
    """Return whether something is a tensor of torch, without importing it."""
    return type(source).__module__.partition(".")[0] == "torch"


def pixels_of(array: Any, channels: int) -> NDArray[np.uint8]:
    """Return an array or a tensor as uint8 (H, W, C).

    The axis that has as many places as the network has channels holds the channels.
    Where the first and the last both do, an array counts as (H, W, C), as Pillow and
    OpenCV make it, and a tensor as (C, H, W), as torchvision does.

    Args:
        array: (H, W), (H, W, C) or (C, H, W), of NumPy or torch: uint8 from 0 to 255,
            or floats from 0 to 1, which become the nearest of 256 steps.
        channels: Of the network. For 1 and 3 an array may also have one to four
            channels, the last of which is opacity where there are two or four.

    Raises:
        UserError: It has another shape, type or range.
    """
    first = is_tensor(array)
    values = array.detach().cpu().numpy() if first else np.asarray(array)
    if values.ndim == 2 and values.size:
        return as_bytes(values[..., None])
    if values.ndim != 3 or 0 in values.shape:
        raise UserError(
            f"cannot read an array of {values.dtype} {values.shape} as an image: {_RULE}"
        )
    return as_bytes(_channels_last(values, channels, first))


def _channels_last(
    values: NDArray[Any], channels: int, prefer_first: bool
) -> NDArray[Any]:
    """Return (H, W, C) of either order of axes."""
    # A decoder turns these into each other.
    decoded = channels in (1, 3)
    is_last = values.shape[2] in ((1, 2, 3, 4) if decoded else (channels,))
    is_first = values.shape[0] in ((1, 3) if decoded else (channels,))
    # The very number of channels says more than one that can be turned into it.
    if is_last and is_first:
        exactly = values.shape[0] == channels, values.shape[2] == channels
        is_last = not exactly[0] if exactly[0] != exactly[1] else not prefer_first
        is_first = not is_last
    if is_first:
        return values.transpose(1, 2, 0)
    if not is_last:
        raise UserError(
            f"cannot read an array of {values.dtype} {values.shape} as an image of "
            f"{channels} channels: {_RULE}"
        )
    return values


def as_bytes(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Return the values of an image as uint8.

    Args:
        values: uint8, or floats from 0 to 1, of any shape.

    Raises:
        UserError: They have another type or range.
    """
    if values.dtype == np.uint8:
        return values
    if values.dtype.kind != "f":
        raise UserError(
            f"cannot read an array of {values.dtype} {values.shape} as an image: its "
            f"range is unknown; {_RULE}"
        )
    low, high = float(values.min()), float(values.max())
    # Written so that nan is refused too.
    if not (low >= 0 and high <= 1):
        raise UserError(
            f"cannot read an array of floats from {low:g} to {high:g} as an image: "
            f"{_RULE}"
        )
    return np.rint(values.astype(np.float64) * 255).astype(np.uint8)


def channels_of_npy(path: Path) -> int:
    """Return how many channels the image in an .npy file has.

    Args:
        path: The file.

    Returns:
        The last side of an array where it is the shortest, else the first; 1 of an array
        (H, W).

    Raises:
        ValueError: It is no such file, or its array is no image.
        OSError: It cannot be opened.
    """
    with opened(path) as (file, size):
        shape = npy_claim(file, size).shape
    if len(shape) == 2:
        return 1
    if len(shape) != 3:
        raise ValueError(f"it has the shape {shape}")
    return shape[axis_of_channels(shape)]


def axis_of_channels(shape: Sequence[int]) -> int:
    """Return the axis of an image's channels: the last if it is the shortest, else 0.

    Args:
        shape: (H, W, C) or (C, H, W).
    """
    return 2 if shape[2] < min(shape[:2]) else 0


def read_npy(path: Path, channels: int) -> NDArray[np.uint8]:
    """Return the image in an .npy file, which numpy.save writes.

    Args:
        path: The file.
        channels: As for `pixels_of`.

    Raises:
        UserError: It is no such file, or its array is no image.
    """
    try:
        with opened(path) as (file, size):
            claim = npy_claim(file, size)
            if math.prod(claim.shape[:2]) > _MOST_PIXELS:
                raise ValueError(f"it claims {claim.dtype} {claim.shape}")
            file.seek(0)
            array = read_array(file, size)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"cannot read {str(path)!r} as an .npy file: {reason}"
        ) from error
    return pixels_of(array, channels)
