"""The few-shot solver against big_vision's numbers and a plain solve, k-NN against
scikit-learn's.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from mlp_mixer import (
    Checkpoint,
    Dataset,
    MixerConfig,
    MlpMixer,
    Preprocess,
    UserError,
    open_dataset,
)
from mlp_mixer.evaluation import (
    evaluate_checkpoint,
    evaluate_fewshot,
    fewshot_accuracy,
    fewshot_curve,
    knn_accuracy,
)
from mlp_mixer.evaluation import fewshot as module
from mlp_mixer.evaluation.splits import support_and_eval_split

Four = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def blobs(dim: int, classes: int = 4, per_class: int = 30, seed: int = 0) -> Four:
    """Overlapping clouds, stretched and shifted differently along each axis."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(classes, dim))
    y = np.repeat(np.arange(classes), per_class)
    y_train = rng.permutation(y)
    y_test = rng.permutation(y)
    scale = rng.uniform(0.1, 9, dim)
    shift = rng.normal(size=dim) * 5
    x_train, x_test = (
        ((centres[y] + rng.normal(size=(len(y), dim)) * 1.5) * scale + shift).astype(
            np.float32
        )
        for y in (y_train, y_test)
    )
    return x_train, y_train, x_test, y_test


def test_big_visions_own_accuracies(shared: Path) -> None:
    """Eleven of twelve to the sample; the twelfth holds a tie, which fp32 and fp64
    break differently.
    """
    features = np.load(shared / "golden" / "fewshot_a" / "features.npz")
    expected = json.loads(
        (shared / "golden" / "fewshot_a" / "expected.json").read_text()
    )["accuracy"]
    curve = fewshot_curve(
        *(features[name] for name in ("x_train", "y_train", "x_test", "y_test"))
    )
    ours = {
        f"seed{seed}_shots{n}": accuracy
        for n, each in curve.items()
        for seed, accuracy in each.items()
    }
    assert ours.keys() == expected.keys()
    off = [round(800 * (ours[key] - expected[key]), 3) for key in expected]
    assert max(map(abs, off)) <= 1
    assert off.count(0) >= 11


def by_plain_solve(
    x: np.ndarray, y: np.ndarray, x_test: np.ndarray, classes: int, l2: float
) -> np.ndarray:
    """Scores (m, K) from the normal equations, written independently."""
    mean = x.mean(0, dtype=np.float64)
    std = x.std(0, dtype=np.float64) + 1e-5
    a, b = (
        np.hstack([(part - mean) / std, np.full((len(part), 1), 100.0)])
        for part in (x, x_test)
    )
    targets = np.where(y[:, None] == np.arange(classes), 1.0, -1.0)
    return b @ np.linalg.solve(a.T @ a + l2 * np.eye(a.shape[1]), a.T @ targets)


@pytest.mark.parametrize("l2", [2.0**-6, 1.0, 2.0**10])
@pytest.mark.parametrize(
    ("dim", "shots"), [(6, 1), (6, 10), (19, 5), (20, 5), (60, 5), (1, 1)]
)
def test_a_plain_solve_gives_the_same(dim: int, shots: int, l2: float) -> None:
    """Both sides of N = D, with D = dim + 1 for the bias: N = 20 against 7, 20, 21 and
    61 columns and more.
    """
    x_train, y_train, x_test, y_test = blobs(dim)
    rng = np.random.default_rng(7)
    chosen = np.concatenate(
        [rng.permutation(np.where(y_train == k)[0])[:shots] for k in range(4)]
    )
    scores = by_plain_solve(x_train[chosen], y_train[chosen], x_test, 4, l2)
    ours = fewshot_accuracy(
        x_train, y_train, x_test, y_test, shots=shots, seed=7, l2=l2
    )
    assert ours == (scores.argmax(1) == y_test).mean()

    x = np.pad(
        x_train[chosen].astype(np.float64), ((0, 0), (0, 1)), constant_values=100.0
    )
    targets = np.where(y_train[chosen][:, None] == np.arange(4), 1.0, -1.0)
    exact = np.linalg.solve(x.T @ x + l2 * np.eye(dim + 1), x.T @ targets)
    np.testing.assert_allclose(
        module._ridge(x, targets, l2), exact, rtol=1e-6, atol=1e-8
    )


