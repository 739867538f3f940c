"""Several labels per image: average precision, F1, and the thresholds of a yes.

N images, K classes. A class is evaluated for itself: its images against all others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from ..data.image_set import ImageSet
from ..errors import UserError
from ..images.preprocess import Preprocess
from .accuracy import Progress, Tta, outputs, over_views
from .per_class import ClassScore

_RESAMPLES = 400

HALF = 0.5
"""The threshold of a class where no images chose one."""

FEWEST = 10
"""Images with a class, from which on the class has a threshold of its own."""


@dataclass(frozen=True)
class LabelScore(ClassScore):
    """Hold what was measured of one class, beside its counts.

    Attributes:
        average_precision: The mean precision over its images, ranked by score; None
            without images.
        threshold: The score from which on it is answered.
    """

    average_precision: float | None
    threshold: float

    @property
    def f1(self) -> float | None:
        """The harmonic mean of precision and recall; None without images."""
        return 2 * self.right / (self.n + self.answers) if self.n else None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            **super().to_dict(),
            "f1": self.f1,
            "average_precision": self.average_precision,
            "threshold": self.threshold,
        }


@dataclass(frozen=True)
class MultiLabelEvaluation:
    """Hold what was measured on images with several labels each, and every answer.

    Attributes:
        n: How many images.
        loss: The mean over the images of the sigmoid cross-entropy, summed over the
            classes, in nats.
        targets: bool (n, K), which labels the images have.
        logits: float32 (n, K).
        thresholds: float64 (K,), the scores from which on a class is answered.
        classes: The names of the K classes.
        split: Which images, in words, where a dataset was evaluated.
        seen: How many of them the network has learnt from, where that is known.
        assumed: What had to be assumed of the classes, in a sentence.
        computed: As of `Evaluation`.
    """

    n: int
    loss: float
    targets: NDArray[np.bool_]
    logits: NDArray[np.float32]
    thresholds: NDArray[np.float64]
    classes: tuple[str, ...]
    split: str = ""
    seen: int | None = None
    assumed: str = ""
    computed: Mapping[str, Any] = field(default_factory=dict)

    @property
    def scores(self) -> NDArray[np.float64]:
        """(n, K) the sigmoid of the logits."""
        return sigmoid(self.logits)

    @property
    def answers(self) -> NDArray[np.bool_]:
        """(n, K) whether a class is answered: its score reaches its threshold."""
        return self.scores >= self.thresholds

    @property
    def per_class(self) -> tuple[LabelScore, ...]:
        """What was measured of each of the K classes."""
        answers = self.answers
        found = []
        for place, name in enumerate(self.classes):
            own = self.targets[:, place]
            score = LabelScore(
                name,
                n=int(own.sum()),
                answers=int(answers[:, place].sum()),
                right=int((own & answers[:, place]).sum()),
                average_precision=average_precision(self.logits[:, place], own),
                threshold=float(self.thresholds[place]),
            )
            found.append(score)
        return tuple(found)

    @property
    def map(self) -> float | None:
        """Mean average precision over the classes that have images; None without any."""
        found = []
        for score in self.per_class:
            if score.average_precision is not None:
                found.append(score.average_precision)
        return float(np.mean(found)) if found else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval of `map`; None without it."""
        if not self.targets.any():
            return None
        return map_interval(self.logits, self.targets)

    @property
    def micro_f1(self) -> float:
        """F1 of all answers together; 0 where there is neither a label nor an answer."""
        right = (self.targets & self.answers).sum()
        both = self.targets.sum() + self.answers.sum()
        return float(2 * right / both) if both else 0.0

    @property
    def macro_f1(self) -> float | None:
        """The mean F1 over the classes that have images; None without any."""
        found = [score.f1 for score in self.per_class if score.f1 is not None]
        return float(np.mean(found)) if found else None

    @property
    def mistakes(self) -> NDArray[np.int64]:
        """(n,) how many labels of each image are wrong: missing, or not its own."""
        return (self.targets != self.answers).sum(axis=1)


def sigmoid(logits: NDArray[Any]) -> NDArray[np.float64]:
    """Return the scores of logits, as `Predictor` gives them.

    Args:
        logits: Of any shape.
    """
    tensor = torch.from_numpy(np.asarray(logits, np.float32))
    return tensor.sigmoid().numpy().astype(np.float64)


def average_precision(scores: NDArray[Any], own: NDArray[np.bool_]) -> float | None:
    """Return the average precision of one class, as scikit-learn defines it.

    It is the sum of the precision at each threshold, by the recall that it adds.

    Args:
        scores: (n,), larger for a surer yes.
        own: (n,), which images have the class.

    Returns:
        In [0, 1]; None if no image has the class.
    """
    if not own.any():
        return None
    right, answers = _counts(scores, own)[:2]
    gained = np.diff(right, prepend=0)
    return float((right / answers) @ gained / own.sum())


def map_interval(
    logits: NDArray[Any], targets: NDArray[np.bool_], seed: int = 0
) -> tuple[float, float]:
    """Return the 95 % interval of the mean average precision, by the bootstrap.

    The images are drawn anew, with repetition, 400 times; the interval leaves out 2.5 %
    of the values at each end (Efron, 1979). A draw without images of a class is averaged
    over the others. Of few images it is too narrow: nobody's bootstrap knows of images
    that were not drawn at all.

    Args:
        logits: (n, K), larger for a surer yes.
        targets: (n, K), which labels the images have; at least one.
        seed: Of the draws.
    """
    n = len(targets)
    rng = np.random.default_rng(seed)
    copies_RN = rng.multinomial(n, np.full(n, 1 / n), size=_RESAMPLES)
    values = []
    for place in np.flatnonzero(targets.any(axis=0)):
        values.append(_resampled(logits[:, place], targets[:, place], copies_RN))
    values_KR = np.array(values)
    drawn = ~np.isnan(values_KR)
    some = drawn.any(axis=0)
    means = np.nansum(values_KR, axis=0)[some] / drawn.sum(axis=0)[some]
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)


