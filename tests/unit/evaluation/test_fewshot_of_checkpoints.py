"""Few-shot evaluation of a checkpoint: which images are read, and with what settings."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from mlp_mixer import (
    Checkpoint,
    Dataset,
    MixerConfig,
    MlpMixer,
    Preprocess,
    UserError,
    open_dataset,
)
from mlp_mixer.data.image_set import ImageSet
from mlp_mixer.evaluation import (
    evaluate_checkpoint,
    evaluate_fewshot,
    fewshot_curve,
    knn_accuracy,
)
from mlp_mixer.evaluation import features as features_module
from mlp_mixer.evaluation import fewshot as module
from mlp_mixer.evaluation.splits import support_and_eval_split

DIGITS_HELD_OUT = 351


def one_image(y: np.ndarray) -> float:
    """A bound for accuracies that two programs compute.

    Rounding may break a tie of one image in another way.
    """
    return 1.01 / len(y)


def checkpoint(
    num_classes: int = 0, provenance: dict[str, Any] | None = None
) -> Checkpoint:
    sizes = {"image_size": (8, 8), "in_channels": 1, "num_classes": num_classes}
    model = MlpMixer(MixerConfig(4, 1, 8, 4, 8, **sizes))  # type: ignore[arg-type]
    preprocess = Preprocess((8, 8), channels=1, crop_pct=1.0)
    return Checkpoint(model, preprocess, None, provenance or {})


def names(images: ImageSet) -> set[str]:
    return {images.name(i) for i in range(len(images))}


def test_the_support_and_the_evaluated_images_never_meet() -> None:
    source = open_dataset("digits", split_seed=5, test_fraction=0.3)
    data = {
        "split_by": "image",
        "split_seed": 5,
        "test_fraction": 0.3,
    }
    cases = {
        "20 % held out by seed 0": {},
        "30 % held out by seed 5": {"data": data},
    }
    for words, provenance in cases.items():
        train, chosen = support_and_eval_split("digits", provenance)
        learnt = names(train)
        evaluated = names(chosen.images)
        assert not learnt & evaluated
        assert len(learnt | evaluated) == 1797
        assert chosen.split == f"test ({words})"
    assert evaluated == names(source.test)


def test_a_checkpoint_without_a_head_has_features() -> None:
    torch.manual_seed(0)
    headless = checkpoint()
    how: dict[str, Any] = {"shots": (1, 5), "seeds": (0, 1)}
    result = evaluate_fewshot(headless, "digits", neighbours=3, **how)
    assert (result.classes, len(result.eval_split.images)) == (10, DIGITS_HELD_OUT)
    assert 0.2 < result.accuracies[1][0] < result.accuracies[5][0] <= 1
    with pytest.raises(UserError, match="no classifier .* evaluate its features"):
        evaluate_checkpoint(headless, "digits")
    # The same features one by one.
    source = open_dataset("digits")
    four = []
    for part in (source.train, source.test):
        images = [headless.preprocess(part.image(i)) for i in range(len(part))]
        with torch.inference_mode():
            four += [headless.model(torch.stack(images)), part.labels]
    bound = one_image(source.test.labels)
    for shots, each in fewshot_curve(*four, **how).items():
        assert result.accuracies[shots] == pytest.approx(each, abs=bound)
    assert result.neighbours == pytest.approx(knn_accuracy(*four, k=3), abs=bound)


def test_neighbours_are_asked_for() -> None:
    """They need the features of all images, and change nothing for the linear fit."""
    torch.manual_seed(0)
    headless = checkpoint()
    how: dict[str, Any] = {"shots": (2,), "seeds": (0,)}
    without = evaluate_fewshot(headless, "digits", **how)
    asked = evaluate_fewshot(headless, "digits", neighbours=3, **how)
    assert without.neighbours is None
    assert asked.neighbours is not None
    bound = one_image(without.eval_split.images.labels)
    assert asked.accuracies[2] == pytest.approx(without.accuracies[2], abs=bound)


def test_a_head_and_its_mode_change_nothing() -> None:
    torch.manual_seed(1)
    headless = checkpoint()
    headed = checkpoint(num_classes=7)
    headed.model.load_state_dict(headless.model.state_dict(), strict=False)
    headed.model.train()
    first = evaluate_fewshot(headless, "digits", shots=(2,), seeds=(0,))
    second = evaluate_fewshot(headed, "digits", shots=(2,), seeds=(0,))
    assert first.accuracies == second.accuracies
    assert headed.model.training


def test_only_what_some_seed_draws_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    source = open_dataset("digits")
    seen: list[int] = []

    def noted(model: Any, compute: Any, images: ImageSet, *_: Any, **__: Any) -> Any:
        seen.append(len(images))
        return torch.rand(len(images), 8)

    monkeypatch.setattr(features_module, "outputs", noted)
    evaluate_fewshot(checkpoint(), source, shots=(1, 3), seeds=(0, 1))
    drawn: set[int] = set()
    for seed in (0, 1):
        drawn |= {*module.support(source.train.labels, 3, seed, range(10))}
    assert seen == [len(drawn), DIGITS_HELD_OUT]


def test_the_way_of_resizing_can_be_chosen() -> None:
    """On wide images, squashing and cropping are told apart."""
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 2
    images = rng.integers(0, 256, (60, 8, 24, 1), dtype=np.uint8)
    # What tells the classes apart is outside of a central crop.
    values = (labels * 200)[:, None, None, None]
    images[:, :, :8] = values
    images[:, :, 16:] = values
    source = Dataset.from_arrays(images, labels)
    one = checkpoint()

    def accuracy(resize: Any) -> float:
        result = evaluate_fewshot(one, source, shots=(20,), seeds=(0,), resize=resize)
        return result.accuracies[20][0]

    assert accuracy("resize") == 1
    assert accuracy("resmall") == accuracy(None) < 1


def test_too_few_images_are_named() -> None:
    images = np.arange(7 * 64, dtype=np.uint8).reshape(7, 8, 8, 1)
    source = Dataset.from_arrays(
        images, [0, 0, 0, 0, 1, 1, 1], ["cat", "dog"], test_fraction=0.01
    )
    message = "3 shots need as many images of each class to learn from, 'dog' has 2"
    with pytest.raises(UserError, match=message):
        evaluate_fewshot(checkpoint(), source, shots=(1, 3))
    single = Dataset.from_arrays(images[:2], [0, 1])
    with pytest.raises(UserError, match="one image per class"):
        evaluate_fewshot(checkpoint(), single, shots=(1,))


def test_what_is_asked_for_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def features(*some: Any, **how: Any) -> Any:
        seen.update(how)
        return plain(*some, **how)

    def curve(*four: Any, **how: Any) -> Any:
        seen.update(how)
        return fewshot_curve(*four, **how)

    plain = module.split_features
    monkeypatch.setattr(module, "split_features", features)
    monkeypatch.setattr(module, "fewshot_curve", curve)
    done: list[int] = []
    evaluate_fewshot(
        checkpoint(),
        "digits",
        shots=(2,),
        seeds=(3,),
        l2=7.0,
        batch_size=31,
        device="cpu",
        progress=lambda number, total: done.append(number),
    )
    assert (seen["l2"], seen["batch_size"], seen["device"]) == (7.0, 31, "cpu")
    assert (seen["shots"], seen["seeds"]) == ((2,), (3,))
    assert done


def test_small_features_are_whitened_as_the_others_do() -> None:
    """1e-5 is added to a deviation, as in big_vision: tiny features count less."""
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(2), 200)
    told = (2 * y - 1)[:, None] * 2e-6 + rng.normal(0, 1e-6, (400, 1))
    noise = rng.normal(0, 1, (400, 8))
    x = np.concatenate([told, noise], axis=1)
    order = rng.permutation(400)
    x, y = x[order], y[order]
    half = slice(0, 200), slice(200, 400)
    four = x[half[0]], y[half[0]], x[half[1]], y[half[1]]
    found = module.fewshot_accuracy(*four, shots=50, seed=0, l2=100.0)
    # By hand, on the same support: ridge regression of +-1, no penalty left out.
    rows = module.support(four[1], 50, 0, "ab")
    chosen = four[0][rows]
    mean, std = chosen.mean(0), chosen.std(0) + 1e-5
    a = np.pad((chosen - mean) / std, ((0, 0), (0, 1)), constant_values=10.0)
    targets = 2.0 * (four[1][rows][:, None] == np.arange(2)) - 1
    weights = np.linalg.solve(a.T @ a + 100 * np.eye(a.shape[1]), a.T @ targets)
    tested = np.pad((four[2] - mean) / std, ((0, 0), (0, 1)), constant_values=10.0)
    expected = float(((tested @ weights).argmax(1) == four[3]).mean())
    assert found == pytest.approx(expected, abs=one_image(four[3]))
    assert expected < 0.97, "one that whitens tiny features too is right always"
