"""From a configuration to everything a run needs before its first step."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch

from .._version import __version__
from ..data.image_set import ImageSet
from ..data.loader import TrainBatches, auto_workers
from ..data.sampling import steps_for
from ..data.source import Source, public_name, stratified_split
from ..data.sources import open_source
from ..devices import pick_device
from ..distributed import rank, refuse_launcher, world_size
from ..images.preprocess import Preprocess
from ..models import MlpMixer, create_model
from .config import DataChoice, ModelChoice, TrainConfig


@dataclass(frozen=True)
class Run:
    """What a configuration and its data come to."""

    config: TrainConfig
    source: Source
    fingerprint: str
    train: ImageSet
    val: ImageSet | None
    model: MlpMixer
    preprocess: Preprocess
    device: torch.device
    total_steps: int
    warmup_steps: int
    workers: int

    def epoch(self, step: int) -> float:
        """Epochs of data seen after `step` steps."""
        return step * self.config.train.batch_size / len(self.train)

    def batches(self) -> TrainBatches:
        """The training batches, by step."""
        choice = self.config.train
        return TrainBatches(
            self.train, self.preprocess, self.config.augment, choice.batch_size, choice.seed, rank(), world_size()
        )

    def provenance(self) -> dict[str, Any]:
        """Where weights come from: enough to train them again, and to find the images they have never seen."""
        data = self.config.data
        return {
            "recipe": self.config.recipe,
            "model": self.config.model.name,
            "data": {
                "source": public_name(self.source.spec),
                "fingerprint": self.fingerprint,
                "n_train": len(self.train),
                "split_seed": data.split_seed,
                "test_fraction": data.test_fraction if self.source.held_out else None,
                "val_fraction": data.val_fraction,
            },
            "seed": self.config.train.seed,
            "epochs": self.config.train.epochs,
            "mlp_mixer": __version__,
            "torch": torch.__version__,
        }


def prepare(config: TrainConfig, source: Source | None = None) -> Run:
    """Open the data (unless it is given), split it, and build the model from the seed.

    Raises `UserError` for whatever does not fit.
    """
    refuse_launcher()
    choice, data = config.train, config.data
    device = pick_device(choice.device)
    if source is None:
        source = open_source(data.source, split_seed=data.split_seed, test_fraction=data.test_fraction)
    else:  # what is written beside the run must name the images that were used
        config = dataclasses.replace(config, data=dataclasses.replace(data, source=source.spec))
    train, val = split_validation(source, data)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(choice.seed)
        model = build_model(config.model, source.train)
    return Run(
        config=config,
        source=source,
        fingerprint=source.fingerprint(),
        train=train,
        val=val,
        model=model.to(device),
        preprocess=Preprocess(
            image_size=model.config.image_size,
            channels=model.config.in_channels,
            **dataclasses.asdict(config.preprocess),
        ),
        device=device,
        total_steps=steps_for(choice.epochs, choice.batch_size, len(train)),
        warmup_steps=round(config.schedule.warmup_epochs * len(train) / choice.batch_size),
        workers=auto_workers(train) if data.workers is None else data.workers,
    )


def split_validation(source: Source, data: DataChoice) -> tuple[ImageSet, ImageSet | None]:
    """The images to learn from and those that choose the best checkpoint; the test split is in neither."""
    if source.val is not None or data.val_fraction == 0:
        return source.train, source.val
    rest, held_out = stratified_split(source.train.labels, data.val_fraction, data.split_seed)
    return (source.train.subset(rest), source.train.subset(held_out)) if len(held_out) else (source.train, None)


def build_model(choice: ModelChoice, images: ImageSet) -> MlpMixer:
    """The chosen variant for these images' classes and channels; fields left at none are the variant's."""
    fields = {name: value for name, value in dataclasses.asdict(choice).items() if value is not None}
    return create_model(num_classes=len(images.classes), in_channels=images.channels, **fields)
