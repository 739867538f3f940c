"""Only the head: against scikit-learn on the same features, and what a run leaves
behind.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from mlp_mixer import Dataset, UserError, create_model, load, open_dataset, save
from mlp_mixer.data import ArraySet
from mlp_mixer.evaluation import evaluate_checkpoint
from mlp_mixer.evaluation.fewshot import pooled_features
from mlp_mixer.training.config import DataChoice, ModelChoice, TrainConfig
from mlp_mixer.training.extras.linear_probe import STRENGTHS, fit_head


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


@pytest.mark.parametrize(
    "classes", [(3, 7), (0, 1, 5, 9)], ids=["two classes", "four of ten"]
)
def test_the_head_is_scikit_learns_and_nothing_else_moves(
    weights: Path, tmp_path: Path, classes: tuple[int, ...]
) -> None:
    said: list[str] = []
    row = fit_head(
        config(weights),
        tmp_path,
        source=some(classes),
        report=lambda row: said.append(row["text"]),
    )
    trained = load(tmp_path)
    before = load(weights)
    for name, tensor in before.model.state_dict().items():
        assert torch.equal(trained.model.state_dict()[name], tensor), name
    strength = float(said[-1].rsplit("= ", 1)[1])
    assert strength in STRENGTHS
    assert len([text for text in said if text.startswith("C = ")]) == len(STRENGTHS)
    with (tmp_path / "split.csv").open() as file:
        parts = {
            part: [line for line in csv.DictReader(file) if line["split"] == part]
            for part in ("train",)
        }
    source = some(classes)
    position = {source.train.name(index): index for index in range(len(source.train))}
    learnt = source.train.subset([position[line["path"]] for line in parts["train"]])
    x = pooled_features(trained.model, learnt, trained.preprocess)
    mean = x.mean(axis=0)
    std = x.std(axis=0) + 1e-6
    reference = LogisticRegression(C=strength, max_iter=500).fit(
        (x - mean) / std, learnt.labels
    )
    assert source.test is not None
    unseen = pooled_features(trained.model, source.test, trained.preprocess)
    logits = (
        torch.from_numpy(unseen) @ trained.model.head.weight.T + trained.model.head.bias
    )
    expected = reference.predict_proba((unseen - mean) / std)
    np.testing.assert_allclose(
        logits.softmax(1).detach()[:, list(classes)], expected, atol=2e-3
    )
    tried = [float(text.split()[-2]) for text in said if text.startswith("C = ")]
    assert 100 * row["top1"] == pytest.approx(max(tried), abs=0.005)
    assert evaluate_checkpoint(trained, source)[1].top1 == np.mean(
        reference.predict((unseen - mean) / std) == source.test.labels
    )


def test_it_leaves_what_a_run_leaves(weights: Path, tmp_path: Path) -> None:
    best = fit_head(config(weights), tmp_path)
    assert best["top1"] > 0.6  # of ten digits
    assert {path.name for path in tmp_path.iterdir()} == {
        *(
            "best.safetensors",
            "last.safetensors",
            "config.json",
            "metrics.jsonl",
            "split.csv",
        ),
    }
    provenance = load(tmp_path).provenance
    assert provenance["measured"]["top1"] == best["top1"]
    rows = [
        json.loads(line)
        for line in (tmp_path / "metrics.jsonl").read_text().splitlines()
    ]
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
