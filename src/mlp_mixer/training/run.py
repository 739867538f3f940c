"""From a configuration to everything a run needs before its first step."""

from __future__ import annotations

import csv
import dataclasses
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .._version import __version__
from ..data.dataset import Dataset, public_name, stratified_split
from ..data.image_set import ImageSet
from ..data.loader import TrainBatches, auto_workers, stored
from ..data.registry import open_dataset
from ..devices import pick_device
from ..distributed import rank, world_size
from ..errors import UserError
from ..files import write_bytes
from ..images.preprocess import Preprocess
from ..kernels import with_kernels
from ..models import MlpMixer, create_model
from ..randomness import steps_for
from ..weights import load
from ..weights.labels import class_numbers
from ..weights.resize import resize
from .config import DataChoice, ModelChoice, TrainConfig
from .extras.distill import Teacher, open_teacher
from .extras.elastic import check_sides
from .extras.whiten import whiten
from .optim.schedule import warmup_length
from .parallel import check_parallel

# images of a training set, of which a list would be longer than anyone reads
_MOST_LISTED = 200_000


@dataclass(frozen=True)
class Run:
    """What a configuration and its data come to."""

    config: TrainConfig
    source: Dataset
    fingerprint: str
    train: ImageSet
    val: ImageSet | None
    model: MlpMixer
    preprocess: Preprocess
    device: torch.device
    total_steps: int
    warmup_steps: int
    workers: int
    store: Tensor | None = (
        None  # the training images on the device, where they need nothing but augmentation
    )
    teacher: Teacher | None = None
    notes: tuple[
        str, ...
    ] = ()  # what a person should know: which classes an old head kept, what was rescaled

    def epoch(self, step: int) -> float:
        """Epochs of data seen after `step` steps."""
        return step * self.config.train.batch_size / len(self.train)

    @property
    def model_name(self) -> str:
        """The variant, or the weights that it began with."""
        init = self.config.model.init
        return (
            self.config.model.name
            if init is None
            else f"{Path(init).name} (fine-tuned)"
        )

    def batches(self) -> TrainBatches:
        """The training batches, by step."""
        choice = self.config.train
        return TrainBatches(
            self.train,
            self.preprocess,
            self.config.augment,
            choice.batch_size,
            choice.seed,
            rank(),
            world_size(),
            self.config.data.repeats,
            self.store,
        )

    def provenance(self) -> dict[str, Any]:
        """Where weights come from: enough to train them again, and to find the images
        they have never seen.
        """
        data = self.config.data
        return {
            "recipe": self.config.recipe,
            "model": self.model_name,
            "data": {
                "source": public_name(self.source.spec),
                "fingerprint": self.fingerprint,
                "n_train": len(self.train),
                "split_seed": data.split_seed,
                "test_fraction": data.test_fraction if self.source.held_out else None,
                "val_fraction": data.val_fraction,
            },
            "seed": self.config.train.seed,
            "epochs": round(self.epoch(self.total_steps), 4),
            "head": self.config.train.loss,
            **({"teacher": self.teacher.name} if self.teacher else {}),
            "mlp_mixer": __version__,
            "torch": torch.__version__,
        }


def prepare(
    config: TrainConfig, source: Dataset | None = None, teacher: nn.Module | None = None
) -> Run:
    """Open the data (unless it is given), split it, and build the model from the seed;
    teacher: see `train`.

    Raises `UserError` for whatever does not fit.
    """
    check_parallel(config)
    choice = config.train
    data = config.data
    device = pick_device(choice.device)
    if source is None:
        source = open_dataset(
            data.source, split_seed=data.split_seed, test_fraction=data.test_fraction
        )
    else:  # what is written beside the run must name the images that were used
        config = dataclasses.replace(
            config, data=dataclasses.replace(data, source=source.spec)
        )
    train, val = split_validation(source, data)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(choice.seed)
        model, preprocess, notes = build_model(config, source.train)
    check_sides(config, model.config)
    taught_by, of_teacher = open_teacher(
        config, teacher, source.train, preprocess, device
    )
    kernels = "plain" if config.augment.sides else choice.kernels
    model, of_kernels = with_kernels(model.to(device), kernels, choice.precision)
    total_steps = choice.steps or steps_for(
        choice.epochs, choice.batch_size, len(train)
    )
    return Run(
        config=config,
        source=source,
        fingerprint=source.fingerprint(),
        train=train,
        val=val,
        model=model,
        preprocess=preprocess,
        device=device,
        total_steps=total_steps,
        warmup_steps=warmup_length(
            config.schedule, total_steps, len(train), choice.batch_size
        ),
        workers=auto_workers(train) if data.workers is None else data.workers,
        store=stored(train, preprocess, device)
        if device.type == "cuda" and not data.workers
        else None,
        teacher=taught_by,
        notes=(*notes, *of_teacher, *of_kernels),
    )