def test_support_is_the_head_of_each_classs_permutation_by_one_generator() -> None:
    labels = np.array([2, 0, 1, 1, 0, 2, 0, 1, 2, 0])
    rng = np.random.default_rng(3)
    permuted = [rng.permutation(np.where(labels == k)[0]) for k in range(3)]
    for shots in (1, 2, 3):
        chosen = module.support(labels, shots, 3, "abc")
        assert chosen.tolist() == [
            index for members in permuted for index in members[:shots]
        ]
    with pytest.raises(
        UserError,
        match="4 shots need as many images of each class to learn from, 'b' has 3",
    ):
        module.support(labels, 4, 3, "abc")


def test_the_curve_is_made_of_single_points() -> None:
    four = blobs(5)
    curve = fewshot_curve(*four, shots=(1, 5), seeds=(4, 2), l2=3.0)
    assert [*curve] == [1, 5]
    assert [*curve[1]] == [4, 2]
    assert curve[5][2] == fewshot_accuracy(*four, shots=5, seed=2, l2=3.0)
    assert len({curve[1][4], curve[1][2], curve[5][4], curve[5][2]}) > 1


def test_ties_go_to_the_first_class() -> None:
    """Features that say nothing: every score is exactly 0."""
    y = np.array([0, 1, 0, 1])
    for dim in (1, 9):
        x = np.ones((4, dim))
        assert (
            fewshot_accuracy(x, y, x[:3], np.array([0, 0, 1]), shots=2, seed=0) == 2 / 3
        )
        assert knn_accuracy(x, y, x[:3], np.array([0, 0, 1]), k=4) == 2 / 3


def test_a_small_memory_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    four = blobs(7)
    before = fewshot_accuracy(*four, shots=5, seed=0), knn_accuracy(*four)
    monkeypatch.setattr(module, "_MOST", 500)  # several slices, the last one short
    assert (fewshot_accuracy(*four, shots=5, seed=0), knn_accuracy(*four)) == before


@pytest.mark.parametrize(
    "dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64]
)
def test_tensors_and_read_only_arrays(dtype: torch.dtype) -> None:
    x_train, y_train, x_test, y_test = blobs(7)
    tensors = [torch.from_numpy(x).to(dtype) for x in (x_train, x_test)]
    arrays = [x.float().numpy() for x in tensors]
    for array in (*arrays, y_train, y_test):
        array.flags.writeable = False
    as_tensors = (
        tensors[0].requires_grad_(),
        torch.tensor(y_train),
        tensors[1],
        torch.tensor(y_test).byte(),
    )
    as_arrays = (arrays[0], y_train, arrays[1], y_test)
    assert (
        fewshot_accuracy(*as_tensors, shots=5, seed=0)
        == fewshot_accuracy(*as_arrays, shots=5, seed=0)
        > 0.5
    )
    assert knn_accuracy(*as_tensors) == knn_accuracy(*as_arrays) > 0.4


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.uint64])
def test_labels_of_any_integers(dtype: Any) -> None:
    y = np.arange(301, dtype=dtype)
    x = np.eye(301)
    assert knn_accuracy(x[[3, 300]], y[[3, 300]], x[[300, 3]], y[[300, 3]], k=1) == 1
    assert fewshot_accuracy(x, y, x, y, shots=1, seed=0) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"x_test": np.zeros((4, 3))},
            r"features are \(4, 3\) and their labels \(4,\)",
        ),
        ({"x_train": np.zeros(4)}, r"features are \(4,\)"),
        (
            {"y_train": np.zeros(3, int)},
            r"features are \(4, 2\) and their labels \(3,\)",
        ),
        ({"x_test": np.zeros((0, 2)), "y_test": np.zeros(0, int)}, "n > 0"),
        ({"y_test": np.zeros(4)}, "labels are float64"),
        ({"y_test": np.array([0, 1, -1, 0])}, "labels are int64 from -1"),
        ({"x_train": np.full((4, 2), np.nan)}, "not finite"),
        ({"x_test": np.full((4, 2), np.inf)}, "not finite"),
    ],
)
def test_what_does_not_fit(change: dict[str, np.ndarray], message: str) -> None:
    x = np.arange(8.0).reshape(4, 2)
    y = np.array([0, 1, 0, 1])
    four = {"x_train": x, "y_train": y, "x_test": x, "y_test": y} | change
    for measure in (
        lambda: fewshot_accuracy(**four, shots=1, seed=0),
        lambda: knn_accuracy(**four, k=2),
    ):
        with pytest.raises(UserError, match=message):
            measure()


