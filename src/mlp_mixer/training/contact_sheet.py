"""A contact sheet: training images beside what augmentation makes of them.

R rows (images), K columns (the original and epochs), C channels, H x W pixels.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..data.loader import TrainBatches
from ..data.registry import open_dataset
from ..images.mix import apply, mix_plan
from ..images.mosaic import mosaic
from ..images.preprocess import Preprocess
from ..images.settings import Augment
from ..models import model_config
from .config import TrainConfig
from .parallel import check_parallel
from .run import class_members, split_validation

_SIDE = 96  # pixels, up to about which smaller pictures are enlarged by a whole factor
_GAP = 2
_GREY = 128
_MIXED_ROWS = 4


@dataclass(frozen=True, eq=False)
class ContactSheet:
    """A drawn sheet.

    Attributes:
        image: uint8 (height, width, C).
        count: How many training images it shows.
    """

    image: NDArray[np.uint8]
    count: int


def contact_sheet(
    config: TrainConfig, *, count: int = 8, variants: int = 8, mix: bool = False
) -> ContactSheet:
    """Draw the first training images and their first variants, as a run computes them.

    Args:
        config: Of the run; its model is not built.
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
    rows_RKCHW = torch.stack(columns, dim=1)
    if mix:
        mixed = [
            _mixed_row(batches, config, step, len(columns))
            for step in range(_MIXED_ROWS)
        ]
        rows_RKCHW = torch.cat([rows_RKCHW, torch.stack(mixed)])
    tiles: NDArray[Any] = rows_RKCHW.flatten(0, 1).permute(0, 2, 3, 1).numpy()
    scale = max(1, _SIDE // max(tiles.shape[1:3]))
    sheet = mosaic(tiles, columns=len(columns), gap=_GAP, colour=_GREY, scale=scale)
    return ContactSheet(sheet, count)


def _batches(config: TrainConfig) -> TrainBatches:
    """Return the batches of a training run, without building its model."""
    check_parallel(config)
    data = config.data
    source = open_dataset(
        data.source, split_seed=data.split_seed, test_fraction=data.test_fraction
    )
    images, _ = split_validation(source, data)
    model = model_config(config.model.name, image_size=config.model.image_size)
    how = dataclasses.asdict(config.preprocess)
    preprocess = Preprocess(model.image_size, images.channels, **how)
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
