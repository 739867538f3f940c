"""Logistic regression on features, whose penalty folds of the images choose."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Inverse strengths of the penalty (scikit-learn's C, on standardised features)."""

FOLDS = 5

UNCHOSEN = 0.1
"""The strength where there are too few images to choose one."""

# Images, beyond which one fold says enough and five would take minutes.
_MOST_FOR_ALL_FOLDS = 10_000
_MOST_STEPS = 500
_ROWS = 4096
# Products N D K from which on several threads pay. Below it they wait for each other,
# on a busy machine a thousand times longer than they compute.
_FEWEST_PRODUCTS_FOR_THREADS = 10**8


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
    from threadpoolctl import threadpool_limits

    products = x.size * len(np.unique(y))
    threads = None if products >= _FEWEST_PRODUCTS_FOR_THREADS else 1
    with warnings.catch_warnings(), threadpool_limits(threads):
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


@dataclass(frozen=True, eq=False)
class LinearHead:
    """Holds a linear head for features as the network gives them.

    Attributes:
        rows: One for each class that has images.
        strength: That of the penalty, which was chosen or had to be taken.
        folds: What the folds say of the head; None where there are too few images.
    """

    rows: Logistic
    strength: float
    folds: CrossValidation | None

    def answers(self, x: NDArray[np.floating]) -> NDArray[np.int64]:
        """Return the class (n,) of each row of features.

        Args:
            x: Features (n, D), not standardised.
        """
        found = []
        # In slices, because the product of all rows is in float64.
        for start in range(0, len(x), _ROWS):
            logits = x[start : start + _ROWS] @ self.rows.weight.T + self.rows.bias
            found.append(self.rows.classes[logits.argmax(axis=1)])
        return np.concatenate(found)


def fit_linear_head(
    x: NDArray[np.floating],
    y: NDArray[np.int64],
    groups: NDArray[Any],
    classes: int,
    *,
    seed: int = 0,
) -> LinearHead:
    """Fit the head whose penalty does best in `cross_validate`, to all images.

    Args:
        x: Features (N, D); they are standardised here.
        y: As for `cross_validate`, like the rest; of two classes at least.
        groups: Which rows stay in one fold.
        classes: K.
        seed: Of the folds.

    Returns:
        The head, into which the standardising has gone.
    """
    mean = x.mean(axis=0, dtype=np.float64)
    std = x.std(axis=0, dtype=np.float64) + 1e-6
    standard = (x - mean) / std
    folds = cross_validate(standard, y, groups, classes, seed=seed)
    strength = UNCHOSEN if folds is None else folds.strength
    fitted = fit_logistic(standard, y, strength=strength, most_steps=_MOST_STEPS)
    rows = Logistic(
        fitted.classes,
        fitted.weight / std,
        fitted.bias - fitted.weight @ (mean / std),
    )
    return LinearHead(rows, strength, folds)
