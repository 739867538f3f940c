"""Figures 5, 6 and 7 of the paper (arXiv 2105.01601), of any Mixer's weights."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ..errors import UserError
from ..images.mosaic import mosaic
from ..models import MlpMixer
from .token_units import Array, mean_frequency, token_unit_pictures

_BLOCKS = 3  # the paper shows the first three
_SOME_UNITS = 128  # of them, in Figure 5
_TITLE_PIXELS = 34
_FILTER_PIXELS = 48  # the side of one filter, before rounding to whole pixels
PAPER = (250, 250, 248)
INK = (40, 44, 52)


def weight_figures(model: MlpMixer) -> dict[str, NDArray[np.uint8]]:
    """Pictures (H, W, 3) by the names of the figures.

    `token_units`: the hidden units of the first three token-mixing MLPs (rows of W1),
        lowest frequencies first, each
    followed by its closest inverse (Figure 5); `token_units_all`: all of them (Figure
    6); `embeddings`: the filters of the stem, lowest frequencies first (Figure 7).
    Raises `UserError` for weights that are not finite.
    """
    tensors = {
        name: tensor.detach().float().cpu().numpy()
        for name, tensor in model.state_dict().items()
    }
    weights = [
        tensors[f"blocks.{i}.mlp_tokens.fc1.weight"]
        for i in range(min(_BLOCKS, model.config.num_blocks))
    ]
    titles = [f"Block {number}" for number in range(1, 1 + len(weights))]
    grid = model.config.grid
    return {
        "token_units": stacked(
            titles, token_unit_pictures(weights, grid, most_units=_SOME_UNITS)
        ),
        "token_units_all": stacked(
            [
                f"{title}: all {len(weight)} units"
                for title, weight in zip(titles, weights, strict=True)
            ],
            token_unit_pictures(weights, grid),
        ),
        "embeddings": stacked(
            [
                f"{model.config.hidden_dim} filters of {model.config.patch_size} x {model.config.patch_size} pixels"
            ],
            [draw_filters(tensors["stem.proj.weight"])],
        ),
    }


def draw_filters(filters_NCHW: Array, *, gap: int = 3) -> NDArray[np.uint8]:
    """Filters over pixels as a square mosaic (H, W, 3): mid-grey is zero, each scaled
    by its own largest magnitude.

    One or three input channels are drawn as grey or RGB, of other numbers the mean.
    Raises `UserError` for NaN.
    """
    if not np.isfinite(filters_NCHW).all():
        raise UserError(
            "the filters hold NaN or infinity: these weights cannot be drawn; did the training diverge?"
        )
    order = np.argsort(mean_frequency(filters_NCHW.mean(axis=1)), kind="stable")
    filters = (
        filters_NCHW[order]
        if filters_NCHW.shape[1] in (1, 3)
        else filters_NCHW[order].mean(axis=1, keepdims=True)
    )
    largest = np.abs(filters).max(axis=(1, 2, 3), keepdims=True)
    scaled = np.divide(filters, largest, out=np.zeros_like(filters), where=largest > 0)
    tiles = np.rint(127.5 + 127.5 * scaled).astype(np.uint8).transpose(0, 2, 3, 1)
    scale = max(1, round(_FILTER_PIXELS / tiles.shape[1]))
    tiles = np.broadcast_to(tiles, (*tiles.shape[:3], 3))
    columns = int(np.ceil(np.sqrt(2 * len(tiles))))
    return mosaic(tiles, columns=columns, gap=gap, colour=PAPER, scale=scale)


def stacked(titles: Sequence[str], pictures: Sequence[Array]) -> NDArray[np.uint8]:
    """Pictures (H, W, 3) under each other, each below its title."""
    width = max(picture.shape[1] for picture in pictures)
    height = sum(picture.shape[0] + _TITLE_PIXELS for picture in pictures)
    sheet = Image.new("RGB", (width, height), PAPER)
    pen = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=18)
    top = 0
    for title, picture in zip(titles, pictures, strict=True):
        pen.text((6, top + 6), title, fill=INK, font=font)
        sheet.paste(Image.fromarray(picture), (0, top + _TITLE_PIXELS))
        top += _TITLE_PIXELS + picture.shape[0]
    return np.asarray(sheet)
