"""A contact sheet: training images beside what augmentation makes of them.

R rows (images), K columns (the original and epochs), C channels, H x W pixels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..data.loader import TrainBatches
from ..images.mix import apply, mix_plan
from ..images.mosaic import mosaic
from ..images.preprocess import Preprocess
from ..images.settings import Augment
from .config import TrainConfig
from .model import input_of
from .parallel import check_parallel
from .run import class_members
from .splits import open_images

_SIDE = 96  # pixels, up to about which smaller pictures are enlarged by a whole factor
_MOST_SIDE = (
    128  # of a larger picture: what was changed is seen, and the file stays small
)
_GAP = 2
_GREY = 128
_MIXED_ROWS = 4
_HEADER = 24  # pixels above the pictures, for the titles of the columns
_MOST_LABEL = 160  # pixels to the left of them, for the class of each row
_FONT_PIXELS = 14
_MARGIN = 6
_PAPER = 250
_INK = 44


@dataclass(frozen=True, eq=False)
class ContactSheet:
    """A drawn sheet.

    Attributes:
        image: uint8 (height, width, C).
        count: How many training images it shows.
        corner: Where the pictures begin, below the titles and beside the classes: (y,
            x) in pixels.
    """

    image: NDArray[np.uint8]
    count: int
    corner: tuple[int, int]


def contact_sheet(
    config: TrainConfig, *, count: int = 8, variants: int = 8, mix: bool = False
) -> ContactSheet:
    """Draw the first training images and their first variants, as a run computes them.

    Args:
        config: Of the run; a fresh network is not built.
        count: How many images at most: the rows.
        variants: How many epochs: the columns beside the original.
        mix: Add rows of the first four batches, mixed: by the paper's mixup where the
            configuration does not mix.

    Returns:
        The sheet.

    Raises:
        UserError: The images cannot be opened, or the configuration is contradictory.
    """
    if mix and not config.mix.active:
        paper = dataclasses.replace(config.mix, prob=1.0, mixup=0.5)
        config = dataclasses.replace(config, mix=paper)
    batches = _batches(config)
    count = min(count, len(batches.images))
    # The order in which training sees them, so row 0 is the first image of batch 0.
    first = dataclasses.replace(batches, batch_size=count, repeats=1)
    _, indices = first.positions(0)
    plain = dataclasses.replace(batches, augment=Augment())
    columns = [plain.pixels(np.zeros_like(indices), indices)]
    for epoch in range(variants):
        columns.append(batches.pixels(np.full_like(indices, epoch), indices))
    titles = ["original", *(f"epoch {epoch + 1}" for epoch in range(variants))]
    rows = [batches.images.label_text(index) for index in indices.tolist()]
    parts = [_Part(torch.stack(columns, dim=1), titles, rows)]
    if mix:
        mixed = [
            _mixed_row(batches, config, step, len(columns))
            for step in range(_MIXED_ROWS)
        ]
        titles = [f"image {number + 1}" for number in range(len(columns))]
        rows = [f"mixed, batch {step + 1}" for step in range(_MIXED_ROWS)]
        parts.append(_Part(torch.stack(mixed), titles, rows))
    left = _label_width([row for part in parts for row in part.rows])
    drawn = [_labelled(_mosaic(part.pictures), part, left) for part in parts]
    return ContactSheet(np.concatenate(drawn), count, (_HEADER, left))


class _Part(NamedTuple):
    """Some rows of the sheet under titles of their own.

    Attributes:
        pictures: uint8 (R, K, C, H, W).
        titles: Of the K columns.
        rows: What the R rows are called.
    """

    pictures: Tensor
    titles: Sequence[str]
    rows: Sequence[str]


def _mosaic(rows_RKCHW: Tensor) -> NDArray[np.uint8]:
    """Return the pictures beside and below each other (height, width, C)."""
    tiles = _shrunk(rows_RKCHW.flatten(0, 1).permute(0, 2, 3, 1).numpy())
    scale = max(1, _SIDE // max(tiles.shape[1:3]))
    columns = rows_RKCHW.shape[1]
    return mosaic(tiles, columns=columns, gap=_GAP, colour=_GREY, scale=scale)


def _shrunk(tiles_NHWC: NDArray[Any]) -> NDArray[Any]:
    """Make pictures smaller that are larger than `_MOST_SIDE`."""
    height, width = tiles_NHWC.shape[1:3]
    shrink = max(height, width) / _MOST_SIDE
    if shrink <= 1:
        return tiles_NHWC
    whole = (round(height / shrink), round(width / shrink))
    small = Preprocess(whole, tiles_NHWC.shape[3], resize="resize", crop_pct=1.0)
    return np.stack([small.fit(tile) for tile in tiles_NHWC])


def _label_width(rows: Sequence[str]) -> int:
    """Return the pixels beside the pictures that the longest class takes."""
    font = ImageFont.load_default(size=_FONT_PIXELS)
    longest = max(font.getlength(" ".join(row.split())) for row in rows)
    return min(round(longest) + 2 * _MARGIN, _MOST_LABEL)


def _labelled(sheet: NDArray[np.uint8], part: _Part, left: int) -> NDArray[np.uint8]:
    """Write a title above each column and a class beside each row.

    Args:
        sheet: The mosaic (height, width, C).
        part: Its titles and classes.
        left: Pixels for the classes.

    Returns:
        A larger sheet, with the mosaic in its lower right corner.
    """
    font = ImageFont.load_default(size=_FONT_PIXELS)
    height, width, channels = sheet.shape
    # Written in gray, on one channel, whatever the channels of the pictures.
    page = Image.new("L", (width + left, height + _HEADER), _PAPER)
    pen = ImageDraw.Draw(page)
    across = (width - _GAP) / len(part.titles)
    for column, title in enumerate(part.titles):
        middle = left + (column + 0.5) * across
        pen.text((middle, _HEADER - _MARGIN), title, _INK, font, "ms")
    down = (height - _GAP) / len(part.rows)
    for row, name in enumerate(part.rows):
        middle = _HEADER + (row + 0.5) * down
        # In one line; what is too long runs under the pictures, which come on top.
        pen.text((_MARGIN, middle), " ".join(name.split()), _INK, font, "lm")
    canvas = np.repeat(np.asarray(page)[..., None], channels, axis=2)
    canvas[_HEADER:, left:] = sheet
    return canvas


def _batches(config: TrainConfig) -> TrainBatches:
    """Return the batches of a training run."""
    check_parallel(config)
    data = config.data
    # By the run's own doors, so that these are its images at its size.
    images = open_images(config, None)[1].train
    with torch.random.fork_rng(devices=[]):
        preprocess = input_of(config, images)
    return TrainBatches(
        images,
        preprocess,
        config.augment,
        config.train.batch_size,
        config.train.seed,
        repeats=data.repeats,
        members=class_members(images, data),
    )


def _mixed_row(
    batches: TrainBatches, config: TrainConfig, step: int, columns: int
) -> Tensor:
    """Return the first images of a training batch, mixed (K, C, H, W)."""
    images = batches.images
    group = config.mix.group
    epochs, indices = batches.positions(step)
    # Images are mixed inside their group, so only whole groups give the run's pixels.
    groups = -(-columns // group)
    first = slice(groups * group)
    pixels = batches.pixels(epochs[first], indices[first])
    labels = torch.from_numpy(images.answers(indices[first]))
    plan = mix_plan(config.mix, batches.seed, step, batches.preprocess.image_size)
    mixed, _ = apply(plan, pixels, labels, len(images.classes), group)
    return mixed[:columns].round().to(torch.uint8)
