"""What is wrong with a few-shot evaluation is said before features are computed."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from mlp_mixer import UserError
from mlp_mixer.data import Dataset
from mlp_mixer.evaluation import evaluate_fewshot, fewshot
from mlp_mixer.weights import load
from mlp_mixer.weights.catalog import BUNDLED


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"l2": -5.0}, "l2 is -5.0"),
        ({"l2": 0.0}, "l2 is 0"),
        ({"l2": math.nan}, "l2 is nan"),
        ({"l2": math.inf}, "l2 is inf"),
        ({"neighbours": 0}, "k is 0"),
        ({"neighbours": 1000}, "k is 1000: expected 1 to 6"),
    ],
)
def test_before_the_features(
    options: dict[str, Any], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compute(*_: Any, **__: Any) -> Any:
        raise AssertionError("features are computed")

    monkeypatch.setattr(fewshot, "split_features", compute)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (8, 8, 8, 3), dtype=np.uint8)
    dataset = Dataset.from_arrays(images, [0, 1] * 4, test_fraction=0.01)
    with pytest.raises(UserError, match=sentence):
        evaluate_fewshot(load(BUNDLED), dataset, shots=(1,), **options)
