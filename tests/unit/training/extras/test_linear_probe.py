"""A linear probe: against scikit-learn on the same features, and what it leaves."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.model_selection import cross_validate as cross_validate_by_sklearn

from mlp_mixer import Dataset, UserError, create_model, load, open_dataset, save
from mlp_mixer.data import ArraySet, ImageSet
from mlp_mixer.evaluation import evaluate_checkpoint
from mlp_mixer.evaluation.features import pooled_features
from mlp_mixer.evaluation.logistic import (
    FOLDS,
    STRENGTHS,
    cross_validate,
    fit_logistic,
)
from mlp_mixer.intervals import wilson_interval
from mlp_mixer.training.config import (
    DataChoice,
    LoopChoice,
    ModelChoice,
    TrainConfig,
)
from mlp_mixer.training.extras.linear_probe import fit_head
from mlp_mixer.training.journal import read_journal


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Features that nobody trained, which separate digits well enough."""
    torch.manual_seed(0)
    model = create_model(
        "mixer_pico2", num_classes=0, in_channels=1, image_size=8, gelu="erf"
    )
    return save(tmp_path_factory.mktemp("weights") / "features.safetensors", model)


def config(weights: Path, **data: float) -> TrainConfig:
    return TrainConfig(
        model=ModelChoice(init=str(weights)),
        data=DataChoice(source="digits", val_fraction=0.2, **data),
    )


def some(classes: tuple[int, ...]) -> Dataset:
    digits = open_dataset("digits").train
    assert isinstance(digits, ArraySet)
    rows = [i for i, label in enumerate(digits.labels) if label in classes]
    names = [str(number) for number in range(10)]
    return Dataset.from_arrays(digits.images[rows], digits.labels[rows], names)


def learnt_from(out: Path, source: Dataset) -> ImageSet:
    """The images that split.csv calls training images."""
    position = {source.train.name(i): i for i in range(len(source.train))}
    rows = []
    with (out / "split.csv").open() as file:
        for line in csv.DictReader(file):
            if line["split"] == "train":
                rows.append(position[line["path"]])
    return source.train.subset(rows)


@pytest.mark.parametrize(
    "classes", [(3, 7), (0, 1, 5, 9)], ids=["two classes", "four of ten"]
)
def test_the_head_is_scikit_learns_and_nothing_else_moves(
    weights: Path, tmp_path: Path, classes: tuple[int, ...]
) -> None:
    source = some(classes)
    said: list[str] = []

    def report(row: dict[str, Any]) -> None:
        said.append(row["text"])

    row = fit_head(config(weights), tmp_path, source=source, report=report)
    trained = load(tmp_path)
    for name, tensor in load(weights).model.state_dict().items():
        assert torch.equal(trained.model.state_dict()[name], tensor), name

    # The folds have chosen, and judged each image once.
    strength = float(said[-1].rsplit("= ", 1)[1])
    assert strength in STRENGTHS
    assert row["split"] == "5-fold cross-validation"
    assert row["n"] == len(source.train)

    learnt = learnt_from(tmp_path, source)
    x = pooled_features(trained.model, learnt, trained.preprocess)
    mean = x.mean(axis=0)
    std = x.std(axis=0) + 1e-6
    reference = LogisticRegression(C=strength, max_iter=500)
    reference.fit((x - mean) / std, learnt.labels)

    assert source.test is not None
    unseen = pooled_features(trained.model, source.test, trained.preprocess)
    logits = trained.model.head(torch.from_numpy(unseen)).detach()
    shares = logits.softmax(1)[:, list(classes)]
    expected = reference.predict_proba((unseen - mean) / std)
    np.testing.assert_allclose(shares, expected, atol=2e-3)

    # Two programs may differ about an image between two classes.
    answers = reference.predict((unseen - mean) / std)
    right = float(np.mean(answers == source.test.labels))
    found = evaluate_checkpoint(trained, source)[1].top1
    assert found == pytest.approx(right, abs=1.01 / len(unseen))


def test_the_folds_are_scikit_learns() -> None:
    """The strength with the least loss over the same folds, and their accuracy."""
    x, y = features()
    groups = np.arange(len(y))
    found = cross_validate(x, y, groups, 3, seed=4)
    assert found is not None
    splitter = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=4)
    folds = list(splitter.split(x, y, groups))
    losses = {}
    hits = {}
    for strength in STRENGTHS:
        model = LogisticRegression(C=strength, max_iter=500)
        how = {"cv": folds, "scoring": ("neg_log_loss", "accuracy")}
        scores = cross_validate_by_sklearn(model, x, y, **how)
        sizes = [len(fold) for _, fold in folds]
        losses[strength] = -np.average(scores["test_neg_log_loss"], weights=sizes)
        hits[strength] = scores["test_accuracy"]
    assert found.strength == min(losses, key=losses.__getitem__)
    for strength, loss in losses.items():
        assert found.losses[strength] == pytest.approx(loss, abs=1e-3)
    np.testing.assert_allclose(found.fold_top1, hits[found.strength], atol=0.03)
    assert found.top1 == pytest.approx(np.mean(found.fold_top1), abs=0.02)


