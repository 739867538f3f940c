"""The network of a run and its preprocessing: fresh, or from pretrained weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import nn

from ..config import from_dict, to_dict
from ..data.image_set import ImageSet
from ..data.seen import SeenImages
from ..errors import UserError
from ..images.preprocess import Preprocess
from ..models import IsotropicMlp, build_network, model_config
from ..models.base import NetworkConfig
from ..models.families import config_from_dict, config_to_dict
from ..weights import load
from ..weights.agreement import need_agreement
from ..weights.labels import class_numbers
from ..weights.resize import resize
from .config import ModelChoice, PreprocessChoice, TrainConfig
from .extras.whiten import whiten


class Built(NamedTuple):
    """Hold a network as training finds it.

    Attributes:
        model: The network on the CPU.
        preprocess: How an image becomes its input.
        notes: Sentences for the journal.
        seen: The images that its weights have learnt from before.
    """

    model: IsotropicMlp
    preprocess: Preprocess
    notes: tuple[str, ...]
    seen: SeenImages

    def to_json(self) -> dict[str, Any]:
        """Return all but the weights, for a saved state, which holds these."""
        return {
            "config": config_to_dict(self.model.config),
            "preprocess": to_dict(self.preprocess),
            "notes": list(self.notes),
            "seen": self.seen.to_json(),
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Built:
        """Return a network with fresh weights, for those of a saved state.

        So a run goes on where the weights that it began with are gone.

        Args:
            record: What `to_json` returned.

        Raises:
            UserError: The record is damaged.
        """
        try:
            model = build_network(config_from_dict(record["config"])).train()
            preprocess = from_dict(Preprocess, record["preprocess"])
            need_agreement(preprocess, model.config)
            notes = tuple(map(str, record["notes"]))
        except (KeyError, TypeError, RuntimeError, OverflowError) as error:
            raise UserError(
                f"the saved state does not describe its network ({error!r}); use "
                "--overwrite to start anew"
            ) from error
        seen = SeenImages.from_provenance(record) or SeenImages.unknown()
        return cls(model, preprocess, notes, seen)


# What may differ from the pretrained weights: noise in training has no weights.
_NOISE = ("dropout", "drop_path", "drop_path_rule")
# Settings that say where the network comes from; the others describe its layers.
_ORIGIN = {"name", "init", "key", "image_size", "patch_size", "resize", "stem", "head"}
_ORIGIN |= {"in_channels", "evaluation"}


def build_model(config: TrainConfig, images: ImageSet) -> Built:
    """Build the network for the classes and channels of a training set.

    Args:
        config: The run. Without `model.init` the network is fresh, and fields that are
            None keep the variant's values. With `model.init` it has the checkpoint's
            weights and preprocessing, resized if another image size is asked for, and a
            new head that keeps the rows of the classes it knows by name. With a pretext
            the network has no head.
        images: The training set.

    Returns:
        The network with what belongs to it.

    Raises:
        UserError: The settings, the weights and the images do not fit together.
    """
    # A task without labels has no use for a classifier.
    classes = 0 if config.pretext.name != "none" else len(images.classes)
    if config.model.init is None:
        return _fresh(config, images, classes)
    return _pretrained(config.model, config.model.init, images, classes)


def input_of(config: TrainConfig, images: ImageSet) -> Preprocess:
    """Return how images become the network's input in a run.

    A fresh network is not built for the answer; weights of `model.init` are read.

    Args:
        config: As for `build_model`.
        images: The training set.

    Raises:
        UserError: As for `build_model`.
    """
    if config.model.init is not None:
        return build_model(config, images).preprocess
    network = _fresh_config(config, images, len(images.classes))
    return _preprocess(config.preprocess, network)


def _fresh(config: TrainConfig, images: ImageSet, classes: int) -> Built:
    model = build_network(_fresh_config(config, images, classes))
    preprocess = _preprocess(config.preprocess, model.config)
    if config.model.stem == "whitened":
        whiten(model.stem, images, preprocess, config.train.seed)
    # With the sigmoid loss every class begins improbable: see `train.head_bias`.
    if isinstance(model.head, nn.Linear) and config.train.head_bias:
        nn.init.constant_(model.head.bias, config.train.head_bias)
    return Built(model, preprocess, (), SeenImages.of())


def _fresh_config(config: TrainConfig, images: ImageSet, classes: int) -> NetworkConfig:
    """Return the architecture of a fresh network; settings of weights are refused."""
    if config.model.head == "fitted":
        raise UserError(
            "model.head=fitted needs weights to take features from: set model.init"
        )
    if config.model.key is not None:
        raise UserError(
            f"model.key={config.model.key} chooses a network of the file at model.init: "
            "set that, or leave it out"
        )
    if config.model.evaluation == "whole":
        raise UserError(
            "model.evaluation=whole changes the preprocessing of the weights of "
            "model.init; for fresh weights set preprocess.resize=resize and "
            "preprocess.crop_pct=1"
        )
    fields = _given(config.model)
    if "in_channels" in fields:
        raise UserError(
            "model.in_channels adapts the weights of model.init; fresh weights take the "
            "channels of the images: leave it out"
        )
    for name in ("resize", "stem", "head", "evaluation"):
        del fields[name]
    return model_config(num_classes=classes, in_channels=images.channels, **fields)


def _given(choice: ModelChoice) -> dict[str, Any]:
    """Return the fields of a choice that are not None."""
    fields = dataclasses.asdict(choice)
    return {name: value for name, value in fields.items() if value is not None}


def _preprocess(choice: PreprocessChoice, network: NetworkConfig) -> Preprocess:
    channels = network.in_channels
    for name in ("mean", "std"):
        count = len(getattr(choice, name))
        if count not in (1, channels):
            raise UserError(
                f"preprocess.{name} has {count} numbers, and the images have {channels} "
                f"channels: give one for all, such as --set preprocess.{name}=0.5, or one "
                "for each"
            )
    size = network.image_size
    return Preprocess(image_size=size, channels=channels, **dataclasses.asdict(choice))


def _pretrained(
    choice: ModelChoice, init: str, images: ImageSet, classes: int
) -> Built:
    checkpoint = load(init, key=choice.key, channels=choice.in_channels)
    old = checkpoint.model.config
    if choice.image_size or choice.patch_size:
        checkpoint = resize(
            checkpoint,
            choice.image_size or old.image_size,
            method=choice.resize,
            patch_size=choice.patch_size,
        )
    model = _with_noise(checkpoint.model, choice).train()
    _check_channels(model, images)
    if classes:
        notes = [_new_head(model, checkpoint.labels, images, choice)]
    else:
        model.reset_classifier(0)
        notes = ["without the classifier of the weights"]
    new = model.config
    if choice.in_channels is not None:
        notes += checkpoint.provenance.get("notes", [])[-1:]
    if new.image_size != old.image_size:
        before = "x".join(map(str, old.image_size))
        now = "x".join(map(str, new.image_size))
        notes.insert(0, f"weights resized from {before} to {now} ({choice.resize})")
    # What other projects' weights have learnt from is written nowhere.
    seen = SeenImages.from_provenance(checkpoint.provenance) or SeenImages.unknown()
    preprocess = checkpoint.preprocess
    if choice.evaluation == "whole":
        preprocess = _whole(preprocess)
    return Built(model, preprocess, tuple(notes), seen)


def _whole(preprocess: Preprocess) -> Preprocess:
    """Return a record that squashes the whole image to the input, as vit_jax does.

    Mean and deviation stay those of the weights.
    """
    return dataclasses.replace(
        preprocess,
        resize="resize",
        crop_pct=1.0,
        interpolation="bilinear",
        resampler="vit_jax",
    )


def _with_noise(model: IsotropicMlp, choice: ModelChoice) -> IsotropicMlp:
    """Return the same weights with the dropout and stochastic depth of the choice."""
    noise = {}
    for name, value in _given(choice).items():
        if name in _NOISE:
            noise[name] = value
        elif name not in _ORIGIN:
            raise UserError(
                f"model.{name} is settled by the weights of model.init; leave it out"
            )
    noisy = build_network(dataclasses.replace(model.config, **noise))
    noisy.load_state_dict(model.state_dict(), assign=True)
    return noisy


def _check_channels(model: IsotropicMlp, images: ImageSet) -> None:
    if images.channels != model.config.in_channels:
        raise UserError(
            f"the images have {images.channels} channels, these weights take "
            f"{model.config.in_channels}; --set model.in_channels={images.channels} "
            f"(finetune: --channels {images.channels}) adapts the weights"
        )


def _new_head(
    model: IsotropicMlp,
    labels: tuple[str, ...] | None,
    images: ImageSet,
    choice: ModelChoice,
) -> str:
    """Give a network a head for the images' classes, and return a note about it.

    The new head is zero, as in the paper's fine-tuning, but for the classes that the
    old one knows by name: those keep their rows, if `choice.head` says so.
    """
    old = model.get_classifier()
    # New row -> old row, of the classes that both heads have.
    kept = {}
    if choice.head == "known":
        old_rows = class_numbers(labels or ())
        for row, name in enumerate(images.classes):
            if name in old_rows:
                kept[row] = old_rows[name]

    count = len(images.classes)
    model.reset_classifier(count)
    assert isinstance(model.head, nn.Linear)
    if not kept or not isinstance(old, nn.Linear):
        return f"new head of zeros for {count} classes"
    new_rows = list(kept)
    with torch.no_grad():
        bias = old.bias[list(kept.values())]
        # A head that was trained with sigmoids has biases far below 0. Beside them the
        # zeros of the other rows would be the answer to everything.
        if len(kept) < count:
            bias = bias - bias.mean()
        model.head.weight[new_rows] = old.weight[list(kept.values())]
        model.head.bias[new_rows] = bias
    return (
        f"the head keeps {len(kept)} of {count} classes that the weights know by name"
    )
