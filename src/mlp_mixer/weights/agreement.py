"""Whether a preprocessing makes what its network takes."""

from __future__ import annotations

from typing import Any

from ..errors import UserError
from ..images.preprocess import Preprocess
from ..models.base import NetworkConfig


def need_agreement(preprocess: Preprocess, config: Any) -> None:
    """Refuse a preprocessing that makes other images than the network takes.

    The two come from one file, whose author may have changed one of them: images of
    60000 x 60000 would fill the memory before any network refuses them.

    Args:
        preprocess: How an image becomes the input.
        config: The architecture; of another program's network nothing is known.

    Raises:
        UserError: They have another size, or another number of channels.
    """
    if not isinstance(config, NetworkConfig):
        return
    made = preprocess.image_size, preprocess.channels
    taken = config.image_size, config.in_channels
    if made != taken:
        raise UserError(
            f"the preprocessing makes images of {_shown(*made)}, and the network takes "
            f"{_shown(*taken)}: give both the same, as replace(preprocess, image_size="
            f"{config.image_size}, channels={config.in_channels}) does"
        )


def _shown(size: tuple[int, int], channels: int) -> str:
    height, width = size
    return f"{height} x {width} pixels (H x W) and {channels} channels"