def split_validation(
    source: Dataset, data: DataChoice
) -> tuple[ImageSet, ImageSet | None]:
    """The images to learn from and those that choose the best checkpoint; the test
    split is in neither.
    """
    if source.val is not None or data.val_fraction == 0:
        return source.train, source.val
    rest, held_out = stratified_split(
        source.train.labels, data.val_fraction, data.split_seed
    )
    return (
        (source.train.subset(rest), source.train.subset(held_out))
        if len(held_out)
        else (source.train, None)
    )


def write_split(run: Run, path: Path) -> None:
    """Which images were learnt from and which judged, if it was us who split them:
    path,label,split as in `list:`.
    """
    parts = {"train": run.train, "val": run.val, "test": run.source.test}
    ours = run.source.held_out is not None or (
        run.val is not None and run.source.val is None
    )
    if not ours or len(run.source.train) > _MOST_LISTED:
        return
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["path", "label", "split"])
    for split, images in parts.items():
        for index in range(len(images) if images is not None else 0):
            assert images is not None
            table.writerow(
                [images.name(index), images.classes[images.labels[index]], split]
            )
    write_bytes(path, text.getvalue().encode("utf-8", "surrogateescape"))


def build_model(
    config: TrainConfig, images: ImageSet
) -> tuple[MlpMixer, Preprocess, tuple[str, ...]]:
    """The network for these images' classes and channels, its preprocessing, and notes.

    Fresh weights: fields of the choice left at none are the variant's. With
        `model.init`: the checkpoint's network and
    preprocessing, resized if another image size is asked for, with a new head; the rows
    of classes that the old head knows by name are kept.
    """
    choice = config.model
    if choice.init is None:
        fields = {
            name: value
            for name, value in dataclasses.asdict(choice).items()
            if value is not None
        }
        del fields["resize"], fields["stem"]
        model = create_model(
            num_classes=len(images.classes), in_channels=images.channels, **fields
        )
        size = model.config.image_size
        channels = model.config.in_channels
        for name in ("mean", "std"):
            if (given := len(getattr(config.preprocess, name))) not in (1, channels):
                raise UserError(
                    f"preprocess.{name} has {given} numbers, and the images have {channels} channels: "
                    f"give one for all, such as --set preprocess.{name}=0.5, or one for each"
                )
        preprocess = Preprocess(
            image_size=size, channels=channels, **dataclasses.asdict(config.preprocess)
        )
        notes: tuple[str, ...] = ()
        if choice.stem == "whitened":
            whiten(model.stem, images, preprocess, config.train.seed)
    else:
        checkpoint = load(choice.init)
        old = checkpoint.model.config
        if choice.image_size or choice.patch_size:
            other = choice.image_size or old.image_size
            checkpoint = resize(
                checkpoint, other, method=choice.resize, patch_size=choice.patch_size
            )
        model = _with_noise(checkpoint.model, choice).train()
        preprocess = checkpoint.preprocess
        notes = _new_head(model, checkpoint.labels, images)
        if model.config.image_size != old.image_size:
            was, now = (
                "x".join(map(str, config.image_size)) for config in (old, model.config)
            )
            notes = (f"weights resized from {was} to {now} ({choice.resize})", *notes)
    if (
        isinstance(model.head, nn.Linear)
        and config.train.head_bias
        and choice.init is None
    ):
        nn.init.constant_(model.head.bias, config.train.head_bias)
    return model, preprocess, notes


def _with_noise(model: MlpMixer, choice: ModelChoice) -> MlpMixer:
    """The same weights with the dropout and stochastic depth that the choice states;
    they settle the widths.
    """
    given = {
        name: value
        for name, value in dataclasses.asdict(choice).items()
        if value is not None
    }
    noise = {
        name: given.pop(name)
        for name in ("dropout", "drop_path", "drop_path_rule")
        if name in given
    }
    if settled := sorted(
        given.keys() - {"name", "init", "image_size", "patch_size", "resize", "stem"}
    ):
        raise UserError(
            f"model.{settled[0]} is settled by the weights of model.init; leave it out"
        )
    noisy = MlpMixer(dataclasses.replace(model.config, **noise))
    noisy.load_state_dict(model.state_dict(), assign=True)
    return noisy


def _new_head(
    model: MlpMixer, labels: tuple[str, ...] | None, images: ImageSet
) -> tuple[str, ...]:
    """A head of zeros for the images' classes, but for those that the old one has;
    `UserError` for other channels.
    """
    if images.channels != model.config.in_channels:
        raise UserError(
            f"the images have {images.channels} channels, these weights take {model.config.in_channels}"
        )
    numbers = class_numbers(labels or ())
    known = {
        new: numbers[name] for new, name in enumerate(images.classes) if name in numbers
    }
    old = model.get_classifier()
    model.reset_classifier(len(images.classes))
    assert isinstance(model.head, nn.Linear)
    if not known or not isinstance(old, nn.Linear):
        return (f"new head of zeros for {len(images.classes)} classes",)
    with torch.no_grad():
        model.head.weight[list(known)] = old.weight[list(known.values())]
        model.head.bias[list(known)] = old.bias[list(known.values())]
    return (
        f"the head keeps {len(known)} of {len(images.classes)} classes that the weights know by name",
    )
