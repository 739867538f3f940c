"""A teacher: a network whose answers to the student's images are learned.

Hinton, Vinyals and Dean 2015 (arXiv 1503.02531). That the teacher answers to each
augmented and mixed image anew, instead of once for all, is what Beyer et al. 2021
(arXiv 2106.05237) found to matter.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...data.image_set import ImageSet
from ...errors import UserError, listed
from ...images.preprocess import Preprocess
from ...weights import load
from ...weights.checkpoint import fingerprint
from ...weights.labels import class_numbers
from ..config import DistillChoice, TrainConfig


@dataclass(frozen=True)
class Teacher:
    """Holds a network that answers and does not learn.

    Attributes:
        name: For people.
        network: Takes images as `own` normalises them and gives logits; in evaluation
            mode.
        student: How the student's images are made.
        own: How the teacher's images are made; sizes, means and deviations may differ.
        columns: Which of the network's classes are the student's, in the student's
            order.
    """

    name: str
    network: nn.Module
    student: Preprocess
    own: Preprocess
    columns: tuple[int, ...]

    def __call__(self, images: Tensor) -> Tensor:
        """Answer to the images of the student.

        Args:
            images: (B, C, H, W) of any size, normalised for the student.

        Returns:
            The teacher's logits (B, K) of the student's classes, fp32.

        Raises:
            UserError: The network gives something else than a logit for each class.
        """
        images = self._as_own(images)
        with torch.no_grad():
            logits = self.network(images)
        if logits.ndim != 2 or logits.shape[1] <= max(self.columns):
            raise UserError(
                f"the teacher answers with {tuple(logits.shape)} to {len(images)} images: "
                f"expected one logit for each of the {len(self.columns)} classes"
            )
        return logits[:, list(self.columns)].float()

    def _as_own(self, images: Tensor) -> Tensor:
        """Return the student's images at the teacher's size and normalised for it."""
        own = self.own
        student = self.student
        if images.shape[2:] != own.image_size:
            images = F.interpolate(
                images, own.image_size, mode="bilinear", antialias=True
            )
        if (own.mean, own.std) == (student.mean, student.std):
            return images
        mean = images.new_tensor(student.mean).view(-1, 1, 1)
        std = images.new_tensor(student.std).view(-1, 1, 1)
        return own.normalize((images * std + mean) * 255)

    @functools.cached_property
    def fingerprint(self) -> str:
        """Digits of the weights: a run goes on with the teacher that it began with."""
        # Every saved state names it, so it is computed once.
        return fingerprint(self.network)


def open_teacher(
    config: TrainConfig,
    given: nn.Module | None,
    images: ImageSet,
    student: Preprocess,
    device: torch.device,
) -> tuple[Teacher | None, tuple[str, ...]]:
    """Open the teacher of a run, if it has one.

    Args:
        config: The run; `distill.teacher` names weights.
        given: Instead, a network that takes the student's own normalised images and has
            its classes in their order.
        images: The training set.
        student: How the student's images are made.
        device: Where the teacher computes.

    Returns:
        The teacher or None, and notes for the journal.

    Raises:
        UserError: Two teachers are named, or the teacher does not fit the images or the
            loss.
    """
    choice = config.distill
    if given is None and choice.teacher is None:
        if choice != DistillChoice():
            raise UserError(
                "distill.temperature and distill.weight are of a teacher: set "
                "distill.teacher, or leave them out"
            )
        return None, ()
    if given is not None and choice.teacher is not None:
        raise UserError(
            "one teacher only: distill.teacher names weights, and a network is given as "
            "well"
        )
    if config.train.loss != "softmax":
        raise UserError(
            "a teacher's answers are shares of one: use train.loss=softmax, or leave out "
            "distill.teacher"
        )
    if given is not None:
        name = type(given).__name__
        columns = tuple(range(len(images.classes)))
        teacher = Teacher(name, given.to(device).eval(), student, student, columns)
    else:
        assert choice.teacher is not None
        name = Path(choice.teacher).name
        checkpoint = load(choice.teacher, key=choice.key)
        own = checkpoint.preprocess
        columns = _columns(name, own, checkpoint.labels or (), images)
        network = checkpoint.model.to(device).eval()
        teacher = Teacher(name, network, student, own, columns)
    note = (
        f"the answers of {name} at temperature {choice.temperature:g} are "
        f"{choice.weight:.0%} of the loss"
    )
    return teacher, (note,)


def _columns(
    name: str, own: Preprocess, labels: tuple[str, ...], images: ImageSet
) -> tuple[int, ...]:
    """Return which of the teacher's classes are those of the images.

    The teacher must know all of them by name: its shares of the classes add up to one.
    """
    if own.channels != images.channels:
        raise UserError(
            f"the images have {images.channels} channels, distill.teacher={name} takes "
            f"{own.channels}"
        )
    numbers = class_numbers(labels)
    missing = [label for label in images.classes if label not in numbers]
    if missing:
        raise UserError(
            f"distill.teacher={name} does not know {listed(missing, 3, ', ')}: a teacher "
            "needs every class of the images by name; fine-tune it on them first "
            "(mlp-mixer finetune)"
        )
    return tuple(numbers[label] for label in images.classes)
