"""Draw Figures 5, 6 and 7 of the paper (arXiv 2105.01601) for any Mixer's weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..errors import UserError
from ..images.mosaic import mosaic
from ..models import IsotropicMlp
from .token_units import Array, mean_frequency, token_unit_pictures

_BLOCKS = 3  # the paper shows the first three
_SOME_UNITS = 128  # of each block, in Figure 5
_TITLE_PIXELS = 34
_FILTER_PIXELS = 48  # the side of one filter, before rounding to whole pixels
PAPER = (250, 250, 248)
INK = (40, 44, 52)


class Theme(NamedTuple):
    """Name the colours of a figure, RGB.

    Attributes:
        paper: Of the background.
        ink: Of the titles.
    """

    paper: tuple[int, int, int]
    ink: tuple[int, int, int]


LIGHT = Theme(PAPER, INK)
# The card and the text of a dark page of ours: no white slab among them.
DARK = Theme((28, 31, 37), (232, 234, 239))


def weight_figures(
    model: IsotropicMlp,
    *,
    dark: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, NDArray[np.uint8]]:
    """Draw what a Mixer has learned.

    Args:
        model: A Mixer; networks of other families have no token-mixing MLPs to draw.
        dark: For a dark page.
        progress: Is told how many pictures of how many are done.

    Returns:
        Pictures (H, W, 3) by name. `token_units`: 128 hidden units of each of the first
        three token-mixing MLPs (rows of W1), lowest frequencies first, each followed by
        its closest inverse (Figure 5). `token_units_all`: all units (Figure 6).
        `embeddings`: the filters of the stem, lowest frequencies first (Figure 7).

    Raises:
        UserError: The weights are not finite.
    """
    weights = token_weights(model, _BLOCKS)
    some_titles = []
    all_titles = []
    for number, weight in enumerate(weights, start=1):
        some_titles.append(f"Block {number}")
        all_titles.append(f"Block {number}: all {len(weight)} units")
    grid = model.config.grid
    theme = DARK if dark else LIGHT
    P = model.config.patch_size
    stem = _array(model.state_dict()["stem.proj.weight"])
    stem_title = f"{model.config.hidden_dim} filters of {P} x {P} pixels"

    def some_units() -> NDArray[np.uint8]:
        drawn = token_unit_pictures(weights, grid, most_units=_SOME_UNITS, dark=dark)
        return stacked(some_titles, drawn, theme)

    def all_units() -> NDArray[np.uint8]:
        return stacked(all_titles, token_unit_pictures(weights, grid, dark=dark), theme)

    def embeddings() -> NDArray[np.uint8]:
        return stacked([stem_title], [draw_filters(stem, paper=theme.paper)], theme)

    wanted = {
        "token_units": some_units,
        "token_units_all": all_units,
        "embeddings": embeddings,
    }
    figures = {}
    for name, draw in wanted.items():
        figures[name] = draw()
        if progress is not None:
            progress(len(figures), len(wanted))
    return figures


def token_weights(model: IsotropicMlp, most: int) -> list[Array]:
    """Return the first token-mixing weight W1 (D_S, S) of the first blocks.

    Args:
        model: A Mixer.
        most: Blocks, if there are so many.
    """
    tensors = model.state_dict()
    weights = []
    for index in range(min(most, model.config.num_blocks)):
        weights.append(_array(tensors[f"blocks.{index}.mlp_tokens.fc1.weight"]))
    return weights


def _array(tensor: Tensor) -> Array:
    array: Array = tensor.detach().float().cpu().numpy()
    return array


def draw_filters(
    filters_NCHW: Array, *, gap: int = 3, paper: tuple[int, int, int] = PAPER
) -> NDArray[np.uint8]:
    """Draw filters over pixels as a mosaic, lowest frequencies first.

    Mid-grey is zero, and each filter is scaled by its own largest magnitude.

    Args:
        filters_NCHW: N filters. One or three input channels are drawn as grey or RGB,
            the mean of any other number as grey.
        gap: Pixels between the filters.
        paper: The colour of the gaps, RGB.

    Returns:
        A picture (height, width, 3), about twice as wide as high.

    Raises:
        UserError: A weight is NaN or infinite.
    """
    if not np.isfinite(filters_NCHW).all():
        raise UserError(
            "the filters hold NaN or infinity: these weights cannot be drawn; did the "
            "training diverge?"
        )
    order = np.argsort(mean_frequency(filters_NCHW.mean(axis=1)), kind="stable")
    filters = filters_NCHW[order]
    if filters.shape[1] not in (1, 3):
        filters = filters.mean(axis=1, keepdims=True)
    largest = np.abs(filters).max(axis=(1, 2, 3), keepdims=True)
    scaled = np.divide(filters, largest, out=np.zeros_like(filters), where=largest > 0)
    tiles = np.rint(127.5 + 127.5 * scaled).astype(np.uint8).transpose(0, 2, 3, 1)
    scale = max(1, round(_FILTER_PIXELS / tiles.shape[1]))
    tiles = np.broadcast_to(tiles, (*tiles.shape[:3], 3))
    columns = int(np.ceil(np.sqrt(2 * len(tiles))))
    return mosaic(tiles, columns=columns, gap=gap, colour=paper, scale=scale)


def stacked(
    titles: Sequence[str], pictures: Sequence[Array], theme: Theme = LIGHT
) -> NDArray[np.uint8]:
    """Put pictures under each other, each below its title.

    Args:
        titles: One for each picture.
        pictures: uint8 (H, W, 3), of any sizes.
        theme: The colours of background and titles.

    Returns:
        A picture (height, width, 3).
    """
    width = max(picture.shape[1] for picture in pictures)
    height = sum(picture.shape[0] + _TITLE_PIXELS for picture in pictures)
    sheet = Image.new("RGB", (width, height), theme.paper)
    pen = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=18)
    top = 0
    for title, picture in zip(titles, pictures, strict=True):
        pen.text((6, top + 6), title, fill=theme.ink, font=font)
        sheet.paste(Image.fromarray(picture), (0, top + _TITLE_PIXELS))
        top += _TITLE_PIXELS + picture.shape[0]
    return np.asarray(sheet)
