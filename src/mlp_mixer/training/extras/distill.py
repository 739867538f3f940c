"""A teacher: a network whose answers to the very images that the student sees are
learned, beside the labels or alone.

Hinton, Vinyals and Dean 2015 (arXiv 1503.02531); that the teacher answers to each
augmented and mixed image anew, instead of once for all, is what Beyer et al. 2021
(arXiv 2106.05237) found to matter.
"""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...data.image_set import ImageSet
from ...errors import UserError
from ...images.preprocess import Preprocess
from ...weights import load
from ...weights.labels import class_numbers
from ..config import DistillChoice, TrainConfig


@dataclass(frozen=True)
class Teacher:
    """A network that answers and does not learn.

    Args:
        name: for people.
        network: images as `own` normalises them -> logits; in evaluation mode.
        student, own: how the images of student and teacher are made; sizes, means and
            deviations may differ.
        columns: which of the network's classes are those of the student, in the order
            of the student's.
    """

    name: str
    network: nn.Module
    student: Preprocess
    own: Preprocess
    columns: tuple[int, ...]

    def __call__(self, images: Tensor) -> Tensor:
        """The student's normalised images (B, C, H, W), of any size -> the teacher's
        logits (B, K) of its classes.
        """
        own = self.own
        student = self.student
        if images.shape[2:] != own.image_size:
            images = F.interpolate(
                images, own.image_size, mode="bilinear", antialias=True
            )
        if (own.mean, own.std) != (student.mean, student.std):
            mean, std = (
                images.new_tensor(values).view(-1, 1, 1)
                for values in (student.mean, student.std)
            )
            images = own.normalize((images * std + mean) * 255)
        with torch.no_grad():
            logits = self.network(images)
        if logits.ndim != 2 or logits.shape[1] <= max(self.columns):
            raise UserError(
                f"the teacher answers with {tuple(logits.shape)} to {len(images)} images: "
                f"expected one logit for each of the {len(self.columns)} classes"
            )
        return logits[:, list(self.columns)].float()

    @functools.cached_property  # every saved state names it
    def fingerprint(self) -> str:
        """Of its weights: a run goes on with the teacher that it began with."""
        digest = hashlib.sha256()
        for name, tensor in self.network.state_dict().items():
            digest.update(name.encode())
            digest.update(
                tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
            )
        return digest.hexdigest()[:16]


def open_teacher(
    config: TrainConfig,
    given: nn.Module | None,
    images: ImageSet,
    student: Preprocess,
    device: torch.device,
) -> tuple[Teacher | None, tuple[str, ...]]:
    """The teacher of a run, if it has one, on the device; and what a person should know
    about it.

    given: a network that takes the student's own normalised images and has its classes
        in their order, instead of the
    weights that `config.distill.teacher` names. Raises `UserError` if both are there,
    or if they do not fit the images.
    """
    choice = config.distill
    if given is None and choice.teacher is None:
        if choice != DistillChoice():
            raise UserError(
                "distill.temperature and distill.weight are of a teacher: set distill.teacher, or leave them out"
            )
        return None, ()
    if given is not None and choice.teacher is not None:
        raise UserError(
            "one teacher only: distill.teacher names weights, and a network is given as well"
        )
    if config.train.loss != "softmax":
        raise UserError(
            "a teacher's answers are shares of one: use train.loss=softmax, or leave out distill.teacher"
        )
    if given is not None:
        name = type(given).__name__
        network = given
        own = student
        columns = tuple(range(len(images.classes)))
    else:
        assert choice.teacher is not None
        checkpoint = load(choice.teacher)
        name = Path(choice.teacher).name
        network = checkpoint.model
        own = checkpoint.preprocess
        columns = _columns(name, own, checkpoint.labels or (), images)
    note = f"the answers of {name} at temperature {choice.temperature:g} are {choice.weight:.0%} of the loss"
    return Teacher(name, network.to(device).eval(), student, own, columns), (note,)


def _columns(
    name: str, own: Preprocess, labels: tuple[str, ...], images: ImageSet
) -> tuple[int, ...]:
    """Which of the teacher's classes are those of the images; `UserError` unless it
    knows them all.
    """
    if own.channels != images.channels:
        raise UserError(
            f"the images have {images.channels} channels, distill.teacher={name} takes {own.channels}"
        )
    numbers = class_numbers(labels)
    if missing := [label for label in images.classes if label not in numbers]:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise UserError(
            f"distill.teacher={name} does not know {', '.join(missing[:3])}{more}: "
            "a teacher needs every class of the images by name; fine-tune it on them first (mlp-mixer finetune)"
        )
    return tuple(numbers[label] for label in images.classes)
