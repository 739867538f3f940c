"""How good are frozen features? A linear fit to a few images per class, as the paper's
"linear 5-shot", and k-NN.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F

from ..data.dataset import Dataset
from ..data.image_set import ImageSet
from ..errors import UserError
from ..images.preprocess import Preprocess
from ..models import IsotropicMlp
from ..weights import Checkpoint
from .accuracy import outputs
from .splits import EvalSplit, support_and_eval_split

# big_vision's
SHOTS = (1, 5, 10, 25)
SEEDS = (0, 1, 2)
L2 = 2.0**10
_BIAS = 100.0  # a constant feature, so large that the ridge hardly touches its weight
_MOST = 2**25  # numbers in an intermediate


@dataclass(frozen=True)
class FewShot:
    """The judges, and their accuracies: for each number of shots one per seed.
    `neighbours`: of k-NN, if asked for.
    """

    eval_split: EvalSplit
    classes: int
    accuracies: dict[int, dict[int, float]]
    neighbours: float | None = None


def support(
    labels: np.ndarray, shots: int, seed: int, names: Sequence[Any]
) -> np.ndarray:
    """(K * shots,) indices of the images to learn from: the first `shots` of a
    permutation of each class's images.

    One generator permutes the classes in turn, so that fewer shots are a part of more.
    `names` are those of the K classes; `UserError` names one that has not enough
    images.
    """
    rng = np.random.default_rng(seed)
    ends = np.bincount(labels, minlength=len(names)).cumsum()
    chosen = []
    for name, members in zip(
        names, np.split(np.argsort(labels, kind="stable"), ends[:-1]), strict=True
    ):
        if not 1 <= shots <= len(members):
            raise UserError(
                f"{shots} shots need as many images of each class to learn from, {name!r} has {len(members)}"
            )
        chosen.append(rng.permutation(members)[:shots])
    return np.concatenate(chosen)


def fewshot_accuracy(
    x_train: Any,
    y_train: Any,
    x_test: Any,
    y_test: Any,
    *,
    shots: int,
    seed: int,
    l2: float = L2,
) -> float:
    """Top-1 accuracy of ridge regression from features to classes, fitted to `shots`
    images per class.

    The protocol of big_vision's `evaluators/fewshot_lsr.py`, in float64: features
    whitened by the support, a constant one, targets of -1 and 1, the penalty `l2` on
    every weight.

    Args:
        x_train, x_test: features (n, D) and (m, D), arrays or tensors.
        y_train, y_test: their classes (n,) and (m,), counted from 0.
        shots, seed: see `support`.

    Raises:
        UserError: the shapes do not fit, a class has not enough images, features are
            not finite, or l2 is not above 0.
    """
    x, y, x_test, y_test = _checked(x_train, y_train, x_test, y_test)
    if not (l2 > 0 and np.isfinite(l2)):
        raise UserError(f"l2 is {l2}: expected a number above 0, such as {L2:g}")
    classes = int(max(y.max(), y_test.max())) + 1
    chosen = support(y, shots, seed, range(classes))
    x = x[chosen].astype(np.float64)
    y = y[chosen]
    _check_finite(x, x_test)
    mean = x.mean(axis=0)
    std = x.std(axis=0) + 1e-5
    targets = np.full((len(y), classes), -1.0)
    targets[np.arange(len(y)), y] = 1
    weights = _ridge(_whitened(x, mean, std), targets, l2)
    step = max(1, _MOST // max(x.shape[1], classes))
    hits = 0
    for start in range(0, len(y_test), step):
        scores = _whitened(x_test[start : start + step], mean, std) @ weights
        hits += int((scores.argmax(axis=1) == y_test[start : start + step]).sum())
    return hits / len(y_test)


def _whitened(x: np.ndarray, mean: np.ndarray, std: np.ndarray) -> np.ndarray:
    return np.pad(
        (x.astype(np.float64) - mean) / std, ((0, 0), (0, 1)), constant_values=_BIAS
    )


def _ridge(x: np.ndarray, targets: np.ndarray, l2: float) -> np.ndarray:
    """(D, K) argmin of |x w - targets|^2 + l2 |w|^2, by the smaller of x^T x and x x^T."""
    if x.shape[0] >= x.shape[1]:
        values, q = np.linalg.eigh(x.T @ x)
        return (q / (values + l2)) @ (q.T @ (x.T @ targets))
    values, q = np.linalg.eigh(x @ x.T)
    return (x.T @ q / (values + l2)) @ (q.T @ targets)


def fewshot_curve(
    x_train: Any,
    y_train: Any,
    x_test: Any,
    y_test: Any,
    *,
    shots: Sequence[int] = SHOTS,
    seeds: Sequence[int] = SEEDS,
    l2: float = L2,
) -> dict[int, dict[int, float]]:
    """`fewshot_accuracy` for each number of shots and each seed; same arguments and
    errors.
    """
    four = (x_train, y_train, x_test, y_test)
    return {
        n: {seed: fewshot_accuracy(*four, shots=n, seed=seed, l2=l2) for seed in seeds}
        for n in shots
    }


def knn_accuracy(
    x_train: Any,
    y_train: Any,
    x_test: Any,
    y_test: Any,
    *,
    k: int = 20,
    temperature: float = 0.07,
) -> float:
    """Top-1 accuracy of the weighted vote of the k nearest training features, by cosine
    c with weight exp(c / T).

    The protocol of DINO (Caron et al., arXiv 2104.14294, `eval_knn.py`), after Wu et
    al. (arXiv 1805.01978). Arguments as of `fewshot_accuracy`. `UserError` if they do
    not fit, or there are fewer than k training features.
    """
    x, y, x_test, y_test = _checked(x_train, y_train, x_test, y_test)
    if not 1 <= k <= len(x):
        raise UserError(
            f"k is {k}: expected 1 to {len(x)}, the number of training features"
        )
    if not temperature > 0:
        raise UserError(
            f"temperature is {temperature}: expected a number above 0, such as 0.07"
        )
    _check_finite(x, x_test)
    x_ND = _unit(x)
    y_N = torch.from_numpy(y)
    hits = 0
    for start in range(0, len(x_test), step := max(1, _MOST // len(x))):
        cosines, nearest = (_unit(x_test[start : start + step]) @ x_ND.T).topk(k)
        weights = (
            (cosines - cosines[:, :1]).double() / temperature
        ).exp()  # relative to the nearest: no overflow
        votes = torch.zeros(
            len(weights), int(y.max()) + 1, dtype=torch.float64
        ).scatter_add_(1, y_N[nearest], weights)
        hits += int((votes.argmax(dim=1).numpy() == y_test[start : start + step]).sum())
    return hits / len(x_test)


def _unit(x: np.ndarray) -> torch.Tensor:
    return F.normalize(torch.from_numpy(x.astype(np.float32)))


def evaluate_fewshot(
    checkpoint: Checkpoint,
    spec: str | Dataset,
    *,
    shots: Sequence[int] = SHOTS,
    seeds: Sequence[int] = SEEDS,
    l2: float = L2,
    neighbours: int | None = None,
    resize: Literal["resmall", "resize"] | None = None,
    batch_size: int = 256,
    device: torch.device | None = None,
) -> FewShot:
    """Judge a checkpoint's pooled features, with or without a head, on a source.

    What is learnt from is drawn from the source's train split, or from what is left
    beside the images held out (`support_and_eval_split`); only the images that some
    seed draws are computed, all of them for k-NN.
    neighbours: k of k-NN, None for none. resize: as in `Preprocess`, the checkpoint's
        own by default.
    Raises `UserError` if the source cannot be read or has too few images of a class, or
    other channels than the model.
    """
    train, chosen = support_and_eval_split(spec, checkpoint.provenance)
    drawn = [support(train.labels, max(shots), seed, train.classes) for seed in seeds]
    used = (
        np.arange(len(train))
        if neighbours is not None
        else np.unique(np.concatenate(drawn))
    )
    model = checkpoint.model if device is None else checkpoint.model.to(device)
    preprocess = checkpoint.preprocess
    if resize is not None:
        preprocess = dataclasses.replace(preprocess, resize=resize)
    x_train = np.zeros(
        (len(train), model.num_features), dtype=np.float32
    )  # rows that stay 0 are never drawn
    x_train[used] = pooled_features(model, train.subset(used), preprocess, batch_size)
    four = (
        x_train,
        train.labels,
        pooled_features(model, chosen.images, preprocess, batch_size),
        chosen.images.labels,
    )
    curve = fewshot_curve(*four, shots=shots, seeds=seeds, l2=l2)
    vote = None if neighbours is None else knn_accuracy(*four, k=neighbours)
    return FewShot(chosen, len(train.classes), curve, vote)


def pooled_features(
    model: IsotropicMlp, images: ImageSet, preprocess: Preprocess, batch_size: int = 256
) -> np.ndarray:
    """(n, C) float32: what the head reads, of each image in order."""

    def pooled(x: torch.Tensor) -> torch.Tensor:
        return model.forward_head(model.forward_features(x), pre_logits=True)

    return outputs(model, pooled, images, preprocess, batch_size=batch_size).numpy()


def _checked(*four: Any) -> tuple[np.ndarray, ...]:
    """Features, labels, features, labels as arrays; `UserError` if they do not fit."""
    x_train, y_train, x_test, y_test = map(_array, four)
    for x, y in ((x_train, y_train), (x_test, y_test)):
        if (
            x.ndim != 2
            or x.shape[1] != x_train.shape[1]
            or y.shape != x.shape[:1]
            or len(y) == 0
        ):
            raise UserError(
                f"the features are {x.shape} and their labels {y.shape}: expected (n, D) and (n,), n > 0"
            )
        if y.dtype.kind not in "iu" or y.min() < 0:
            raise UserError(
                f"labels are {y.dtype} from {y.min()}: expected integers from 0"
            )
    return x_train, y_train.astype(np.int64), x_test, y_test.astype(np.int64)


def _check_finite(*features: np.ndarray) -> None:
    if not all(np.isfinite(x).all() for x in features):
        raise UserError("the features hold values that are not finite numbers")


def _array(values: Any) -> np.ndarray:
    if isinstance(values, torch.Tensor):
        values = (
            (values.float() if values.dtype == torch.bfloat16 else values)
            .detach()
            .cpu()
        )
    return np.asarray(values)