def features() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    y = np.arange(150) % 3
    x = rng.normal(size=(150, 20))
    x[np.arange(150), y] += 1.5
    return x, y


def test_what_the_folds_announce_is_what_new_images_get() -> None:
    """Over many draws of few images, as a tenth of them could never say."""
    rng = np.random.default_rng(1)
    differences = []
    held = 0
    for _ in range(20):
        y = np.arange(90) % 3
        x = rng.normal(size=(90, 10))
        x[np.arange(90), y] += 1.5
        found = cross_validate(x, y, np.arange(90), 3)
        assert found is not None
        new_y = np.arange(3000) % 3
        new = rng.normal(size=(3000, 10))
        new[np.arange(3000), new_y] += 1.5
        head = fit_logistic(x, y, strength=found.strength, most_steps=500)
        answers = (new @ head.weight.T + head.bias).argmax(axis=1)
        truth = float((answers == new_y).mean())
        differences.append(found.top1 - truth)
        low, high = wilson_interval(found.top1 * 90, 90)
        held += low <= truth <= high
    assert abs(np.mean(differences)) < 0.02
    assert held >= 18


def test_copies_of_a_picture_stay_in_one_fold() -> None:
    """Labels by chance, every image twice: copies across folds would be recognised."""
    rng = np.random.default_rng(2)
    x = np.repeat(rng.normal(size=(60, 200)), 2, axis=0)
    y = np.repeat(rng.integers(0, 2, 60), 2)
    apart = cross_validate(x, y, np.arange(120), 2)
    together = cross_validate(x, y, np.repeat(np.arange(60), 2), 2)
    assert apart is not None
    assert together is not None
    assert apart.top1 > 0.9
    assert abs(together.top1 - 0.5) < 0.25


def test_too_few_images_to_choose_announce_nothing() -> None:
    x = np.eye(4)
    y = np.array([0, 0, 0, 1])
    assert cross_validate(x, y, np.arange(4), 2) is None
    assert cross_validate(x, y, np.zeros(4, int), 2) is None


@pytest.mark.parametrize("classes", [2, 3])
def test_a_fit_has_a_row_for_each_class(classes: int) -> None:
    rng = np.random.default_rng(0)
    y = np.arange(60) % classes
    x = rng.normal(size=(60, 5)) + y[:, None]
    fitted = fit_logistic(x, y + 4, strength=1.0, most_steps=500)
    assert fitted.classes.tolist() == [4, 5, 6][:classes]
    assert fitted.weight.shape == (classes, 5)
    reference = LogisticRegression(max_iter=500).fit(x, y)
    logits = torch.from_numpy(x @ fitted.weight.T + fitted.bias)
    expected = reference.predict_proba(x)
    np.testing.assert_allclose(logits.softmax(1), expected, atol=1e-6)


def test_it_leaves_what_a_run_leaves(weights: Path, tmp_path: Path) -> None:
    best = fit_head(config(weights), tmp_path)
    assert best["top1"] > 0.6  # of ten digits
    assert {path.name for path in tmp_path.iterdir()} == {
        "best.safetensors",
        "last.safetensors",
        "config.json",
        "metrics.jsonl",
        "split.csv",
    }
    provenance = load(tmp_path).provenance
    assert provenance["precision"] == "fp32", "features are, whatever a trial says"
    assert provenance["measured"]["top1"] == best["top1"]
    rows = read_journal(tmp_path)
    assert [row["kind"] for row in rows] == ["note", "note", "eval"]
    assert "only the head was learnt" in rows[1]["text"]
    with pytest.raises(UserError, match="already holds a run"):
        fit_head(config(weights), tmp_path)
    fit_head(config(weights), tmp_path, overwrite=True)


def test_mistakes(weights: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="frozen features need weights"):
        fit_head(TrainConfig(), tmp_path / "a")
    with pytest.raises(UserError, match="are of one class; a classifier needs two"):
        fit_head(config(weights), tmp_path / "b", source=some((4,)))
    assert not (tmp_path / "b").exists()


def test_every_image_is_seen_once_whatever_states_the_length(
    weights: Path, tmp_path: Path
) -> None:
    """`finetune` states its length in images, and the checkpoint said those epochs."""
    lengths = (LoopChoice(images=50_000), LoopChoice(steps=700), LoopChoice(epochs=9))
    for number, length in enumerate(lengths):
        out = tmp_path / str(number)
        fit_head(dataclasses.replace(config(weights), train=length), out)
        assert load(out).provenance["epochs"] == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("scale", [3e38, 1e25, -1e30])
def test_features_that_are_no_numbers_are_one_sentence(
    weights: Path, tmp_path: Path, scale: float
) -> None:
    model = load(weights).model
    with torch.no_grad():
        # Finite weights, whose products are not.
        for block in model.blocks:
            block.mlp_channels.fc1.weight.fill_(scale)
            block.mlp_channels.fc2.weight.fill_(scale)
    huge = save(tmp_path / "huge.safetensors", model)
    with pytest.raises(UserError, match="values that are not finite numbers"):
        fit_head(config(huge), tmp_path / "run")
    assert not (tmp_path / "run" / "config.json").exists()