def _resampled(
    scores: NDArray[Any], own: NDArray[np.bool_], copies_RN: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return the average precision of a class with copies of the images, (R,).

    It is not a number where no image of the class was drawn.
    """
    order = np.argsort(-scores, kind="stable")
    places = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    ranked = copies_RN[:, order]
    answers = ranked.cumsum(axis=1)[:, places]
    right = (ranked * own[order]).cumsum(axis=1)[:, places]
    gained = np.diff(right, axis=1, prepend=0)
    # Before the first drawn image nothing is answered, nor gained.
    precision = right / np.maximum(answers, 1)
    total = right[:, -1]
    with np.errstate(invalid="ignore"):
        return (precision * gained).sum(axis=1) / total


def map_in_words(result: MultiLabelEvaluation) -> str:
    """Return mAP as it is printed: "71.2 % (95 % interval 66.0 to 75.9 %, n = 240)".

    Args:
        result: What was measured.
    """
    if result.map is None or result.interval is None:
        return "not measured (no labels)"
    low, high = result.interval
    return (
        f"{100 * result.map:.1f} % (95 % interval {100 * low:.1f} to {100 * high:.1f} %, "
        f"n = {result.n:,})"
    )


def _counts(
    scores: NDArray[Any], own: NDArray[np.bool_]
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return right answers, answers and the least score of each possible threshold.

    Images with one score are answered together.
    """
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    last_of_its_score = np.append(np.diff(ranked) != 0, True)
    places = np.flatnonzero(last_of_its_score)
    right = np.cumsum(own[order])[places]
    return right, places + 1, ranked[places]


def best_threshold(scores: NDArray[Any], own: NDArray[np.bool_]) -> float:
    """Return the threshold with the best F1; of equal ones the highest.

    Args:
        scores: (n,) in [0, 1].
        own: (n,), which of them should be a yes; at least one.
    """
    right, answers, least = _counts(scores, own)
    f1 = 2 * right / (answers + own.sum())
    place = int(f1.argmax())
    below = least[place + 1] if place + 1 < len(least) else 0.0
    # Between two scores: on either of them rounding would decide.
    return float((least[place] + below) / 2)


def choose_thresholds(
    scores: NDArray[Any], targets: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Choose for each class the score from which on it is answered.

    It is the one with the best F1 on these images. Classes with fewer than `FEWEST`
    images share one, with the best F1 of all answers together; it is a half where all
    classes together have fewer.

    Args:
        scores: (n, K) in [0, 1], of validation images: not of the training images.
        targets: (n, K), which labels the images have.

    Returns:
        float64 (K,).
    """
    common = HALF
    if targets.sum() >= FEWEST:
        common = best_threshold(scores.ravel(), targets.ravel())
    thresholds = np.full(targets.shape[1], common)
    for place in np.flatnonzero(targets.sum(axis=0) >= FEWEST):
        thresholds[place] = best_threshold(scores[:, place], targets[:, place])
    return thresholds


def evaluate_labels(
    model: nn.Module,
    images: ImageSet,
    preprocess: Preprocess,
    *,
    thresholds: Sequence[float] | None = None,
    columns: NDArray[np.int64] | None = None,
    batch_size: int = 256,
    workers: int | None = None,
    device: torch.device | None = None,
    tta: Tta = "none",
    compute: Callable[[Tensor], Tensor] | None = None,
    progress: Progress | None = None,
) -> MultiLabelEvaluation:
    """Run the model over all images, and compare its answers with their labels.

    Args:
        model: From images (B, C, H, W) to logits (B, K).
        images: Images with several labels each.
        preprocess: How the model wants its images.
        thresholds: Of the K classes; a half by default.
        columns: Which of the model's classes are those of the images, in their order;
            the same ones by default.
        batch_size, workers, device, tta, compute, progress: As for `evaluate`.

    Returns:
        What was measured, in the images' classes.

    Raises:
        UserError: As for `evaluate`, or the images have one label each.
    """
    if images.targets is None:
        raise UserError(
            "mAP and F1 are of images with several labels each, and these have one each: "
            "evaluate their accuracy"
        )
    logits = outputs(
        model,
        over_views(compute or model, tta),
        images,
        preprocess,
        batch_size=batch_size,
        workers=workers,
        device=device,
        progress=progress,
    )
    given = np.full(logits.shape[1], HALF) if thresholds is None else thresholds
    if columns is None:
        columns = np.arange(logits.shape[1])
    # Classes that the data does not know can be neither right nor wrong.
    own_logits = logits[:, torch.from_numpy(columns)]
    own_thresholds = np.asarray(given, np.float64)[columns]
    return score_labels(own_logits, images.targets, own_thresholds, images.classes)


def score_labels(
    logits: Tensor,
    targets: NDArray[np.bool_],
    thresholds: NDArray[np.float64],
    classes: Sequence[str],
) -> MultiLabelEvaluation:
    """Compare logits with the labels of the images.

    Args:
        logits: (n, K) on the CPU.
        targets: (n, K), which labels the images have.
        thresholds: (K,).
        classes: The K names.
    """
    wanted = torch.from_numpy(targets).to(logits)
    losses = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    return MultiLabelEvaluation(
        n=len(targets),
        loss=losses.sum(dim=1).mean().item(),
        targets=targets,
        logits=logits.numpy(),
        thresholds=thresholds,
        classes=tuple(classes),
    )
