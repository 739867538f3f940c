"""Few-shot against big_vision's numbers and a plain solve, k-NN against scikit-learn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from mlp_mixer import (
    UserError,
)
from mlp_mixer.evaluation import fewshot as module
from mlp_mixer.evaluation import (
    fewshot_accuracy,
    fewshot_curve,
    knn_accuracy,
)

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

    def around(y: np.ndarray) -> np.ndarray:
        cloud = centres[y] + rng.normal(size=(len(y), dim)) * 1.5
        return (cloud * scale + shift).astype(np.float32)

    return around(y_train), y_train, around(y_test), y_test


def one_image(y: np.ndarray) -> float:
    """A bound for accuracies that two programs compute.

    Rounding may break a tie of one image in another way.
    """
    return 1.01 / len(y)


def test_big_visions_own_accuracies(shared: Path) -> None:
    """Eleven of twelve to the sample.

    The twelfth holds a tie, which fp32 and fp64 break differently.
    """
    folder = shared / "golden" / "fewshot_a"
    features = np.load(folder / "features.npz")
    expected = json.loads((folder / "expected.json").read_text())["accuracy"]
    names = ("x_train", "y_train", "x_test", "y_test")
    curve = fewshot_curve(*(features[name] for name in names))
    off = []
    for n, each in curve.items():
        for seed, accuracy in each.items():
            theirs = expected.pop(f"seed{seed}_shots{n}")
            off.append(round(800 * (accuracy - theirs), 3))
    assert not expected
    assert max(map(abs, off)) <= 1
    assert off.count(0) >= 11


def by_plain_solve(
    x: np.ndarray, y: np.ndarray, x_test: np.ndarray, classes: int, l2: float
) -> np.ndarray:
    """Scores (m, K) from the normal equations, written independently."""
    mean = x.mean(0, dtype=np.float64)
    std = x.std(0, dtype=np.float64) + 1e-5

    def whitened(part: np.ndarray) -> np.ndarray:
        constant = np.full((len(part), 1), 100.0)
        return np.hstack([(part - mean) / std, constant])

    a = whitened(x)
    targets = np.where(y[:, None] == np.arange(classes), 1.0, -1.0)
    square = a.T @ a + l2 * np.eye(a.shape[1])
    return whitened(x_test) @ np.linalg.solve(square, a.T @ targets)


# Both sides of N = D, with D = dim + 1 for the bias: N = 20 against 7, 20, 21, 61
# columns, and more.
SIZES = [(6, 1), (6, 10), (19, 5), (20, 5), (60, 5), (1, 1)]


@pytest.mark.parametrize("l2", [2.0**-6, 1.0, 2.0**10])
@pytest.mark.parametrize(("dim", "shots"), SIZES)
def test_a_plain_solve_gives_the_same(dim: int, shots: int, l2: float) -> None:
    four = blobs(dim)
    x_train, y_train, x_test, y_test = four
    rng = np.random.default_rng(7)
    members = [rng.permutation(np.where(y_train == k)[0])[:shots] for k in range(4)]
    chosen = np.concatenate(members)
    x = x_train[chosen]
    y = y_train[chosen]
    scores = by_plain_solve(x, y, x_test, 4, l2)
    expected = (scores.argmax(1) == y_test).mean()
    ours = fewshot_accuracy(*four, shots=shots, seed=7, l2=l2)
    assert ours == pytest.approx(expected, abs=one_image(y_test))


@pytest.mark.parametrize("l2", [2.0**-6, 1.0, 2.0**10])
@pytest.mark.parametrize(("dim", "shots"), SIZES)
def test_the_ridge_solves_the_normal_equations(dim: int, shots: int, l2: float) -> None:
    x_train, y_train, _, _ = blobs(dim)
    chosen = module.support(y_train, shots, 7, range(4))
    x = x_train[chosen].astype(np.float64)
    x = np.pad(x, ((0, 0), (0, 1)), constant_values=100.0)
    targets = np.where(y_train[chosen][:, None] == np.arange(4), 1.0, -1.0)
    exact = np.linalg.solve(x.T @ x + l2 * np.eye(dim + 1), x.T @ targets)
    ours = module._ridge(x, targets, l2)
    np.testing.assert_allclose(ours, exact, rtol=1e-6, atol=1e-8)


def test_support_is_the_head_of_each_classs_permutation_by_one_generator() -> None:
    labels = np.array([2, 0, 1, 1, 0, 2, 0, 1, 2, 0])
    rng = np.random.default_rng(3)
    permuted = [rng.permutation(np.where(labels == k)[0]) for k in range(3)]
    for shots in (1, 2, 3):
        chosen = module.support(labels, shots, 3, "abc")
        expected = np.concatenate([members[:shots] for members in permuted])
        assert chosen.tolist() == expected.tolist()
    message = "4 shots need as many images of each class to learn from, 'b' has 3"
    with pytest.raises(UserError, match=message):
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
    y_test = np.array([0, 0, 1])
    for dim in (1, 9):
        x = np.ones((4, dim))
        assert fewshot_accuracy(x, y, x[:3], y_test, shots=2, seed=0) == 2 / 3
        assert knn_accuracy(x, y, x[:3], y_test, k=4) == 2 / 3


def test_a_small_memory_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    four = blobs(7)
    bound = one_image(four[3])
    linear = fewshot_accuracy(*four, shots=5, seed=0)
    vote = knn_accuracy(*four)
    # Several slices, the last one short.
    monkeypatch.setattr(module, "_MOST", 500)
    again = fewshot_accuracy(*four, shots=5, seed=0)
    assert again == pytest.approx(linear, abs=bound)
    assert knn_accuracy(*four) == pytest.approx(vote, abs=bound)


@pytest.mark.parametrize(
    "dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64]
)
def test_tensors_and_read_only_arrays(dtype: torch.dtype) -> None:
    x_train, y_train, x_test, y_test = blobs(7)
    tensors = [torch.from_numpy(x).to(dtype) for x in (x_train, x_test)]
    arrays = [x.float().numpy() for x in tensors]
    for array in (*arrays, y_train, y_test):
        array.flags.writeable = False
    x = tensors[0].requires_grad_()
    y = torch.tensor(y_train)
    as_tensors = (x, y, tensors[1], torch.tensor(y_test).byte())
    as_arrays = (arrays[0], y_train, arrays[1], y_test)
    linear = fewshot_accuracy(*as_arrays, shots=5, seed=0)
    assert fewshot_accuracy(*as_tensors, shots=5, seed=0) == linear > 0.5
    assert knn_accuracy(*as_tensors) == knn_accuracy(*as_arrays) > 0.4


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.uint64])
def test_labels_of_any_integers(dtype: Any) -> None:
    y = np.arange(301, dtype=dtype)
    x = np.eye(301)
    forward = [3, 300]
    backward = [300, 3]
    four = (x[forward], y[forward], x[backward], y[backward])
    assert knn_accuracy(*four, k=1) == 1
    assert fewshot_accuracy(x, y, x, y, shots=1, seed=0) == 1


MISFITS = [
    ({"x_test": np.zeros((4, 3))}, r"features are \(4, 3\) and their labels \(4,\)"),
    ({"x_train": np.zeros(4)}, r"features are \(4,\)"),
    ({"y_train": np.zeros(3, int)}, r"features are \(4, 2\) and their labels \(3,\)"),
    ({"x_test": np.zeros((0, 2)), "y_test": np.zeros(0, int)}, "n > 0"),
    ({"y_test": np.zeros(4)}, "labels are float64"),
    ({"y_test": np.array([0, 1, -1, 0])}, "labels are int64 from -1"),
    ({"x_train": np.full((4, 2), np.nan)}, "not finite"),
    ({"x_test": np.full((4, 2), np.inf)}, "not finite"),
]


@pytest.mark.parametrize(("change", "message"), MISFITS)
def test_what_does_not_fit(change: dict[str, np.ndarray], message: str) -> None:
    x = np.arange(8.0).reshape(4, 2)
    y = np.array([0, 1, 0, 1])
    four = {"x_train": x, "y_train": y, "x_test": x, "y_test": y} | change
    with pytest.raises(UserError, match=message):
        fewshot_accuracy(**four, shots=1, seed=0)
    with pytest.raises(UserError, match=message):
        knn_accuracy(**four, k=2)


def test_numbers_that_mean_nothing() -> None:
    x = np.arange(8.0).reshape(4, 2)
    y = np.array([0, 1, 0, 1])
    for shots in (3, 0, -1):
        with pytest.raises(UserError, match=f"{shots} shots need .* 0 has 2"):
            fewshot_accuracy(x, y, x, y, shots=shots, seed=0)
    only_tested = np.array([0, 1, 0, 3])
    with pytest.raises(UserError, match="1 shots need .* 2 has 0"):
        fewshot_accuracy(x, y, x, only_tested, shots=1, seed=0)
    for l2 in (0, -1, float("nan"), float("inf")):
        with pytest.raises(UserError, match="expected a number above 0, such as 1024"):
            fewshot_accuracy(x, y, x, y, shots=1, seed=0, l2=l2)
    for k in (0, 5):
        with pytest.raises(UserError, match=f"k is {k}: expected 1 to 4"):
            knn_accuracy(x, y, x, y, k=k)
    with pytest.raises(UserError, match="temperature is 0"):
        knn_accuracy(x, y, x, y, k=1, temperature=0)


VOTES = [(1, 0.07), (5, 0.07), (20, 0.07), (20, 1e-4), (120, 0.5)]


@pytest.mark.parametrize(("gap", "winner"), [(0.205, 0), (0.207, 1)])
def test_knn_is_by_default_that_of_dino(gap: float, winner: int) -> None:
    """Twenty neighbours with T = 0.07: 19 of one class weigh about as much as one nearer.

    exp(-0.205 / 0.07) is 1 / 18.7, and exp(-0.207 / 0.07) is 1 / 19.2. A 21st neighbour,
    just behind, would turn the first; without the 20th it would be turned too.
    """
    cosines = np.array([0.9, *[0.9 - gap] * 19, *[0.899 - gap] * 8])
    x = np.stack([cosines, np.sin(np.arccos(cosines))], axis=1)
    labels = np.array([1, *[0] * 19, *[1] * 8])
    query = np.array([[1.0, 0.0]])
    assert knn_accuracy(x, labels, query, np.array([winner])) == 1


@pytest.mark.parametrize(("k", "temperature"), VOTES)
def test_knn_is_scikit_learns_with_these_weights(k: int, temperature: float) -> None:
    x_train, y_train, x_test, y_test = blobs(7)

    def votes(distances: np.ndarray) -> np.ndarray:
        # The distance of a cosine c is 1 - c.
        nearest = distances.min(axis=1, keepdims=True)
        return np.exp((nearest - distances) / temperature)

    theirs = KNeighborsClassifier(
        k, weights=votes, algorithm="brute", metric="cosine"
    ).fit(x_train, y_train)
    found = (theirs.predict(x_test) == y_test).mean()
    expected = pytest.approx(found, abs=one_image(y_test))
    how: dict[str, Any] = {"k": k, "temperature": temperature}
    assert knn_accuracy(x_train, y_train, x_test, y_test, **how) == expected
    # The length of a vector says nothing.
    longer = x_train * np.linspace(1, 99, len(x_train))[:, None]
    assert knn_accuracy(longer, y_train, x_test * 7, y_test, **how) == expected
