"""scikit-learn's own checks of an estimator, and what they cannot know: images,
weights, checkpoints.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import mlp_mixer
from mlp_mixer.compat.sklearn import MixerClassifier
from mlp_mixer.data import ArraySet
from mlp_mixer.data.dataset import stratified_split
from mlp_mixer.evaluation.accuracy import outputs

QUICK: dict[str, Any] = {
    "epochs": 3,
    "settings": ("model.num_blocks=1",),
    "random_state": 0,
    "device": "cpu",
}


@pytest.fixture(scope="module")
def digits() -> list[np.ndarray]:
    """Images uint8 (n, 8, 8) to learn from and to evaluate on, and their labels."""
    data = load_digits()
    images = np.round(data.images * 255 / 16).astype(np.uint8)
    return train_test_split(
        images, data.target, test_size=0.25, random_state=0, stratify=data.target
    )


@parametrize_with_checks(
    [MixerClassifier(epochs=3, settings=("model.num_blocks=1",), device="cpu")]
)
def test_scikit_learn_accepts_it(estimator: MixerClassifier, check: Any) -> None:
    """All of scikit-learn's checks, without an expected failure."""
    check(estimator)


def test_digits_in_seconds(digits: list[np.ndarray]) -> None:
    x, x_test, y, y_test = digits
    fitted = MixerClassifier(random_state=0, epochs=15).fit(x, y)
    score = fitted.score(x_test, y_test)
    assert score >= 0.97
    rows = x_test.reshape(len(x_test), -1)
    assert fitted.score(rows, y_test) == score
    assert max(fitted.validation_scores_) > 0.95


def test_what_it_learnt_is_a_checkpoint(
    digits: list[np.ndarray], tmp_path: Path
) -> None:
    """Saved and read again, it gives the same scores for the same pixels, and the names
    of the classes.
    """
    x, x_test, y, _ = digits
    names = np.array(["zero", "one", "two", "three"])
    fitted = MixerClassifier(**QUICK).fit(x[y < 4], names[y[y < 4]])
    known = fitted.checkpoint_
    mlp_mixer.save(
        tmp_path / "a.safetensors",
        known.model,
        preprocess=known.preprocess,
        labels=known.labels,
    )
    answer = mlp_mixer.Predictor(tmp_path / "a.safetensors")(x_test[0][:, :, None])
    assert answer.pred_class == fitted.predict(x_test[:1])[0]
    assert answer.pred_score == pytest.approx(
        fitted.predict_proba(x_test[:1]).max(), abs=1e-6
    )


def test_the_same_seed_gives_the_same_numbers(digits: list[np.ndarray]) -> None:
    x, x_test, y, _ = digits
    before = torch.get_rng_state()
    one, again = (
        MixerClassifier(**QUICK).fit(x[:200], y[:200]).predict_proba(x_test)
        for _ in range(2)
    )
    other = (
        MixerClassifier(**QUICK | {"random_state": 1})
        .fit(x[:200], y[:200])
        .predict_proba(x_test)
    )
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)
    assert torch.equal(before, torch.get_rng_state())


def test_it_works_inside_scikit_learn(digits: list[np.ndarray]) -> None:
    x, x_test, y, _ = digits
    rows = x[:200].reshape(200, -1) / 255
    chain = make_pipeline(MinMaxScaler(), MixerClassifier(**QUICK))
    search = GridSearchCV(chain, {"mixerclassifier__epochs": [1, 3]}, cv=2).fit(
        rows, y[:200]
    )
    assert (
        clone(search.best_estimator_)[-1].get_params()
        == search.best_estimator_[-1].get_params()
    )
    copied = pickle.loads(pickle.dumps(search))
    assert np.array_equal(
        copied.predict(x_test.reshape(-1, 64) / 255),
        search.predict(x_test.reshape(-1, 64) / 255),
    )


@pytest.mark.parametrize(
    ("shape", "given", "read", "patch"),
    [
        ((6, 8, 12), None, (8, 12, 1), 2),
        ((6, 8, 9), None, (8, 9, 1), 1),
        ((6, 9, 9, 3), None, (9, 9, 3), 3),
        ((6, 7), None, (1, 7, 1), 1),
        ((6, 16), None, (4, 4, 1), 2),
        ((6, 24), (2, 4, 3), (2, 4, 3), 1),
    ],
)
def test_how_an_array_is_read(
    shape: tuple[int, ...],
    given: tuple[int, ...] | None,
    read: tuple[int, ...],
    patch: int,
) -> None:
    x = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    fitted = MixerClassifier(**QUICK, image_shape=given).fit(x, np.arange(6) % 2)
    config = fitted.checkpoint_.model.config
    assert fitted.image_shape_ == read == (*config.image_size, config.in_channels)
    assert config.patch_size == patch
    assert np.array_equal(fitted._pixels(x.reshape(6, -1)), x.reshape(6, *read))
    assert fitted.predict(list(x)).shape == (6,)


