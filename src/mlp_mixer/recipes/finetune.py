"""Fine-tuning on whatever images there are."""

from __future__ import annotations

import math

from ..images.settings import Augment
from ..training.config import (
    DataChoice,
    LoopChoice,
    ModelChoice,
    OptimChoice,
    ScheduleChoice,
    TrainConfig,
)

# Images in all, as far as the number of epochs stays within the bounds below.
_IMAGES = 15_000
_FEWEST_EPOCHS = 2.0
_MOST_EPOCHS = 30.0

# Of the weights in the package, which learnt from images of 32 pixels: photographs are
# given to them at 64, where their features tell more (docs/training.md has the table).
# Each costs four times as much, and their features fit already: fewer of them.
_PHOTO_SIZE = 64
_PHOTO_PATCH = 4
_PHOTOS = 9_000


def finetune_auto(
    weights: str,
    source: str,
    images: int,
    *,
    small: bool = False,
    gpu: bool = False,
    bundled: bool = False,
    narrow: bool = False,
) -> TrainConfig:
    """Choose fine-tuning settings for a number of training images.

    First a head is fitted to the frozen features, as `--frozen` does; then all weights
    learn. What is kept lies half-way between these two networks (WiSE-FT, arXiv
    2109.01903): few images are learnt by heart, and their validation images are too few
    to tell. The number of images that are seen does not depend on the batch.

    Narrow networks, such as those in the package, learn by Muon: on 1,200 photos, five
    epochs of it gave 68.0 % of 450 others, SGD at the better of two rates 61.1 % and
    the fitted head alone about 60 % (one run each, docs/log.md). As it stands, 1,800
    photos: 73.1 ± 0.2 % (n = 1,000, seeds 0 to 2), the fitted head 71.5 %. For wide
    networks SGD is kept, as in the paper (App. C): nothing was measured on them here,
    and Adam is known to be unstable on Google's.

    Args:
        weights: What `load` takes.
        source: The images, as `open_dataset` takes them.
        images: The number of training images.
        small: The images have 64 pixels or less, of which crops would leave nothing.
        gpu: A GPU is there, so a larger batch is faster.
        bundled: The weights are those in the package.
        narrow: The network has at most 256 channels.

    Returns:
        A complete configuration.
    """
    batch_size = min(128 if gpu else 32, max(8, images // 8))
    photos = bundled and not small
    seen = _PHOTOS if photos else _IMAGES
    epochs = min(_MOST_EPOCHS, max(_FEWEST_EPOCHS, seen / max(1, images)))
    model = ModelChoice(init=weights, head="fitted")
    if photos:
        model = ModelChoice(
            init=weights,
            head="fitted",
            image_size=_PHOTO_SIZE,
            patch_size=_PHOTO_PATCH,
            resize="interpolate",
        )
    return TrainConfig(
        recipe="finetune_auto",
        model=model,
        data=DataChoice(source=source, val_fraction=0.1),
        augment=Augment(crop="pad", pad=1)
        if small
        else Augment(crop="inception", area=(0.35, 1.0), flip=True),
        optim=_muon(batch_size) if narrow else _sgd(batch_size),
        schedule=ScheduleChoice(decay="cosine", warmup_share=0.1, warmup_from="zero"),
        train=LoopChoice(
            epochs=round(epochs, 2),
            batch_size=batch_size,
            ema=0.99,
            start_share=0.5,
        ),
    )


def _muon(batch_size: int) -> OptimChoice:
    """Muon at a rate for a batch of 32, which follows the batch with its square root."""
    lr = 1e-3 * math.sqrt(batch_size / 32)
    return OptimChoice(name="muon", lr=lr, weight_decay=0.0)


def _sgd(batch_size: int) -> OptimChoice:
    """SGD at a rate for a batch of 32, which follows the batch in proportion."""
    return OptimChoice(name="sgd", lr=0.01 * batch_size / 32, weight_decay=0.0)
