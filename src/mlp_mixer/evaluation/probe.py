"""What are the features of a checkpoint worth on one source of images?

Few-shot accuracy, and a linear head for all images or for some of them, as VTAB-1k
takes 1,000 (Zhai et al. 2019, arXiv 1910.04867). The features are computed once.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
import torch

from ..config import check_bounds, from_dict
from ..data.dataset import Dataset, stratified_sample
from ..data.image_set import ImageSet
from ..data.seen import SeenImages
from ..errors import UserError
from ..weights import Checkpoint
from .accuracy import Progress
from .features import split_features
from .fewshot import L2, SEEDS, fewshot_curve, support
from .logistic import fit_linear_head
from .splits import support_and_eval_split

LINEAR = "linear"
"""The name of the linear head among the measures."""


@dataclass(frozen=True)
class ProbeChoice:
    """Says what is measured on each source.

    Attributes:
        shots: Numbers of images of each class for the few-shot accuracy; may be empty.
        seeds: Choices of these images, and of `train_images`.
        linear: Whether a linear head is fitted too, as `finetune --frozen` does.
        train_images: How many images the linear head learns from, of each class its
            share; None: all. They are chosen by each seed.
        l2: The penalty of the few-shot fit.
        resize: As in `Preprocess`, the checkpoint's own by default.

    Raises:
        UserError: A number is out of range, or nothing would be measured.
    """

    shots: tuple[int, ...] = (5, 10)
    seeds: tuple[int, ...] = SEEDS
    linear: bool = True
    train_images: int | None = None
    l2: float = L2
    resize: Literal["resmall", "resize"] | None = None

    def __post_init__(self) -> None:
        for count in self.shots:
            check_bounds("shots", count, least=1)
        for seed in self.seeds:
            check_bounds("seeds", seed, least=0)
        check_bounds("train_images", self.train_images, least=2)
        check_bounds("l2", self.l2, above=0, below=np.inf)
        if not self.seeds:
            raise UserError("there is no seed: give at least one, such as 0")
        if not self.measures:
            raise UserError(
                "nothing would be measured: give shots, such as 5,10, or leave the "
                "linear head on"
            )

    @property
    def measures(self) -> tuple[str, ...]:
        """The names of what is measured, in order."""
        few = [few_shot(count) for count in dict.fromkeys(self.shots)]
        return (*few, *([LINEAR] if self.linear else []))

    @property
    def linear_seeds(self) -> tuple[int, ...]:
        """The seeds of the linear head: without a choice of images one is enough."""
        return self.seeds if self.train_images else self.seeds[:1]


def few_shot(shots: int) -> str:
    """Return the name of the few-shot accuracy, such as "5-shot".

    Args:
        shots: Images of each class.
    """
    return f"{shots}-shot"


@dataclass(frozen=True)
class ProbeRow:
    """Holds what was measured on one source.

    Attributes:
        data: The source.
        error: Why nothing was measured, "" if something was.
        images: The identity of its images, from `identity_of`.
        split: Which images were evaluated on, in words.
        n: How many.
        seen: How many of them the checkpoint may have learnt from, as in `EvalSplit`.
        classes: How many classes there are.
        n_train: How many images there are to learn from.
        n_linear: How many of them the linear head learns from.
        largest_class: The accuracy of always answering the most frequent class.
        accuracies: Top-1 by measure, then by seed.
        missing: Why a measure has no accuracy, by measure.
    """

    data: str
    error: str = ""
    images: str = ""
    split: str = ""
    n: int = 0
    seen: int | None = None
    classes: int = 0
    n_train: int = 0
    n_linear: int = 0
    largest_class: float = 0.0
    accuracies: dict[str, dict[str, float]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def mean(self, measure: str) -> float | None:
        """Return the mean accuracy over seeds, None where there is none.

        Args:
            measure: Such as "5-shot" or "linear".
        """
        by_seed = self.accuracies.get(measure)
        return sum(by_seed.values()) / len(by_seed) if by_seed else None

    @classmethod
    def from_dict(cls, values: Any) -> ProbeRow:
        """Return the row that `to_dict` has written.

        Args:
            values: From a file of anybody.

        Raises:
            UserError: They are no row.
        """
        if not isinstance(values, dict):
            raise UserError(f"expected a row, got {values!r}")
        values = {key: value for key, value in values.items() if key != "means"}
        row = from_dict(cls, values)
        numbers: list[Any] = []
        for by_seed in row.accuracies.values():
            numbers += by_seed.values() if isinstance(by_seed, dict) else [None]
        if any(type(one) not in (int, float) or not 0 <= one <= 1 for one in numbers):
            raise UserError(f"accuracies of {row.data} are not shares from 0 to 1")
        return row

    @property
    def complete(self) -> bool:
        """Whether everything was measured."""
        return not (self.error or self.missing)

    def to_dict(self) -> dict[str, Any]:
        """Return the row as JSON values, with the means; a failure says only why."""
        if self.error:
            return {"data": self.data, "error": self.error}
        values = asdict(self)
        del values["error"]
        return values | {"means": {name: self.mean(name) for name in self.accuracies}}


def probe_source(
    checkpoint: Checkpoint,
    data: str,
    dataset: Dataset,
    choice: ProbeChoice,
    *,
    batch_size: int = 256,
    device: torch.device | str | None = "auto",
    progress: Progress | None = None,
) -> ProbeRow:
    """Measure a checkpoint's pooled features on one source.

    Args:
        checkpoint: The network, with or without a head, preprocessing and provenance.
        data: What the row calls the source.
        dataset: Its images, split as for the checkpoint's training.
        choice: What is measured.
        batch_size: Images in a forward pass.
        device: As for `evaluate_fewshot`.
        progress: Is told how many images are done.

    Returns:
        The row. A measure for which a class has too few images is missing in it, with
        the reason.

    Raises:
        UserError: The images have several labels or one class, nothing is left to
            evaluate on, or no measure can be taken.
    """
    train, chosen = support_and_eval_split(dataset, checkpoint.provenance)
    train.need_one_label("a probe")
    if len(np.unique(train.labels)) < 2:
        raise UserError(
            f"{data}: the images to learn from are of one class, so every answer would "
            "be right; add images of other classes"
        )
    test = chosen.images
    drawn, missing = _drawn(train, choice)
    learnt = _learnt_from(train, choice)
    used = [*drawn.values(), *learnt.values()]
    if not used:
        raise UserError(f"{data}: {'; '.join(missing.values())}")
    x_train, x_test = split_features(
        checkpoint,
        train,
        test,
        used=np.unique(np.concatenate(used)),
        resize=choice.resize,
        batch_size=batch_size,
        device=device,
        progress=progress,
    )
    # The fits would end in an error of another program.
    if not (np.isfinite(x_train).all() and np.isfinite(x_test).all()):
        raise UserError(
            f"{data}: the features hold values that are not finite numbers; look at the "
            "weights"
        )
    accuracies: dict[str, dict[str, float]] = {}
    for shots in drawn:
        four = (x_train, train.labels, x_test, test.labels)
        curve = fewshot_curve(*four, shots=[shots], seeds=choice.seeds, l2=choice.l2)
        accuracies[few_shot(shots)] = _by_seed(curve[shots])
    if learnt:
        found = {
            seed: _linear(x_train, train, places, x_test, test, seed)
            for seed, places in learnt.items()
        }
        accuracies[LINEAR] = _by_seed(found)
    most_frequent = np.bincount(train.labels).argmax()
    return ProbeRow(
        data=data,
        images=identity_of(dataset),
        split=chosen.split,
        n=len(test),
        seen=chosen.seen,
        classes=len(train.classes),
        n_train=len(train),
        n_linear=max(map(len, learnt.values()), default=0),
        largest_class=float((test.labels == most_frequent).mean()),
        accuracies=accuracies,
        missing=missing,
    )


def identity_of(dataset: Dataset) -> str:
    """Return digits that change with the names, labels and contents of the images.

    Of millions of images the contents are left out.

    Args:
        dataset: The images.
    """
    contents = SeenImages.of(dataset.train, dataset.test).digest()
    return f"{dataset.fingerprint()}-{contents}"


def _drawn(
    train: ImageSet, choice: ProbeChoice
) -> tuple[dict[int, np.ndarray], dict[str, str]]:
    """Return the places that some seed draws, by shots; and why others have none."""
    drawn = {}
    missing = {}
    for shots in dict.fromkeys(choice.shots):
        try:
            places = [
                support(train.labels, shots, seed, train.classes)
                for seed in choice.seeds
            ]
        except UserError as error:
            missing[few_shot(shots)] = str(error)
        else:
            drawn[shots] = np.concatenate(places)
    return drawn, missing


def _learnt_from(train: ImageSet, choice: ProbeChoice) -> dict[int, np.ndarray]:
    """Return the places that the linear head learns from, by seed."""
    if not choice.linear:
        return {}
    count = choice.train_images or len(train)
    return {
        seed: stratified_sample(train.labels, count, seed)
        for seed in choice.linear_seeds
    }


def _linear(
    x_train: np.ndarray,
    train: ImageSet,
    places: np.ndarray,
    x_test: np.ndarray,
    test: ImageSet,
    seed: int,
) -> float:
    """Return the accuracy of the head that some of the images make best."""
    learnt = train.take(places)
    head = fit_linear_head(
        x_train[places], learnt.labels, learnt.keys(), len(train.classes), seed=seed
    )
    return float((head.answers(x_test) == test.labels).mean())


def _by_seed(accuracies: dict[int, float]) -> dict[str, float]:
    """Return the accuracies with keys as JSON has them."""
    return {str(seed): accuracy for seed, accuracy in accuracies.items()}
