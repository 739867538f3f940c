"""A new head on frozen features: one look at each image, then logistic regression.
Seconds instead of hours.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ...config import to_dict
from ...data.dataset import Dataset
from ...errors import UserError
from ...evaluation import evaluate
from ...evaluation.fewshot import pooled_features
from ...files import locked_folder, make_folder, write_json
from ...weights import save
from ..config import TrainConfig
from ..journal import Journal, JournalRow, environment
from ..run import Run, prepare, write_split

STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Inverse strengths of the penalty (scikit-learn's C, on standardised features); the
validation images choose.
"""


def fit_head(
    config: TrainConfig,
    out: Path,
    *,
    source: Dataset | None = None,
    overwrite: bool = False,
    report: Callable[[JournalRow], None] = lambda row: None,
) -> JournalRow:
    """Learn only the head of `config.model.init`, and leave in `out` what `train`
    leaves, but for a state.

    The penalty is the one that does best on the validation split; without one it is C =
    0.1. Augmentation, optimiser and schedule of the configuration play no part. Returns
    the evaluation row; raises `UserError` as `train` does.
    """
    if config.model.init is None:
        raise UserError(
            "frozen features need weights to come from: set model.init, or train from scratch"
        )
    if config.distill.teacher is not None:
        raise UserError(
            "a new head on frozen features is fitted to the labels: leave out distill.teacher"
        )
    if not overwrite and (out / "config.json").exists():
        raise UserError(
            f"{str(out)!r} already holds a run; add --overwrite, or choose another --out"
        )
    config = dataclasses.replace(
        config, train=dataclasses.replace(config.train, epochs=1.0, steps=None)
    )
    run = prepare(config, source)
    if len(np.unique(run.train.labels)) < 2:
        raise UserError(
            f"{run.source.spec}: the images to learn from are of one class; a classifier needs two"
        )
    with locked_folder(make_folder(out)):
        x = pooled_features(run.model, run.train, run.preprocess)
        mean = x.mean(axis=0)
        std = x.std(axis=0) + 1e-6
        journal = Journal(out, from_step=0)
        best = JournalRow()
        chosen = 0.0
        for strength in STRENGTHS if run.val else (0.1,):
            row = _judged(run, (x - mean) / std, mean, std, strength)
            report({"kind": "note", "text": f"C = {strength:g}: " + _words(row)})
            if not best or row.get("top1", 0.0) > best.get("top1", 0.0):
                best = row
                chosen = strength
                kept = {
                    name: tensor.clone()
                    for name, tensor in run.model.head.state_dict().items()
                }
        run.model.head.load_state_dict(kept)
        notes = (
            *run.notes,
            f"only the head was learnt, by logistic regression on frozen features with C = {chosen:g}",
        )
        for text in notes:
            journal.append({"kind": "note", "text": text, "step": 0})
            report({"kind": "note", "text": text})
        journal.append(best)
        settings = {
            "config": to_dict(run.config),
            "environment": environment(run.device),
            "notes": list(notes),
        }
        write_split(run, out / "split.csv")
        provenance = run.provenance() | {
            "measured": {key: value for key, value in best.items() if key != "kind"}
        }
        for name in ("last", "best"):
            path = out / f"{name}.safetensors"
            save(
                path,
                run.model,
                preprocess=run.preprocess,
                labels=run.train.classes,
                provenance=provenance,
            )
        write_json(out / "config.json", settings)
    return best


def _judged(
    run: Run, x: np.ndarray, mean: np.ndarray, std: np.ndarray, strength: float
) -> JournalRow:
    """Fit the head to standardised features, fold the standardising into it, and judge
    it on the validation split.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", ConvergenceWarning
        )  # the last iterations hardly move an answer
        fitted = LogisticRegression(C=strength, max_iter=500).fit(x, run.train.labels)
    weight = fitted.coef_
    bias = fitted.intercept_
    if len(weight) == 1:  # two classes: one row for the second, none for the first
        weight = np.concatenate([-weight, weight]) / 2
        bias = np.concatenate([-bias, bias]) / 2
    head = run.model.head
    assert isinstance(head, nn.Linear)
    with torch.no_grad():
        head.weight.zero_()
        head.bias.fill_(-1e4)  # of classes without an image to learn from
        rows = torch.from_numpy(fitted.classes_)
        head.weight[rows] = torch.from_numpy(weight / std).to(head.weight)
        head.bias[rows] = torch.from_numpy(bias - weight @ (mean / std)).to(head.bias)
    row: JournalRow = {"kind": "eval", "split": "val", "step": 0, "epoch": 1.0}
    if run.val is not None:
        result = evaluate(run.model, run.val, run.preprocess, workers=run.workers)
        row |= {
            "top1": result.top1,
            "top5": result.top5,
            "loss": result.loss,
            "n": result.n,
        }
    return row


def _words(row: JournalRow) -> str:
    return (
        f"validation top-1 {100 * row['top1']:.2f} %"
        if "top1" in row
        else "no validation images"
    )
