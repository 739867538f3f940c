"""A Mixer over n axes: series, images, videos. Once the patches are cut, nothing knows
how many axes there were.
"""

from __future__ import annotations

import math
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from ..errors import UserError
from .mixer import MixerConfig, MlpMixer


def cut_patches(
    x: Float[Tensor, "B channels *size"], patch: tuple[int, ...]
) -> Float[Tensor, "B *grid values"]:
    """Patches in place of their values, which lie by axis, channels last. `patch`: a
    side for each axis of the size.
    """
    n = len(patch)
    for axis, side in enumerate(patch):
        x = x.unflatten(2 + 2 * axis, (-1, side))  # type: ignore[no-untyped-call]
    return x.permute(0, *range(2, 2 * n + 2, 2), *range(3, 2 * n + 3, 2), 1).flatten(
        n + 1
    )


class NdMixer(nn.Module):
    """Inputs (B, in_channels, *size) -> logits (B, num_classes); `.mixer` is an
    `MlpMixer` whose pixels are patches.
    """

    def __init__(
        self,
        size: tuple[int, ...],
        patch: tuple[int, ...],
        in_channels: int,
        **config_fields: Any,
    ) -> None:
        """config_fields: of `MixerConfig`, such as num_blocks. `UserError` for a patch
        that does not fit the size.
        """
        super().__init__()
        if (
            not size
            or len(size) != len(patch)
            or min(*size, *patch) < 1
            or any(map(int.__mod__, size, patch))
        ):
            raise UserError(
                f"each axis of the size {size} must be a multiple of its side of the patch, got {patch}"
            )
        self.shape, self.patch, (rows, *others) = (
            (in_channels, *size),
            patch,
            map(int.__floordiv__, size, patch),
        )
        grid = (rows, math.prod(others))
        values = in_channels * math.prod(patch)
        self.mixer = MlpMixer(
            MixerConfig(1, image_size=grid, in_channels=values, **config_fields)
        )

    def forward(self, x: Float[Tensor, "B in_channels *size"]) -> Float[Tensor, "B _"]:
        if tuple(x.shape[1:]) != self.shape:
            raise UserError(
                f"this model takes inputs of shape (batch, *{self.shape}), got {tuple(x.shape)}"
            )
        values_BVS = cut_patches(x, self.patch).flatten(1, -2).transpose(1, 2)
        return self.mixer(values_BVS.unflatten(2, self.mixer.config.image_size))  # type: ignore[no-untyped-call]
