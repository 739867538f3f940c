"""From a configuration to everything that a run needs before its first step."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .._version import __version__
from ..choices import Computed
from ..config import to_dict
from ..data.dataset import Dataset, public_name
from ..data.image_set import ImageSet
from ..data.loader import TrainBatches, auto_workers, stored
from ..data.seen import SeenImages
from ..devices import pick_device
from ..distributed import is_main, rank, world_size
from ..errors import listed, without_secrets
from ..images.preprocess import Preprocess
from ..kernels import with_kernels
from ..models import IsotropicMlp
from ..randomness import ClassMembers, steps_for
from .config import DataChoice, TrainConfig
from .extras.distill import Teacher, open_teacher
from .extras.elastic import check_sides
from .extras.imbalance import check_imbalance
from .extras.pretext import Pretext, build_pretext
from .extras.several_labels import for_several_labels
from .model import Built, build_model
from .optim.schedule import warmup_length
from .parallel import check_parallel
from .precision import settle_precision
from .splits import open_images, seen_notes

_MOST_EVALUATIONS = 40  # of a run whose epochs follow from the number of images


@dataclass(frozen=True)
class Run:
    """Holds what a configuration and its data come to.

    Attributes:
        config: The configuration.
        source: The dataset with its splits.
        fingerprint: Digits that change with any training image or label.
        train: The images to learn from.
        val: The images that choose the best checkpoint, if there are any.
        model: The network, on the device.
        preprocess: How an image becomes the network's input.
        device: Where the network computes.
        precision: What its forward pass is computed in.
        total_steps: Steps from the beginning to the end.
        warmup_steps: Steps over which the learning rate rises.
        workers: Processes that prepare batches, 0 for none.
        store: All training images on the device, where they fit and need nothing but
            augmentation.
        teacher: The network whose answers are learned, if there is one.
        task: What is learned instead of labels, if anything is.
        notes: What a person should know, such as which classes a head kept.
        begin: What a state needs of the weights that the run began with: all but the
            tensors; empty where the weights are fresh.
        seen: The images that the weights have learnt from when the run is over,
            validation images included, and those of the weights it begins with.
    """

    config: TrainConfig
    source: Dataset
    fingerprint: str
    train: ImageSet
    val: ImageSet | None
    model: IsotropicMlp
    preprocess: Preprocess
    device: torch.device
    total_steps: int
    warmup_steps: int
    workers: int
    precision: Computed = "fp32"
    store: Tensor | None = None
    teacher: Teacher | None = None
    task: Pretext | None = None
    notes: tuple[str, ...] = ()
    begin: Mapping[str, Any] = field(default_factory=dict)
    seen: SeenImages = field(default_factory=SeenImages.unknown)

    def epoch(self, step: int) -> float:
        """Return how many epochs of images the first `step` steps saw."""
        return step * self.config.train.batch_size / len(self.train)

    @property
    def model_name(self) -> str:
        """The variant, or the weights that the run began with."""
        init = self.config.model.init
        if init is None:
            return self.config.model.name
        how = "without labels" if self.task else "fine-tuned"
        return f"{Path(without_secrets(init)).name} ({how})"

    @property
    def beside(self) -> nn.Module | None:
        """What learns beside the network: it is in a state, and not in a checkpoint."""
        return self.task.own if self.task else None

    @property
    def right_name(self) -> str | None:
        """What the journal calls the share of right answers, if there are any."""
        return self.task.right_name if self.task else "train_top1"

    @property
    def measure(self) -> str:
        """What chooses the best checkpoint: the key of an evaluation row."""
        if self.train.targets is not None:
            return "map"
        # Who corrects an imbalance gives away accuracy on the frequent classes.
        if self.config.data.sampling == "balanced":
            return "balanced_top1"
        if self.config.train.class_weights == "auto":
            return "balanced_top1"
        return "top1"

    @functools.cached_property
    def members(self) -> ClassMembers | None:
        """The images of each class, where all classes come equally often."""
        return class_members(self.train, self.config.data)

    def images_of(self, step: int) -> str:
        """Return the numbers of the first images in a step's batch, for messages."""
        _, indices = self.batches().positions(step)
        return listed([str(index) for index in sorted(indices.tolist())], 6, ", ")

    def batches(self) -> TrainBatches:
        """Return this process's part of the training batches, by step."""
        return TrainBatches(
            self.train,
            self.preprocess,
            self.config.augment,
            self.config.train.batch_size,
            self.config.train.seed,
            rank(),
            world_size(),
            self.config.data.repeats,
            self.store,
            self.members,
        )

    def provenance(self) -> dict[str, Any]:
        """Return where the weights come from, as JSON values for the checkpoint.

        It is enough to train them again, and to find the images they have never seen.
        """
        data = self.config.data
        record: dict[str, Any] = {
            "recipe": self.config.recipe,
            "model": self.model_name,
            "data": {
                # Without the path: a checkpoint that is published tells no folders.
                "source": public_name(self.source.spec),
                "fingerprint": self.fingerprint,
                "n_train": len(self.train),
                "split_seed": data.split_seed,
                "split_by": data.split_by,
                "test_fraction": data.test_fraction if self.source.held_out else None,
                "val_fraction": data.val_fraction,
            },
            "seed": self.config.train.seed,
            "epochs": round(self.epoch(self.total_steps), 4),
            "precision": self.precision,
            "seen": self.seen.to_json(),
        }
        if self.task:
            record["pretext"] = to_dict(self.config.pretext)
        else:
            record["head"] = self.config.train.loss
        if self.teacher:
            record["teacher"] = self.teacher.name
        record["mlp_mixer"] = __version__
        record["torch"] = torch.__version__
        return record