def test_values_are_scaled_by_the_training_data() -> None:
    x = np.array([[-3.0, 1.0], [5.0, 0.99]])
    fitted = MixerClassifier(**QUICK).fit(x, [0, 1])
    assert fitted._pixels(np.array([[-3.0, 5.0], [1.0, 99.0]])).ravel().tolist() == [
        0,
        255,
        128,
        255,
    ]


@pytest.mark.parametrize("classes", [2, 3])
def test_a_frozen_network_gets_the_head_of_a_logistic_regression(
    classes: int, digits: list[np.ndarray], tmp_path: Path
) -> None:
    """The same probabilities as scikit-learn's own, fitted to the features.

    The network below is untouched.
    """
    x, x_test, y, _ = digits
    x = x[y < classes]
    y = y[y < classes]
    model = mlp_mixer.create_model("mixer_pico2", in_channels=1, num_classes=5)
    record = mlp_mixer.Preprocess(image_size=(8, 8), channels=1, crop_pct=1.0)
    path = mlp_mixer.save(tmp_path / "w.safetensors", model, preprocess=record)
    probe = MixerClassifier(weights=str(path), frozen=True, device="cpu")
    fitted = probe.fit(x, y)

    model.reset_classifier(0)

    def features(pixels: np.ndarray) -> np.ndarray:
        images = ArraySet(pixels, np.zeros(len(pixels), int))
        return outputs(model, model, images, record).double().numpy()

    theirs = LogisticRegression(max_iter=1000).fit(features(x), y)
    expected = theirs.predict_proba(features(x_test))
    assert np.abs(fitted.predict_proba(x_test) - expected).max() < 1e-5
    learnt = fitted.checkpoint_.model
    assert torch.equal(learnt.stem.proj.weight, model.stem.proj.weight)


def test_weights_are_fine_tuned(digits: list[np.ndarray], tmp_path: Path) -> None:
    """From weights that know the digits already, one short epoch is enough.

    From scratch it is not.
    """
    x, x_test, y, y_test = digits
    known = MixerClassifier(random_state=0, epochs=5).fit(x, y).checkpoint_
    mlp_mixer.save(
        tmp_path / "w.safetensors",
        known.model,
        preprocess=known.preprocess,
        labels=[f"old {k}" for k in range(10)],
    )
    short: dict[str, Any] = {
        "epochs": 1,
        "random_state": 0,
        "settings": ("optim.lr=0.004", "train.batch_size=128"),
    }
    weights = str(tmp_path / "w.safetensors")
    tuned = MixerClassifier(weights=weights, **short).fit(x, y)
    fresh = MixerClassifier(**short).fit(x, y)
    assert tuned.score(x_test, y_test) > 0.85
    assert fresh.score(x_test, y_test) < 0.75


def test_training_stops_when_nothing_gets_better() -> None:
    """Noise cannot be learnt: the best epoch is kept, and the rest is not computed."""
    x = np.random.default_rng(0).integers(0, 256, (60, 4, 4), dtype=np.uint8)
    fitted = MixerClassifier(
        **QUICK | {"epochs": 50, "random_state": 3}, n_iter_no_change=2
    ).fit(x, np.arange(60) % 2)
    scores = fitted.validation_scores_
    assert len(scores) < 50
    assert len(scores) == scores.index(max(scores)) + 3
    split = fitted.checkpoint_.provenance["data"]
    _, eval_split = stratified_split(
        np.arange(60) % 2, split["val_fraction"], split["split_seed"]
    )
    assert fitted.score(x[eval_split], eval_split % 2) == max(scores)


@pytest.mark.parametrize(
    ("parameters", "shape", "sentence"),
    [
        ({"image_shape": (3, 5)}, (6, 16), "expected (H, W) or (H, W, C) of 16 values"),
        ({"frozen": True}, (6, 16), "give weights, or leave it out"),
        ({"model": "mixer_pico3"}, (6, 16), "did you mean"),
        (
            {
                "settings": (
                    "optim.lr=1e9",
                    "optim.clip_norm=none",
                    "train.batch_size=1",
                )
            },
            (6, 16),
            "lower optim.lr",
        ),
    ],
)
def test_mistakes_are_sentences(
    parameters: dict[str, Any], shape: tuple[int, ...], sentence: str
) -> None:
    with pytest.raises(mlp_mixer.UserError) as caught:
        MixerClassifier(**QUICK | parameters).fit(
            np.random.default_rng(0).normal(size=shape), np.arange(6) % 2
        )
    assert sentence in str(caught.value)
