"""A linear probe: logistic regression on frozen features, in seconds instead of hours."""

from __future__ import annotations

import dataclasses
import functools
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ...data.dataset import Dataset
from ...data.image_set import ImageSet
from ...errors import UserError
from ...evaluation.abstain import choose_min_score
from ...evaluation.accuracy import Progress
from ...evaluation.fewshot import pooled_features
from ...files import locked_folder, make_folder
from ...weights.scores import MinScore
from ..artifacts import (
    holds_run,
    write_checkpoints,
    write_settings,
    write_split,
)
from ..config import TrainConfig
from ..journal import Journal, JournalRow, Report, ignore_row
from ..run import Run, prepare

STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Inverse strengths of the penalty (scikit-learn's C, on standardised features)."""

FOLDS = 5

UNCHOSEN = 0.1
"""The strength where there are too few images to choose one."""

# Images, beyond which one fold says enough and five would take minutes.
_MOST_FOR_ALL_FOLDS = 10_000
_MOST_STEPS = 500

# The logit bias of a class without an image to learn from: it is never the answer.
_NEVER = -1e4


@dataclass(frozen=True, eq=False)
class Logistic:
    """Holds the rows of a linear head, one for each class that has images.

    Attributes:
        classes: int64 (K,), the classes in rising order.
        weight: float64 (K, D).
        bias: float64 (K,).
    """

    classes: NDArray[np.int64]
    weight: NDArray[np.float64]
    bias: NDArray[np.float64]


def fit_logistic(
    x: NDArray[np.floating], y: NDArray[np.int64], *, strength: float, most_steps: int
) -> Logistic:
    """Fit logistic regression with a penalty on the weights, by scikit-learn.

    Args:
        x: Features (N, D).
        y: Their classes (N,), at least two.
        strength: C, the inverse strength of the penalty.
        most_steps: Iterations after which it ends, converged or not.

    Returns:
        A row for each class.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings():
        # The last iterations hardly move an answer.
        warnings.simplefilter("ignore", ConvergenceWarning)
        fitted = LogisticRegression(C=strength, max_iter=most_steps).fit(x, y)
    weight = fitted.coef_
    bias = fitted.intercept_
    # Two classes have a single row, the difference of their logits: half of it each.
    if len(weight) == 1:
        weight = np.concatenate([-weight, weight]) / 2
        bias = np.concatenate([-bias, bias]) / 2
    return Logistic(fitted.classes_, weight, bias)


@dataclass(frozen=True, eq=False)
class CrossValidation:
    """Hold what folds of the images say about a head that is fitted to all of them.

    Attributes:
        strength: The strength of the penalty that did best.
        probabilities: (n, K) of each image that was evaluated, by a head that was fitted
            without it.
        labels: (n,) the classes of these images.
        fold_top1: The accuracy of each fold.
        losses: The mean cross-entropy by strength.
    """

    strength: float
    probabilities: NDArray[np.float64]
    labels: NDArray[np.int64]
    fold_top1: tuple[float, ...]
    losses: dict[float, float]

    @property
    def top1(self) -> float:
        """The share of right answers."""
        return float((self.probabilities.argmax(axis=1) == self.labels).mean())

    @property
    def loss(self) -> float:
        """The mean cross-entropy in nats."""
        return self.losses[self.strength]


def cross_validate(
    x: NDArray[np.floating],
    y: NDArray[np.int64],
    groups: NDArray[Any],
    classes: int,
    *,
    seed: int = 0,
) -> CrossValidation | None:
    """Choose the penalty of a logistic regression, and say how good it will be.

    The images are divided into folds, each class alike. Each fold is evaluated by a head
    that was fitted to the others, and the strength with the least loss over all folds
    wins. (By the number of right answers, small folders would choose by chance.)

    Args:
        x: Features (N, D), standardised.
        y: Their classes (N,).
        groups: (N,); equal values stay in one fold, as copies of a picture must.
        classes: K.
        seed: Of the folds.

    Returns:
        What was found; None where no class has two different images.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    folds = min(FOLDS, _second_largest_class(y, groups))
    if folds < 2:
        return None
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        # A class with fewer images than folds is missing in some, which does no harm.
        warnings.simplefilter("ignore", UserWarning)
        pairs = list(splitter.split(x, y, groups))
    if len(y) > _MOST_FOR_ALL_FOLDS:
        pairs = pairs[:1]
    pairs = [(rest, fold) for rest, fold in pairs if len(np.unique(y[rest])) > 1]
    evaluated = np.concatenate([fold for _, fold in pairs])
    found: dict[float, NDArray[np.float64]] = {}
    losses: dict[float, float] = {}
    for strength in STRENGTHS:
        parts = [
            _probabilities(x[rest], y[rest], x[fold], strength, classes)
            for rest, fold in pairs
        ]
        found[strength] = np.concatenate(parts)
        of_the_class = found[strength][np.arange(len(evaluated)), y[evaluated]]
        losses[strength] = float(-np.log(np.maximum(of_the_class, 1e-12)).mean())
    best = min(losses, key=losses.__getitem__)
    hits = found[best].argmax(axis=1) == y[evaluated]
    ends = np.cumsum([len(fold) for _, fold in pairs])[:-1]
    by_fold = tuple(float(part.mean()) for part in np.split(hits, ends))
    return CrossValidation(best, found[best], y[evaluated], by_fold, losses)


def _second_largest_class(y: NDArray[np.int64], groups: NDArray[Any]) -> int:
    """Return how many different images the second largest class has."""
    counts = [len(np.unique(groups[y == label])) for label in np.unique(y)]
    return sorted(counts)[-2] if len(counts) > 1 else 0


def _probabilities(
    x: NDArray[np.floating],
    y: NDArray[np.int64],
    x_fold: NDArray[np.floating],
    strength: float,
    classes: int,
) -> NDArray[np.float64]:
    """Return (n, K): what a head fitted to x and y makes of a fold."""
    head = fit_logistic(x, y, strength=strength, most_steps=_MOST_STEPS)
    logits = np.full((len(x_fold), classes), -np.inf)
    logits[:, head.classes] = x_fold @ head.weight.T + head.bias
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


def fit_head(
    config: TrainConfig,
    out: Path,
    *,
    source: Dataset | None = None,
    overwrite: bool = False,
    report: Report = ignore_row,
    progress: Progress | None = None,
) -> JournalRow:
    """Train only the head of `config.model.init`, on features that are computed once.

    The head learns from all images that are no test images; folds of them choose the
    penalty and say how good the head is. Augmentation, optimiser and schedule of the
    configuration play no part.

    Args:
        config: The configuration; `model.init` names the weights.
        out: The folder; it gets what `train` leaves there, but for a state.
        source: The images, instead of those that `config.data.source` names.
        overwrite: Replace a run that the folder holds.
        report: Is called with the notes.
        progress: Is told of how many images the features are computed.

    Returns:
        The evaluation row, which five folds have measured.

    Raises:
        UserError: As for `train`, or there are no weights to take features from.
    """
    if config.model.init is None:
        raise UserError(
            "frozen features need weights to come from: set model.init, or train from "
            "scratch"
        )
    if config.distill.teacher is not None:
        raise UserError(
            "a new head on frozen features is fitted to the labels: leave out "
            "distill.teacher"
        )
    balanced = config.data.sampling == "balanced"
    if balanced or config.train.class_weights == "auto":
        raise UserError(
            "a new head on frozen features is fitted to the images as they are: leave "
            "out train.class_weights and data.sampling, or train all weights"
        )
    if holds_run(out) and not overwrite:
        raise UserError(
            f"{str(out)!r} already holds a run; add --overwrite, or choose another --out"
        )
    # Every image is seen once, whatever the recipe's length: the checkpoint says so. None
    # is put aside to choose: the folds take turns at that.
    once = dataclasses.replace(config.train, epochs=1.0, steps=None)
    data = dataclasses.replace(config.data, val_fraction=0.0)
    run = prepare(dataclasses.replace(config, train=once, data=data), source)
    run.train.need_one_label("a linear probe (frozen)")
    with locked_folder(make_folder(out)):
        row, note, min_score = fit_best_head(run, report, progress)
        run = dataclasses.replace(run, notes=(*run.notes, note))
        journal = Journal(out, from_step=0)
        for text in run.notes:
            journal.append({"kind": "note", "text": text, "step": 0})
            report({"kind": "note", "text": text})
        journal.append(row)
        write_split(run, out)
        write_checkpoints(run, run.model, out, ["last", "best"], row, min_score)
        # Last, because its presence says that the folder holds a run.
        write_settings(run, out)
    return row


def with_fitted_head(run: Run) -> Run:
    """Give the run's model the best head for the features of its training images.

    The validation images take no part: they are to evaluate what comes.

    Args:
        run: The run; its model's head is replaced.

    Returns:
        The run with a note.
    """
    # Logistic regression chooses one class, which several labels are not.
    if run.train.targets is not None:
        return run
    strength, _ = _fit_best(run, [run.train])
    note = (
        "before the first step the head was fitted to frozen features, by logistic "
        f"regression with C = {strength:g}"
    )
    return dataclasses.replace(run, notes=(*run.notes, note))


def fit_best_head(
    run: Run, report: Report, progress: Progress | None = None
) -> tuple[JournalRow, str, MinScore | None]:
    """Give the run's model the best head for all images that may be learnt from.

    Args:
        run: The run; its model's head is replaced.
        report: Is called with notes.
        progress: Is told of how many images the features are computed.

    Returns:
        The evaluation row, which the folds have measured, a note, and the lowest score
        of an answer, if the folds can choose one.
    """
    images = [run.train] if run.val is None else [run.train, run.val]
    count = sum(map(len, images))
    report({"kind": "note", "text": f"computing the features of {count:,} images"})
    strength, chosen = _fit_best(run, images, progress)
    row: JournalRow = {"kind": "eval", "step": 0, "epoch": 1.0}
    min_score = None
    if chosen is not None:
        right = chosen.probabilities.argmax(axis=1) == chosen.labels
        min_score = choose_min_score(chosen.probabilities.max(axis=1), right)
        row |= {
            "split": f"{len(chosen.fold_top1)}-fold cross-validation",
            "top1": chosen.top1,
            "top5": _top5(chosen),
            "loss": chosen.loss,
            "n": len(chosen.labels),
            "fold_top1": list(chosen.fold_top1),
        }
    note = (
        "only the head was learnt, by logistic regression on frozen features of "
        f"{count:,} images with C = {strength:g}"
    )
    return row, note, min_score


def _fit_best(
    run: Run, images: Sequence[ImageSet], progress: Progress | None = None
) -> tuple[float, CrossValidation | None]:
    """Fit the head to the images; return the strength and what the folds have said."""
    parts = [
        pooled_features(run.model, part, run.preprocess, progress=told)
        for part, told in zip(images, _in_turn(images, progress), strict=True)
    ]
    x = np.concatenate(parts)
    y = np.concatenate([part.labels for part in images])
    groups = np.concatenate([part.keys() for part in images])
    mean = x.mean(axis=0, dtype=np.float64)
    std = x.std(axis=0, dtype=np.float64) + 1e-6
    standard = (x - mean) / std
    chosen = cross_validate(standard, y, groups, len(run.train.classes))
    strength = UNCHOSEN if chosen is None else chosen.strength
    fitted = fit_logistic(standard, y, strength=strength, most_steps=_MOST_STEPS)
    _set_head(run, fitted, mean, std)
    return strength, chosen


def _in_turn(
    images: Sequence[ImageSet], progress: Progress | None
) -> Iterator[Progress]:
    """Yield for each set what counts it on from where the one before ended."""
    told = progress or (lambda done, total: None)
    total = sum(map(len, images))
    before = 0
    for part in images:
        yield functools.partial(_count_on, told, before, total)
        before += len(part)


def _count_on(
    told: Progress, before: int, total: int, done: int, total_of_part: int
) -> None:
    told(before + done, total)


def _top5(chosen: CrossValidation) -> float:
    best = np.argsort(-chosen.probabilities, axis=1, kind="stable")[:, :5]
    return float((best == chosen.labels[:, None]).any(axis=1).mean())


def _set_head(
    run: Run, fitted: Logistic, mean: NDArray[np.float64], std: NDArray[np.float64]
) -> None:
    """Give the run's model the fitted rows; other classes are never answered."""
    # The network gives features as they are, so the standardising goes into the head.
    weight = fitted.weight / std
    bias = fitted.bias - fitted.weight @ (mean / std)

    head = run.model.head
    assert isinstance(head, nn.Linear)
    rows = torch.from_numpy(fitted.classes)
    with torch.no_grad():
        head.weight.zero_()
        head.bias.fill_(_NEVER)
        head.weight[rows] = torch.from_numpy(weight).to(head.weight)
        head.bias[rows] = torch.from_numpy(bias).to(head.bias)
