"""The lowest score against trying every score, and the two ends of accuracy."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from mlp_mixer.evaluation import answered, choose_min_score
from mlp_mixer.evaluation.accuracy import score


def by_trying(
    scores: np.ndarray, right: np.ndarray, accuracy: float
) -> tuple[float, int] | None:
    """The lowest of all scores that does it, and how many images it answers."""
    for lowest in np.unique(scores):
        given = scores >= lowest
        if given.sum() >= 20 and right[given].mean() >= accuracy:
            return float(lowest), int(given.sum())
    return None


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("decimals", [1, 2, 7])
def test_it_is_the_lowest_of_all(seed: int, decimals: int) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(100, 300))
    scores = rng.uniform(0.2, 1, n).round(decimals).astype(np.float32)
    # Higher scores are right more often; how much more differs with the seed.
    right = rng.uniform(size=n) < scores ** (0.1 + 0.1 * seed)
    found = choose_min_score(scores, right)
    expected = by_trying(scores, right, 0.95)
    assert (found is None) == (expected is None)
    if found is not None and expected is not None:
        assert (found.score, found.coverage) == (expected[0], expected[1] / n)
        assert found.accuracy == pytest.approx(right[scores >= found.score].mean())
        assert found.n == n


def test_all_are_answered_where_nearly_all_are_right() -> None:
    scores = np.linspace(0.3, 0.9, 200)
    found = choose_min_score(scores, np.ones(200, dtype=bool))
    assert found is not None
    assert dataclasses.astuple(found) == (0.3, 1.0, 1.0, 200)


def test_there_may_be_none() -> None:
    right = np.arange(200) % 2 == 0
    assert choose_min_score(np.linspace(0, 1, 200), right) is None
    assert choose_min_score(np.full(200, 0.5), np.arange(200) > 20) is None
    assert choose_min_score(np.linspace(0, 1, 99), np.ones(99, dtype=bool)) is None
    # Eighteen right answers in front are luck.
    assert choose_min_score(np.linspace(1, 0, 200), np.arange(200) < 18) is None


def test_what_is_answered() -> None:
    logits = torch.tensor([[4.0, 0.0], [1.0, 0.0], [0.0, 3.0], [0.0, 0.5]])
    result = score(logits, torch.tensor([0, 1, 1, 1]))
    assert result.scores.tolist() == pytest.approx(
        [0.982, 0.731, 0.953, 0.622], abs=1e-3
    )
    every = answered(result, 0.0)
    assert (every.n, every.coverage, every.top1) == (4, 1.0, result.top1)
    sure = answered(result, 0.9)
    assert (sure.n, sure.coverage, sure.top1) == (2, 0.5, 1.0)
    none = answered(result, 1.0)
    assert (none.n, none.coverage, none.top1) == (0, 0.0, None)


def test_scores_of_a_head_that_learnt_by_sigmoids() -> None:
    """Both classes may have high scores; the softmax between them says nothing."""
    logits = torch.tensor([[6.0, 5.9], [-6.0, -5.9]])
    result = score(logits, torch.tensor([0, 0]), "sigmoid")
    expected = torch.sigmoid(torch.tensor([6.0, -5.9]))
    assert result.scores.tolist() == pytest.approx(expected.tolist())
