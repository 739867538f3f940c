"""mAP and F1 of several labels per image, against scikit-learn; and the thresholds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, f1_score

from mlp_mixer.evaluation.multilabel import (
    FEWEST,
    MultiLabelEvaluation,
    average_precision,
    best_threshold,
    choose_thresholds,
    map_interval,
    score_labels,
    sigmoid,
)


def drawn(seed: int, *, ties: bool = False) -> MultiLabelEvaluation:
    rng = np.random.default_rng(seed)
    targets = rng.random((90, 4)) < (0.6, 0.3, 0.1, 0.05)
    logits = rng.normal(size=(90, 4)) + 1.5 * targets - 1
    if ties:
        logits = logits.round()
    thresholds = np.array([0.5, 0.3, 0.2, 0.4])
    tensor = torch.from_numpy(logits.astype(np.float32))
    return score_labels(tensor, targets, thresholds, "abcd")


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_the_numbers_of_scikit_learn(seed: int, ties: bool) -> None:
    result = drawn(seed, ties=ties)
    targets = result.targets
    answers = result.answers
    assert result.map == pytest.approx(average_precision_score(targets, result.logits))
    micro = f1_score(targets, answers, average="micro")
    assert result.micro_f1 == pytest.approx(micro)
    macro = f1_score(targets, answers, average="macro", zero_division=0)
    assert result.macro_f1 == pytest.approx(macro)
    for place, row in enumerate(result.per_class):
        expected = average_precision_score(targets[:, place], result.logits[:, place])
        assert row.average_precision == pytest.approx(expected)
        assert row.n == targets[:, place].sum()
        assert row.threshold == result.thresholds[place]


@pytest.mark.parametrize("ties", [False, True])
def test_the_interval_is_that_of_drawing_images_again(ties: bool) -> None:
    result = drawn(0, ties=ties)
    rng = np.random.default_rng(1)
    values = []
    for _ in range(400):
        rows = rng.integers(result.n, size=result.n)
        targets = result.targets[rows]
        # scikit-learn counts a class without images as 0.
        drawn_classes = targets.any(axis=0)
        logits = result.logits[rows][:, drawn_classes]
        values.append(average_precision_score(targets[:, drawn_classes], logits))
    expected = np.quantile(values, (0.025, 0.975))
    assert result.interval == pytest.approx(expected, abs=0.04)


def test_the_interval_gets_narrow_with_the_number_of_images() -> None:
    result = drawn(2)
    low, high = map_interval(result.logits, result.targets)
    many_low, many_high = map_interval(
        np.tile(result.logits, (16, 1)), np.tile(result.targets, (16, 1))
    )
    assert low < result.map < high
    assert (many_high - many_low) * 3 < high - low < (many_high - many_low) * 5


def test_a_class_of_one_image_has_an_interval() -> None:
    logits = np.array([[2.0, 1], [1, -1], [0, -2]])
    targets = np.array([[1, 0], [1, 1], [0, 0]], dtype=bool)
    low, high = map_interval(logits, targets)
    assert 0.3 < low <= high <= 1


def test_the_loss_is_the_sum_over_the_classes() -> None:
    result = drawn(0)
    scores = result.scores
    yes = -np.log(scores) * result.targets
    no = -np.log1p(-scores) * ~result.targets
    assert result.loss == pytest.approx((yes + no).sum(axis=1).mean(), rel=1e-5)


def test_a_class_without_images_has_no_part_in_the_means() -> None:
    targets = np.array([[1, 0], [0, 0], [1, 0]], dtype=bool)
    logits = torch.tensor([[3.0, 9], [-3, -9], [2, -9]])
    result = score_labels(logits, targets, np.array([0.5, 0.5]), ("cat", "dog"))
    assert result.map == 1
    assert result.macro_f1 == 1
    # All answers together have the wrong one of the dog.
    assert result.micro_f1 == pytest.approx(4 / 5)
    assert result.mistakes.tolist() == [1, 0, 0]
    dog = result.per_class[1].to_dict()
    assert dog["average_precision"] is dog["f1"] is dog["recall"] is None
    assert dog["precision"] == 0


def test_no_label_at_all_has_no_map() -> None:
    nothing = np.zeros((2, 2), dtype=bool)
    result = score_labels(torch.zeros(2, 2), nothing, np.array([0.9, 0.9]), "ab")
    assert (result.map, result.macro_f1, result.micro_f1) == (None, None, 0)
    assert average_precision(np.zeros(2), nothing[:, 0]) is None


@pytest.mark.parametrize("seed", range(5))
def test_the_best_threshold_is_the_best_of_all(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.random(40).round(2)
    own = rng.random(40) < 0.2 + 0.5 * scores
    found = best_threshold(scores, own)
    every = [f1_score(own, scores >= t, zero_division=0) for t in np.unique(scores)]
    assert f1_score(own, scores >= found) == pytest.approx(max(every))
    # Between two scores, where rounding decides nothing.
    assert np.abs(scores - found).min() > 1e-3


def test_a_class_with_few_images_shares_the_threshold_of_all() -> None:
    rng = np.random.default_rng(0)
    targets = np.zeros((60, 3), dtype=bool)
    targets[:FEWEST, 0] = True
    targets[: FEWEST - 1, 1] = True
    targets[5:8, 2] = True
    scores = rng.random((60, 3)) * 0.5 + 0.4 * targets
    chosen = choose_thresholds(scores, targets)
    assert chosen[0] == best_threshold(scores[:, 0], targets[:, 0])
    assert chosen[1] == chosen[2] == best_threshold(scores.ravel(), targets.ravel())
    few = choose_thresholds(scores[:2], targets[:2])
    assert few.tolist() == [0.5, 0.5, 0.5]


def test_scores_are_those_of_torch() -> None:
    logits = np.linspace(-20, 20, 9, dtype=np.float32)
    expected = torch.from_numpy(logits).sigmoid().numpy()
    np.testing.assert_array_equal(sigmoid(logits), expected.astype(np.float64))
