"""Images whose pixels have changed places, and a Mixer's weights that follow them.

Axes: S patches, P pixels on a patch's side.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def shuffles(side: int, grid: int) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Where each pixel of the new image was in the old, by pipeline; and the
    permutations of patches and of pixels.
    """
    draw = torch.Generator().manual_seed(0)
    P = side // grid
    patches = torch.randperm(grid**2, generator=draw)
    pixels = torch.randperm(P**2, generator=draw)
    place_SP = (
        torch.arange(side**2)
        .view(grid, P, grid, P)
        .transpose(1, 2)
        .reshape(grid**2, P**2)
    )
    moved = torch.empty(side**2, dtype=torch.int64)
    moved[place_SP] = place_SP[patches][:, pixels]
    every = {
        "original": torch.arange(side**2),
        "patches": moved,
        "global": torch.randperm(side**2, generator=draw),
    }
    return every, patches, pixels


def shuffled(
    images: Tensor, index: Tensor, dtype: torch.dtype = torch.float32
) -> Tensor:
    return images.flatten(2)[:, :, index.to(images.device)].view_as(images).to(dtype)


def permute(model: nn.Module, patches: Tensor, pixels: Tensor) -> None:
    """In place: the stem's pixels, W1's columns, W2's rows and b2 follow the shuffled
    image.
    """
    state = dict(model.state_dict())
    for name, value in state.items():
        if name == "stem.proj.weight":
            state[name] = value.flatten(2)[:, :, pixels].view_as(value)
        elif "mlp_tokens.fc" in name and not name.endswith("fc1.bias"):
            state[name] = value[:, patches] if "fc1" in name else value[patches]
    model.load_state_dict(state)