def test_numbers_that_mean_nothing() -> None:
    x = np.arange(8.0).reshape(4, 2)
    y = np.array([0, 1, 0, 1])
    for shots in (3, 0, -1):
        with pytest.raises(UserError, match=f"{shots} shots need .* 0 has 2"):
            fewshot_accuracy(x, y, x, y, shots=shots, seed=0)
    with pytest.raises(
        UserError, match="1 shots need .* 2 has 0"
    ):  # a class that only the test has
        fewshot_accuracy(x, y, x, np.array([0, 1, 0, 3]), shots=1, seed=0)
    for l2 in (0, -1, float("nan"), float("inf")):
        with pytest.raises(UserError, match="expected a number above 0, such as 1024"):
            fewshot_accuracy(x, y, x, y, shots=1, seed=0, l2=l2)
    for k in (0, 5):
        with pytest.raises(UserError, match=f"k is {k}: expected 1 to 4"):
            knn_accuracy(x, y, x, y, k=k)
    with pytest.raises(UserError, match="temperature is 0"):
        knn_accuracy(x, y, x, y, k=1, temperature=0)


@pytest.mark.parametrize(
    ("k", "temperature"), [(1, 0.07), (5, 0.07), (20, 0.07), (20, 1e-4), (120, 0.5)]
)
def test_knn_is_scikit_learns_with_these_weights(k: int, temperature: float) -> None:
    x_train, y_train, x_test, y_test = blobs(7)

    def votes(distances: np.ndarray) -> np.ndarray:  # of cosine: 1 - c
        return np.exp((distances.min(axis=1, keepdims=True) - distances) / temperature)

    theirs = KNeighborsClassifier(
        k, weights=votes, algorithm="brute", metric="cosine"
    ).fit(x_train, y_train)
    expected = (theirs.predict(x_test) == y_test).mean()
    assert (
        knn_accuracy(x_train, y_train, x_test, y_test, k=k, temperature=temperature)
        == expected
    )
    longer = (
        x_train * np.linspace(1, 99, len(x_train))[:, None],
        y_train,
        x_test * 7,
        y_test,
    )
    assert knn_accuracy(*longer, k=k, temperature=temperature) == expected


# --- of a checkpoint


def checkpoint(
    num_classes: int = 0, provenance: dict[str, Any] | None = None
) -> Checkpoint:
    model = MlpMixer(
        MixerConfig(
            4, 1, 8, 4, 8, image_size=(8, 8), in_channels=1, num_classes=num_classes
        )
    )
    return Checkpoint(
        model, Preprocess((8, 8), channels=1, crop_pct=1.0), None, provenance or {}
    )


