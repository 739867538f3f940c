"""Fine-tuning on whatever images there are."""

from __future__ import annotations

from ..images.settings import Augment
from ..training.config import (
    DataChoice,
    LoopChoice,
    ModelChoice,
    OptimChoice,
    ScheduleChoice,
    TrainConfig,
)


def finetune_auto(
    weights: str, source: str, images: int, *, small: bool = False, gpu: bool = False
) -> TrainConfig:
    """Choose fine-tuning settings for a number of training images.

    SGD as in the paper (App. C) at its rate of 0.03 for a batch of 512, in proportion to
    the batch; as many epochs as give about 500 steps, but at least 3 and at most 20;
    gentle crops, because strong ones spoil few images easily. The run ends after five
    epochs that are not better than the best.

    Args:
        weights: What `load` takes.
        source: The images, as `open_dataset` takes them.
        images: The number of training images.
        small: The images have 64 pixels or less, of which crops would leave nothing.
        gpu: A GPU is there, so a larger batch is faster.

    Returns:
        A complete configuration.
    """
    batch_size = min(256 if gpu else 32, max(8, images // 8))
    epochs = min(20.0, max(3.0, 500 * batch_size / max(1, images)))
    return TrainConfig(
        recipe="finetune_auto",
        model=ModelChoice(init=weights),
        data=DataChoice(source=source, val_fraction=0.1),
        augment=Augment(crop="pad", pad=1)
        if small
        else Augment(crop="inception", area=(0.35, 1.0), flip=True),
        optim=OptimChoice(name="sgd", lr=0.03 * batch_size / 512, weight_decay=0.0),
        schedule=ScheduleChoice(decay="cosine", warmup_share=0.05, warmup_from="zero"),
        train=LoopChoice(
            epochs=round(epochs, 2),
            batch_size=batch_size,
            label_smoothing=0.1,
            patience=5,
        ),
    )