def prepare(
    config: TrainConfig,
    source: Dataset | None = None,
    teacher: nn.Module | None = None,
    begin: Mapping[str, Any] | None = None,
    precision: Computed | None = None,
) -> Run:
    """Open the data, split it, and build the network from the seed.

    Args:
        config: The configuration.
        source: The dataset, instead of the one that `config.data.source` names.
        teacher: A network to learn from, as for `train`.
        begin: As a saved state has it, whose weights will replace those of the network;
            then the weights of `config.model.init` are not read.
        precision: What a run computed in that is resumed.

    Returns:
        Everything that the first step needs.

    Raises:
        UserError: The settings, the images, the weights and the device do not fit
            together.
    """
    check_parallel(config)
    check_imbalance(config)
    choice = config.train
    data = config.data
    device = pick_device(choice.device)

    config, images = open_images(config, source)
    train = images.train
    config = with_epochs(config, len(train))
    label_notes: tuple[str, ...] = ()
    if config.pretext.name == "none":
        config, label_notes = for_several_labels(
            config, train, teacher=teacher is not None
        )
    choice = config.train

    # Fresh weights depend on the seed alone, and the caller's generator stays as it was.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(choice.seed)
        built = _built(config, images.source.train, begin)
    model, preprocess, notes, seen = built
    check_sides(config, model.config)
    teaching, teacher_notes = open_teacher(
        config, teacher, images.source.train, preprocess, device
    )

    # The fused kernels are compiled for one number of patches.
    kernels = "plain" if config.augment.sides else choice.kernels
    precision, precision_notes = settle_precision(choice, device, model, kept=precision)
    model, kernel_notes = with_kernels(model.to(device), kernels, precision)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(choice.seed)
        task = build_pretext(config.pretext, model)

    total_steps = choice.steps
    if total_steps is None:
        total_steps = steps_for(choice.epochs, choice.batch_size, len(train))
    warmup_steps = warmup_length(
        config.schedule, total_steps, len(train), choice.batch_size
    )

    # A small dataset in memory is kept on the GPU, where batches are then made; worker
    # processes that somebody asked for could not reach it there.
    store = None
    if device.type == "cuda" and not data.workers:
        store = stored(train, preprocess, device)
    return Run(
        config=config,
        source=images.source,
        fingerprint=images.source.fingerprint(),
        train=train,
        val=images.val,
        model=model,
        preprocess=preprocess,
        device=device,
        precision=precision,
        total_steps=total_steps,
        warmup_steps=warmup_steps,
        workers=auto_workers(train) if data.workers is None else data.workers,
        store=store,
        teacher=teaching,
        task=task,
        notes=(
            *images.notes,
            *label_notes,
            *notes,
            *seen_notes(seen, images.val),
            *teacher_notes,
            *precision_notes,
            *kernel_notes,
        ),
        begin=built.to_json() if config.model.init else {},
        # Only the main process writes checkpoints.
        seen=seen | images.seen() if is_main() else seen,
    )


def _built(
    config: TrainConfig, images: ImageSet, begin: Mapping[str, Any] | None
) -> Built:
    return Built.from_json(begin) if begin else build_model(config, images)


def class_members(images: ImageSet, data: DataChoice) -> ClassMembers | None:
    """Return the images of each class where sampling is balanced, else None.

    Args:
        images: The images to learn from.
        data: Says how they are sampled.
    """
    if data.sampling == "shuffle":
        return None
    return ClassMembers.of(images.labels)


def with_epochs(config: TrainConfig, images: int) -> TrainConfig:
    """Return a configuration whose length is stated in epochs or steps.

    Args:
        config: The configuration; `train.images` may state its length.
        images: The number of training images.
    """
    choice = config.train
    if choice.images is None:
        return config
    epochs = max(choice.fewest_epochs, choice.images / images)
    epochs = round(min(epochs, choice.most_epochs), 2)
    # Of hundreds of short epochs not each needs its evaluation.
    every = max(choice.eval_every_epochs, round(epochs / _MOST_EVALUATIONS, 2))
    length = dataclasses.replace(
        choice, images=None, epochs=epochs, eval_every_epochs=every
    )
    return dataclasses.replace(config, train=length)
