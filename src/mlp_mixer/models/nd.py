"""A Mixer over n axes: series, images, videos.

Once the patches are cut, nothing in the network knows how many axes there were.
"""

from __future__ import annotations

import math
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from ..errors import UserError
from .layers import is_traced
from .mixer import MixerConfig, MlpMixer


def cut_patches(
    x: Float[Tensor, "B channels *size"], patch: tuple[int, ...]
) -> Float[Tensor, "B *grid values"]:
    """Put each patch in the place of its values.

    Args:
        x: Channels first, then n axes.
        patch: A side for each of the n axes.

    Returns:
        The grid of patches; the values of a patch lie by axis, channels last.
    """
    n = len(patch)
    # (B, channels, a, b) -> (B, channels, rows, P, columns, Q): each axis becomes two.
    for axis, side in enumerate(patch):
        x = x.unflatten(2 + 2 * axis, (-1, side))  # type: ignore[no-untyped-call]
    of_grid = range(2, 2 * n + 2, 2)
    of_patch = range(3, 2 * n + 3, 2)
    return x.permute(0, *of_grid, *of_patch, 1).flatten(n + 1)


class NdMixer(nn.Module):
    """Map inputs (B, in_channels, *size) to logits (B, num_classes).

    Attributes:
        mixer: An `MlpMixer` that takes each patch for one pixel.
    """

    def __init__(
        self,
        size: tuple[int, ...],
        patch: tuple[int, ...],
        in_channels: int,
        **config_fields: Any,
    ) -> None:
        """Build the network with fresh weights.

        Args:
            size: Length of each axis of an input, but for the channels.
            patch: Side of a patch along each of these axes.
            in_channels: Channels of an input.
            **config_fields: Of `MixerConfig`, such as num_blocks.

        Raises:
            UserError: The patch does not fit the size.
        """
        super().__init__()
        _check_patch(size, patch)
        self.shape = (in_channels, *size)
        self.patch = patch
        rows, *others = map(int.__floordiv__, size, patch)
        # A Mixer asks for two axes only to name its patches: any two will do.
        config = MixerConfig(
            1,
            image_size=(rows, math.prod(others)),
            in_channels=in_channels * math.prod(patch),
            **config_fields,
        )
        self.mixer = MlpMixer(config)

    def forward(self, x: Float[Tensor, "B in_channels *size"]) -> Float[Tensor, "B _"]:
        # While torch.fx traces, there is no shape yet.
        if not is_traced(x) and tuple(x.shape[1:]) != self.shape:
            raise UserError(
                f"this model takes inputs of shape (batch, *{self.shape}), "
                f"got {tuple(x.shape)}"
            )
        values_BVS = cut_patches(x, self.patch).flatten(1, -2).transpose(1, 2)
        return self.mixer(values_BVS.unflatten(2, self.mixer.config.image_size))  # type: ignore[no-untyped-call]


def _check_patch(size: tuple[int, ...], patch: tuple[int, ...]) -> None:
    fits = bool(size) and len(size) == len(patch) and min(*size, *patch) >= 1
    if not fits or any(map(int.__mod__, size, patch)):
        raise UserError(
            f"each axis of the size {size} must be a multiple of its side of the patch, "
            f"got {patch}"
        )
