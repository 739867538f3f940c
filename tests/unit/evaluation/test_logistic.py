"""The fit of a linear head: how many threads it takes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import sklearn.linear_model
from threadpoolctl import threadpool_info

from mlp_mixer.evaluation import logistic


def threads_of_a_fit(monkeypatch: pytest.MonkeyPatch, fewest: int) -> set[int]:
    """The numbers of threads that numerical libraries may take during a fit."""
    seen: set[int] = set()
    original = sklearn.linear_model.LogisticRegression.fit

    def spy(self: Any, *arguments: Any) -> Any:
        seen.update(library["num_threads"] for library in threadpool_info())
        return original(self, *arguments)

    monkeypatch.setattr(sklearn.linear_model.LogisticRegression, "fit", spy)
    monkeypatch.setattr(logistic, "_FEWEST_PRODUCTS_FOR_THREADS", fewest)
    x = np.random.default_rng(0).normal(size=(20, 4))
    logistic.fit_logistic(x, np.arange(20) % 2, strength=1.0, most_steps=5)
    return seen


def test_a_small_fit_takes_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    assert threads_of_a_fit(monkeypatch, fewest=10**8) == {1}


def test_a_large_fit_takes_what_the_machine_gives(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = {library["num_threads"] for library in threadpool_info()}
    assert threads_of_a_fit(monkeypatch, fewest=1) == before
