"""`mlp-mixer augment`: a contact sheet of what training would see."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from ..data.loader import TrainBatches
    from ..images.settings import Mix
    from ..training.config import TrainConfig

_SIDE = (
    96  # smaller pictures are enlarged by a whole factor, up to about this many pixels
)
_GAP = 2
_MIXED_ROWS = 4


def augment(
    data: Annotated[
        str,
        typer.Option(help="digits, fashion_mnist:PATH, cifar10:PATH, folder:PATH, ..."),
    ],
    out: Annotated[Path, typer.Option(help="The sheet, a PNG file.")],
    recipe: Annotated[
        str | None,
        typer.Option(
            help="A recipe or config.json (default: the recipe of that source, else photos)."
        ),
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="FIELD=VALUE: augment.flip=true")
    ] = None,
    count: Annotated[
        int, typer.Option(min=1, help="How many training images: the rows.")
    ] = 8,
    variants: Annotated[
        int,
        typer.Option(min=1, help="How many epochs: the columns beside the original."),
    ] = 8,
    mix: Annotated[
        bool, typer.Option("--mix", help="Add rows of the first four batches, mixed.")
    ] = False,
) -> int:
    """Draw training images beside what augmentation makes of them in the first epochs."""
    import dataclasses

    import numpy as np
    import torch

    from ..analysis.token_units import to_png
    from ..files import write_bytes
    from ..images.settings import Augment
    from ..randomness import batch_positions
    from ..recipes import RECIPES
    from .train import resolve_config

    name = data.partition(":")[0]
    config, _ = resolve_config(
        recipe or (name if name in RECIPES else "photos"), data, settings or []
    )
    batches = _batches(config)
    count = min(count, len(batches.images))
    _, indices = batch_positions(0, count, len(batches.images), batches.seed)
    plain = dataclasses.replace(batches, augment=Augment())
    columns = [plain.pixels(np.zeros_like(indices), indices)]
    columns += [
        batches.pixels(np.full_like(indices, epoch), indices)
        for epoch in range(variants)
    ]
    rows = torch.stack(columns, dim=1)
    if mix:
        chosen = (
            config.mix
            if config.mix.active
            else dataclasses.replace(config.mix, prob=1.0, mixup=0.5)
        )
        mixed = [
            _mixed_row(batches, chosen, step, len(columns))
            for step in range(_MIXED_ROWS)
        ]
        rows = torch.cat([rows, torch.stack(mixed)])
    write_bytes(out, to_png(_sheet(rows)))
    print(f"wrote {count} images of {data} with {variants} variants each to {out}")
    return 0


def _batches(config: TrainConfig) -> TrainBatches:
    """The batches of a training run of this configuration, without its model."""
    import dataclasses

    from ..data import open_dataset
    from ..data.loader import TrainBatches
    from ..images.preprocess import Preprocess
    from ..models import model_config
    from ..training.run import split_validation

    chosen = config.data
    source = open_dataset(
        chosen.source, split_seed=chosen.split_seed, test_fraction=chosen.test_fraction
    )
    images, _ = split_validation(source, chosen)
    size = model_config(
        config.model.name, image_size=config.model.image_size
    ).image_size
    preprocess = Preprocess(
        size, images.channels, **dataclasses.asdict(config.preprocess)
    )
    choice = config.train
    return TrainBatches(
        images,
        preprocess,
        config.augment,
        choice.batch_size,
        choice.seed,
        repeats=chosen.repeats,
    )


def _mixed_row(batches: TrainBatches, mix: Mix, step: int, columns: int) -> Tensor:
    """The first images of a training batch, mixed (columns, C, H, W)."""
    import torch

    from ..images.mix import apply, check_group, mix_plan
    from ..randomness import batch_positions

    check_group(mix.group, batches.batch_size)
    images = batches.images
    epochs, indices = batch_positions(
        step, batches.batch_size, len(images), batches.seed, batches.repeats
    )
    few = slice(-(-columns // mix.group) * mix.group)
    pixels = batches.pixels(epochs[few], indices[few])
    labels = torch.from_numpy(images.labels[indices[few]])
    plan = mix_plan(mix, batches.seed, step, batches.preprocess.image_size)
    mixed, _ = apply(plan, pixels, labels, len(images.classes), mix.group)
    return mixed[:columns].round().to(torch.uint8)


def _sheet(rows: Tensor) -> np.ndarray:
    """Pictures (R, K, C, H, W) as one (height, width, C), enlarged if small, with a
    gray frame around each.
    """
    import numpy as np

    scale = max(1, _SIDE // max(rows.shape[3:]))
    cells = (
        rows.permute(0, 1, 3, 4, 2).numpy().repeat(scale, axis=2).repeat(scale, axis=3)
    )
    framed = np.pad(
        cells, ((0, 0), (0, 0), (_GAP, 0), (_GAP, 0), (0, 0)), constant_values=128
    )
    lines = np.concatenate(
        list(np.concatenate(list(framed.swapaxes(0, 1)), axis=2)), axis=0
    )
    return np.pad(lines, ((0, _GAP), (0, _GAP), (0, 0)), constant_values=128)
