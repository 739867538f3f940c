"""A linear probe: logistic regression on frozen features, in seconds instead of hours."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ...data.dataset import Dataset
from ...data.image_set import ImageSet
from ...errors import UserError
from ...evaluation.abstain import choose_min_score
from ...evaluation.accuracy import Progress
from ...evaluation.features import pooled_features
from ...evaluation.logistic import (
    CrossValidation,
    LinearHead,
    Logistic,
    fit_linear_head,
)
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

# The logit bias of a class without an image to learn from: it is never the answer.
_NEVER = -1e4


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
    # is put aside to choose: the folds take turns at that. Features are fp32 everywhere.
    once = dataclasses.replace(
        config.train, epochs=1.0, steps=None, images=None, precision="fp32"
    )
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
    head = _fit_best(run, [run.train])
    note = (
        "before the first step the head was fitted to frozen features, by logistic "
        f"regression with C = {head.strength:g}"
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
    head = _fit_best(run, images, progress)
    chosen = head.folds
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
        f"{count:,} images with C = {head.strength:g}"
    )
    return row, note, min_score


def _fit_best(
    run: Run, images: Sequence[ImageSet], progress: Progress | None = None
) -> LinearHead:
    """Give the run's model the best head for some images, and return it."""
    parts = [
        pooled_features(run.model, part, run.preprocess, progress=told)
        for part, told in zip(images, _in_turn(images, progress), strict=True)
    ]
    x = np.concatenate(parts)
    # The fit would end in an error of another program.
    if not np.isfinite(x).all():
        raise UserError(
            "the features of these weights hold values that are not finite numbers, so "
            "no head can be fitted to them; look at the weights"
        )
    y = np.concatenate([part.labels for part in images])
    groups = np.concatenate([part.keys() for part in images])
    head = fit_linear_head(x, y, groups, len(run.train.classes))
    _set_head(run, head.rows)
    return head


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


def _count_on(told: Progress, before: int, total: int, done: int, _: int) -> None:
    told(before + done, total)


def _top5(chosen: CrossValidation) -> float:
    best = np.argsort(-chosen.probabilities, axis=1, kind="stable")[:, :5]
    return float((best == chosen.labels[:, None]).any(axis=1).mean())


def _set_head(run: Run, fitted: Logistic) -> None:
    """Give the run's model the fitted rows; other classes are never answered."""
    head = run.model.head
    assert isinstance(head, nn.Linear)
    rows = torch.from_numpy(fitted.classes)
    with torch.no_grad():
        head.weight.zero_()
        head.bias.fill_(_NEVER)
        head.weight[rows] = torch.from_numpy(fitted.weight).to(head.weight)
        head.bias[rows] = torch.from_numpy(fitted.bias).to(head.bias)
