"""What long work tells of itself: how many images are done, up to all of them."""

from __future__ import annotations

import numpy as np

from mlp_mixer import Checkpoint, Dataset, Preprocess, create_model
from mlp_mixer.data.image_set import ArraySet
from mlp_mixer.evaluation import evaluate, evaluate_fewshot

Told = list[tuple[int, int]]


def tiny() -> Checkpoint:
    model = create_model("mixer_pico2", num_blocks=1, hidden_dim=8, num_classes=2)
    preprocess = Preprocess(model.config.image_size, channels=3, resize="resize")
    return Checkpoint(model.eval(), preprocess, ("a", "b"))


def pictures(count: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)


def test_an_evaluation_counts_its_images() -> None:
    known = tiny()
    images = ArraySet(pictures(40), np.arange(40) % 2, ["a", "b"])
    told: Told = []

    def progress(done: int, total: int) -> None:
        told.append((done, total))

    silent = evaluate(known.model, images, known.preprocess, batch_size=16)
    result = evaluate(
        known.model, images, known.preprocess, batch_size=16, progress=progress
    )
    assert told == [(16, 40), (32, 40), (40, 40)]
    np.testing.assert_array_equal(result.probabilities, silent.probabilities)


def test_both_sets_of_a_few_shot_evaluation_are_one_count() -> None:
    data = Dataset.from_arrays(pictures(50), np.arange(50) % 2, ["a", "b"])
    told: Told = []
    evaluate_fewshot(
        tiny(),
        data,
        shots=(1, 4),
        seeds=(0,),
        batch_size=5,
        progress=lambda done, total: told.append((done, total)),
    )
    # Four images of each class to learn from, and those held out to test.
    assert data.test is not None
    total = 8 + len(data.test)
    steps = [5, 8, *range(13, total, 5), total]
    assert told == [(done, total) for done in steps]
