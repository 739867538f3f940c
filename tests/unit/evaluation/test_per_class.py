"""Each class for itself, against scikit-learn; and the remark on a frequent class."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, precision_recall_fscore_support

from mlp_mixer.evaluation.accuracy import Evaluation, score


def drawn(frequencies: list[float], seed: int) -> Evaluation:
    """Answers that are right half of the time, of classes with these frequencies."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(len(frequencies), 400, p=frequencies)
    logits = torch.from_numpy(rng.normal(size=(400, len(frequencies))))
    logits[np.arange(400), labels] += 1.0
    return score(logits, torch.from_numpy(labels))


@pytest.mark.parametrize("frequencies", [[0.9, 0.05, 0.05], [0.5, 0.5], [0.7, 0.3, 0]])
@pytest.mark.parametrize("seed", range(3))
def test_the_numbers_of_scikit_learn(frequencies: list[float], seed: int) -> None:
    result = drawn(frequencies, seed)
    labels = result.labels
    answers = result.predictions
    # scikit-learn warns of answers that no image has.
    seen = np.isin(answers, labels)
    if seen.all():
        expected = balanced_accuracy_score(labels, answers)
        assert result.balanced_top1 == pytest.approx(expected)
    places = range(len(frequencies))
    precision, recall, _, counts = precision_recall_fscore_support(
        labels, answers, labels=places, zero_division=np.nan
    )
    assert [row.name for row in result.per_class] == [f"class {k}" for k in places]
    for place, row in enumerate(result.per_class):
        assert row.n == counts[place]
        assert row.precision == pytest.approx(precision[place])
        if row.n:
            assert row.recall == pytest.approx(recall[place])
        else:
            assert row.recall is None


def test_a_class_without_images_or_answers_is_left_out() -> None:
    logits = torch.tensor([[3.0, 0, 1], [3.0, 0, 1], [0.0, 0, 9]])
    result = score(logits, torch.tensor([0, 2, 2]))
    assert [row.to_dict() for row in result.per_class] == [
        {"class": "class 0", "n": 1, "right": 1, "recall": 1.0, "precision": 0.5},
        {"class": "class 2", "n": 2, "right": 1, "recall": 0.5, "precision": 1.0},
    ]
    assert result.balanced_top1 == 0.75


def answered(right_of: list[tuple[int, int]]) -> Evaluation:
    """For each class (right, images): the rest is taken for the next class."""
    labels = []
    answers = []
    for place, (right, images) in enumerate(right_of):
        labels += [place] * images
        answers += [place] * right + [(place + 1) % len(right_of)] * (images - right)
    logits = torch.nn.functional.one_hot(torch.tensor(answers), len(right_of)).float()
    return score(logits, torch.tensor(labels))


@pytest.mark.parametrize(
    ("right_of", "remarked"),
    [
        ([(96, 96), (0, 4)], True),  # always the first class
        ([(96, 96), (1, 4)], True),  # one more is noise
        ([(96, 96), (4, 4)], False),  # all right
        ([(50, 50), (40, 50)], False),
        ([(30, 50), (26, 50)], True),  # 56 % of 100 is within the noise of 50 %
        ([(10, 20)], False),  # one class only: there is no other answer
    ],
)
def test_the_remark_names_the_class_that_explains_the_number(
    right_of: list[tuple[int, int]], remarked: bool
) -> None:
    remark = answered(right_of).remark
    assert (remark is not None) == remarked
    if remark:
        share = 96 if right_of[0][1] == 96 else 50
        assert f"always answering 'class 0' would give {share} %" in remark


def test_no_images_have_no_remark() -> None:
    nothing = np.zeros((0, 3))
    result = Evaluation(0, 0.0, 0.0, 0.0, np.zeros(0, int), nothing, nothing)
    assert result.balanced_top1 == 0
    assert result.per_class == ()
    assert result.remark is None
