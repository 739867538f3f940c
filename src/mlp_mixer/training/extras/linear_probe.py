"""A linear probe: logistic regression on frozen features, in seconds instead of hours."""

from __future__ import annotations

import dataclasses
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ...data.dataset import Dataset
from ...errors import UserError
from ...evaluation.fewshot import pooled_features
from ...files import locked_folder, make_folder
from ...weights.scores import MinScore
from ..artifacts import (
    holds_run,
    measure,
    write_checkpoints,
    write_settings,
    write_split,
)
from ..config import TrainConfig
from ..journal import Journal, JournalRow, Report, ignore_row
from ..run import Run, prepare

STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Inverse strengths of the penalty (scikit-learn's C, on standardised features).

The validation images choose; without validation images it is `UNCHOSEN`.
"""

UNCHOSEN = 0.1

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
    from sklearn.linear_model import LogisticRegression

    fitted = LogisticRegression(C=strength, max_iter=most_steps).fit(x, y)
    weight = fitted.coef_
    bias = fitted.intercept_
    # Two classes have a single row, the difference of their logits: half of it each.
    if len(weight) == 1:
        weight = np.concatenate([-weight, weight]) / 2
        bias = np.concatenate([-bias, bias]) / 2
    return Logistic(fitted.classes_, weight, bias)


def fit_head(
    config: TrainConfig,
    out: Path,
    *,
    source: Dataset | None = None,
    overwrite: bool = False,
    report: Report = ignore_row,
) -> JournalRow:
    """Train only the head of `config.model.init`, on features that are computed once.

    The penalty is the one that does best on the validation split. Augmentation,
    optimiser and schedule of the configuration play no part.

    Args:
        config: The configuration; `model.init` names the weights.
        out: The folder; it gets what `train` leaves there, but for a state.
        source: The images, instead of those that `config.data.source` names.
        overwrite: Replace a run that the folder holds.
        report: Is called with the notes.

    Returns:
        The evaluation row.

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
    if holds_run(out) and not overwrite:
        raise UserError(
            f"{str(out)!r} already holds a run; add --overwrite, or choose another --out"
        )
    # Every image is seen once, whatever the recipe's length: the checkpoint says so.
    once = dataclasses.replace(config.train, epochs=1.0, steps=None)
    run = prepare(dataclasses.replace(config, train=once), source)
    if len(np.unique(run.train.labels)) < 2:
        raise UserError(
            f"{run.source.spec}: the images to learn from are of one class; a classifier "
            "needs two"
        )
    with locked_folder(make_folder(out)):
        best, note, min_score = _best_head(run, report)
        run = dataclasses.replace(run, notes=(*run.notes, note))
        journal = Journal(out, from_step=0)
        for text in run.notes:
            journal.append({"kind": "note", "text": text, "step": 0})
            report({"kind": "note", "text": text})
        journal.append(best)
        write_split(run, out)
        write_checkpoints(run, run.model, out, ["last", "best"], best, min_score)
        # Last, because its presence says that the folder holds a run.
        write_settings(run, out)
    return best


def _best_head(run: Run, report: Report) -> tuple[JournalRow, str, MinScore | None]:
    """Give the run's model the best head.

    Return its evaluation row, a note, and the lowest score of an answer.
    """
    x = pooled_features(run.model, run.train, run.preprocess)
    best: JournalRow = {}
    min_score: MinScore | None = None
    chosen = 0.0
    kept: dict[str, torch.Tensor] = {}
    for strength in STRENGTHS if run.val else (UNCHOSEN,):
        _fit(run, x, strength)
        row = {"kind": "eval", "split": "val", "step": 0, "epoch": 1.0}
        measured, chosen_score = measure(run, run.model)
        row |= measured
        report({"kind": "note", "text": f"C = {strength:g}: {_words(row)}"})
        # Of equals the earlier one, whose penalty is stronger.
        if not best or row.get("top1", 0.0) > best.get("top1", 0.0):
            best = row
            min_score = chosen_score
            chosen = strength
            state = run.model.head.state_dict()
            kept = {name: tensor.clone() for name, tensor in state.items()}
    run.model.head.load_state_dict(kept)
    note = (
        "only the head was learnt, by logistic regression on frozen features with C = "
        f"{chosen:g}"
    )
    return best, note, min_score


def _fit(run: Run, x: NDArray[np.float32], strength: float) -> None:
    """Fit the head of the run's model to features (N, D) of the training images."""
    from sklearn.exceptions import ConvergenceWarning

    mean = x.mean(axis=0)
    std = x.std(axis=0) + 1e-6
    labels = run.train.labels
    with warnings.catch_warnings():
        # The last iterations hardly move an answer.
        warnings.simplefilter("ignore", ConvergenceWarning)
        fitted = fit_logistic(
            (x - mean) / std, labels, strength=strength, most_steps=500
        )
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


def _words(row: JournalRow) -> str:
    if "top1" not in row:
        return "no validation images"
    return f"validation top-1 {100 * row['top1']:.2f} %"
