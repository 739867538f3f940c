"""How good are frozen features? A linear fit to a few images per class, and k-NN.

The linear fit is the paper's "linear 5-shot".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F

from ..data.dataset import Dataset
from ..errors import UserError
from ..randomness import generator
from ..weights import Checkpoint
from .accuracy import Progress
from .features import split_features
from .splits import EvalSplit, support_and_eval_split

# big_vision's.
SHOTS = (1, 5, 10, 25)
SEEDS = (0, 1, 2)
L2 = 2.0**10

# A constant feature, so large that the ridge hardly touches its weight.
_BIAS = 100.0

_MOST = 2**25  # numbers in an intermediate


@dataclass(frozen=True)
class FewShot:
    """Hold what a checkpoint's features are worth.

    Attributes:
        eval_split: The images that were evaluated on.
        classes: How many classes they have.
        accuracies: Of the linear fit, for each number of shots one per seed.
        neighbours: The accuracy of k-NN, if it was asked for.
    """

    eval_split: EvalSplit
    classes: int
    accuracies: dict[int, dict[int, float]]
    neighbours: float | None = None


def support(
    labels: np.ndarray, shots: int, seed: int, names: Sequence[Any]
) -> np.ndarray:
    """Return the places of the images to learn from, the same number for each class.

    They are the first of a permutation of each class's images. One generator permutes
    the classes in turn, so that fewer shots are a part of more.

    Args:
        labels: (n,) classes of all images.
        shots: Images for each class.
        seed: Of the generator.
        names: Of the K classes, for errors.

    Returns:
        (K * shots,) int64.

    Raises:
        UserError: A class has not enough images.
    """
    rng = generator(seed)
    # Sorted by class, so that the places of a class lie together.
    ends = np.bincount(labels, minlength=len(names)).cumsum()
    by_class = np.split(np.argsort(labels, kind="stable"), ends[:-1])
    chosen = []
    for name, members in zip(names, by_class, strict=True):
        if not 1 <= shots <= len(members):
            raise UserError(
                f"{shots} shots need as many images of each class to learn from, "
                f"{name!r} has {len(members)}"
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
    """Return the top-1 accuracy of ridge regression from features to classes.

    The protocol of big_vision's `evaluators/fewshot_lsr.py`, in float64: features
    whitened by the support, a constant one, targets of -1 and 1, the penalty `l2` on
    every weight.

    Args:
        x_train: Features (n, D) to learn from, array or tensor.
        y_train: Their classes (n,), counted from 0.
        x_test: Features (m, D) to evaluate on.
        y_test: Their classes (m,).
        shots: Images of each class that it is fitted to.
        seed: Chooses them, see `support`.
        l2: The penalty.

    Raises:
        UserError: The shapes do not fit, a class has not enough images, features are
            not finite, or l2 is not above 0.
    """
    x, y, x_test, y_test = _checked(x_train, y_train, x_test, y_test)
    _check_l2(l2)
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
    # In slices: all test features in float64 could be larger than the memory.
    step = max(1, _MOST // max(x.shape[1], classes))
    hits = 0
    for start in range(0, len(y_test), step):
        part = slice(start, start + step)
        scores = _whitened(x_test[part], mean, std) @ weights
        hits += int((scores.argmax(axis=1) == y_test[part]).sum())
    return hits / len(y_test)


def _whitened(x: np.ndarray, mean: np.ndarray, std: np.ndarray) -> np.ndarray:
    """Return features of mean 0 and deviation 1 on the support, and a constant one."""
    x = (x.astype(np.float64) - mean) / std
    return np.pad(x, ((0, 0), (0, 1)), constant_values=_BIAS)


def _ridge(x: np.ndarray, targets: np.ndarray, l2: float) -> np.ndarray:
    """Return (D, K), the argmin of |x w - targets|^2 + l2 |w|^2."""
    # Both forms are the same in exact numbers; the smaller matrix is decomposed.
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
    """Return `fewshot_accuracy` for each number of shots and each seed.

    Args:
        x_train: As for `fewshot_accuracy`, like the rest.
        y_train: Their classes.
        x_test: Features to evaluate on.
        y_test: Their classes.
        shots: Numbers of images of each class.
        seeds: Choices of these images.
        l2: The penalty.

    Returns:
        The accuracies by shots, then by seed.

    Raises:
        UserError: As for `fewshot_accuracy`.
    """
    curve: dict[int, dict[int, float]] = {}
    for n in shots:
        curve[n] = {}
        for seed in seeds:
            curve[n][seed] = fewshot_accuracy(
                x_train, y_train, x_test, y_test, shots=n, seed=seed, l2=l2
            )
    return curve


def knn_accuracy(
    x_train: Any,
    y_train: Any,
    x_test: Any,
    y_test: Any,
    *,
    k: int = 20,
    temperature: float = 0.07,
) -> float:
    """Return the top-1 accuracy of a weighted vote of the k nearest training features.

    They are nearest by the cosine c, and have the weight exp(c / T). The protocol of
    DINO (Caron et al., arXiv 2104.14294, `eval_knn.py`), after Wu et al. (arXiv
    1805.01978).

    Args:
        x_train: As for `fewshot_accuracy`, like the rest.
        y_train: Their classes.
        x_test: Features to evaluate on.
        y_test: Their classes.
        k: How many neighbours vote.
        temperature: T.

    Raises:
        UserError: The features do not fit, or there are fewer than k to learn from.
    """
    x, y, x_test, y_test = _checked(x_train, y_train, x_test, y_test)
    _check_neighbours(k, len(x))
    if not temperature > 0:
        raise UserError(
            f"temperature is {temperature}: expected a number above 0, such as 0.07"
        )
    _check_finite(x, x_test)
    x_ND = _unit(x)
    y_N = torch.from_numpy(y)
    classes = int(y.max()) + 1
    step = max(1, _MOST // len(x))
    hits = 0
    for start in range(0, len(x_test), step):
        part = slice(start, start + step)
        cosines, nearest = (_unit(x_test[part]) @ x_ND.T).topk(k)
        # Relative to the nearest, which changes no winner: exp cannot overflow then.
        weights = ((cosines - cosines[:, :1]).double() / temperature).exp()
        votes = torch.zeros(len(weights), classes, dtype=torch.float64)
        votes.scatter_add_(1, y_N[nearest], weights)
        hits += int((votes.argmax(dim=1).numpy() == y_test[part]).sum())
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
    device: torch.device | str | None = "auto",
    progress: Progress | None = None,
) -> FewShot:
    """Evaluate a checkpoint's pooled features, with or without a head, on a dataset.

    The images to learn from are drawn from the dataset's train split, or from what is
    left beside the images held out (`support_and_eval_split`). Only images that some
    seed draws are computed, all of them for k-NN.

    Args:
        checkpoint: The network, its preprocessing and provenance.
        spec: The dataset, or what `open_dataset` takes.
        shots: Numbers of images of each class.
        seeds: Choices of these images.
        l2: The penalty of the linear fit.
        neighbours: k of k-NN; None leaves k-NN out.
        resize: As in `Preprocess`, the checkpoint's own by default.
        batch_size: Images in a forward pass.
        device: Where to compute, a name for `pick_device` or torch's. None: where the
            model is.
        progress: Is told how many images are done.

    Returns:
        The accuracy for each number of images and each seed, and that of k-NN.

    Raises:
        UserError: The dataset cannot be read, has too few images of a class, or other
            channels than the model.
    """
    train, chosen = support_and_eval_split(spec, checkpoint.provenance)
    train.need_one_label("few-shot evaluation")
    # Before the features are computed, which may take hours.
    _check_l2(l2)
    if neighbours is not None:
        _check_neighbours(neighbours, len(train))
    drawn = [support(train.labels, max(shots), seed, train.classes) for seed in seeds]
    used = np.unique(np.concatenate(drawn))
    if neighbours is not None:
        used = np.arange(len(train))
    x_train, x_test = split_features(
        checkpoint,
        train,
        chosen.images,
        used=used,
        resize=resize,
        batch_size=batch_size,
        device=device,
        progress=progress,
    )
    four = (x_train, train.labels, x_test, chosen.images.labels)
    curve = fewshot_curve(*four, shots=shots, seeds=seeds, l2=l2)
    vote = None if neighbours is None else knn_accuracy(*four, k=neighbours)
    return FewShot(chosen, len(train.classes), curve, vote)


def _checked(*four: Any) -> tuple[np.ndarray, ...]:
    """Return features, labels, features, labels as arrays that fit each other."""
    x_train, y_train, x_test, y_test = map(_array, four)
    for x, y in ((x_train, y_train), (x_test, y_test)):
        fits = x.ndim == 2 and x.shape[1] == x_train.shape[1]
        if not fits or y.shape != x.shape[:1] or len(y) == 0:
            raise UserError(
                f"the features are {x.shape} and their labels {y.shape}: expected (n, D) "
                "and (n,), n > 0"
            )
        if y.dtype.kind not in "iu" or y.min() < 0:
            raise UserError(
                f"labels are {y.dtype} from {y.min()}: expected integers from 0"
            )
    return x_train, y_train.astype(np.int64), x_test, y_test.astype(np.int64)


def _check_l2(l2: float) -> None:
    if not (l2 > 0 and np.isfinite(l2)):
        raise UserError(f"l2 is {l2}: expected a number above 0, such as {L2:g}")


def _check_neighbours(k: int, features: int) -> None:
    if not 1 <= k <= features:
        raise UserError(
            f"k is {k}: expected 1 to {features}, the number of training features"
        )


def _check_finite(*features: np.ndarray) -> None:
    if not all(np.isfinite(x).all() for x in features):
        raise UserError("the features hold values that are not finite numbers")


def _array(values: Any) -> np.ndarray:
    if isinstance(values, torch.Tensor):
        # NumPy has no bfloat16.
        if values.dtype == torch.bfloat16:
            values = values.float()
        values = values.detach().cpu()
    return np.asarray(values)