def test_the_support_and_the_judges_never_meet() -> None:
    source = open_dataset("digits", split_seed=5, test_fraction=0.3)
    trained_here = {
        "data": {
            "fingerprint": source.fingerprint(),
            "split_seed": 5,
            "test_fraction": 0.3,
        }
    }
    for provenance, words in (
        ({}, "20 % held out by seed 0"),
        (trained_here, "30 % held out by seed 5"),
    ):
        train, eval_split = support_and_eval_split("digits", provenance)
        learnt, judging = (
            {part.name(i) for i in range(len(part))}
            for part in (train, eval_split.images)
        )
        assert not learnt & judging
        assert len(learnt | judging) == 1797
        assert eval_split.split == f"test ({words})"
    assert judging == {source.test.name(i) for i in range(len(source.test))}


def test_a_checkpoint_without_a_head_has_features() -> None:
    headless = checkpoint()
    result = evaluate_fewshot(headless, "digits", shots=(1, 5), seeds=(0, 1))
    assert (result.classes, len(result.eval_split.images), result.neighbours) == (
        10,
        359,
        None,
    )
    assert 0.2 < result.accuracies[1][0] < result.accuracies[5][0] <= 1
    with pytest.raises(UserError, match="no classifier .* judge its features"):
        evaluate_checkpoint(headless, "digits")
    source = open_dataset("digits")
    with torch.inference_mode():
        four = []
        for part in (source.train, source.test):
            x = torch.stack(
                [headless.preprocess(part.image(i)) for i in range(len(part))]
            )
            four += [headless.model(x), part.labels]
    assert result.accuracies == fewshot_curve(*four, shots=(1, 5), seeds=(0, 1))
    with_knn = evaluate_fewshot(
        headless, "digits", shots=(1, 5), seeds=(0, 1), neighbours=3
    )
    assert with_knn.accuracies == result.accuracies
    assert with_knn.neighbours == knn_accuracy(*four, k=3)


def test_a_head_and_its_mode_change_nothing() -> None:
    torch.manual_seed(1)
    headless = checkpoint()
    headed = checkpoint(num_classes=7)
    headed.model.load_state_dict(headless.model.state_dict(), strict=False)
    headed.model.train()
    first, second = (
        evaluate_fewshot(one, "digits", shots=(2,), seeds=(0,))
        for one in (headless, headed)
    )
    assert first.accuracies == second.accuracies
    assert headed.model.training


def test_only_what_some_seed_draws_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    source = open_dataset("digits")
    seen: list[int] = []
    monkeypatch.setattr(
        module,
        "outputs",
        lambda model, f, images, p, **_: (
            seen.append(len(images)) or torch.rand(len(images), 8)
        ),
    )
    evaluate_fewshot(checkpoint(), source, shots=(1, 3), seeds=(0, 1))
    drawn = {
        i
        for seed in (0, 1)
        for i in module.support(source.train.labels, 3, seed, range(10))
    }
    assert seen == [len(drawn), 359]


def test_the_way_of_resizing_can_be_chosen() -> None:
    """On wide images, squashing and cropping are told apart."""
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 2
    images = rng.integers(0, 256, (60, 8, 24, 1), dtype=np.uint8)
    images[:, :, :8] = images[:, :, 16:] = (labels * 200)[
        :, None, None, None
    ]  # outside of a central crop
    source = Dataset.from_arrays(images, labels)
    one = checkpoint()
    crop, squash, default = (
        evaluate_fewshot(one, source, shots=(20,), seeds=(0,), resize=way).accuracies[
            20
        ][0]
        for way in ("resmall", "resize", None)
    )
    assert squash == 1 > crop == default


def test_too_few_images_are_named() -> None:
    images = np.zeros((7, 8, 8, 1), np.uint8)
    source = Dataset.from_arrays(images, [0, 0, 0, 0, 1, 1, 1], ["cat", "dog"])
    with pytest.raises(
        UserError,
        match="3 shots need as many images of each class to learn from, 'dog' has 2",
    ):
        evaluate_fewshot(checkpoint(), source, shots=(1, 3))
    with pytest.raises(UserError, match="one image per class"):
        evaluate_fewshot(
            checkpoint(), Dataset.from_arrays(images[:2], [0, 1]), shots=(1,)
        )
