"""A head of one class says yes or no: its score is a sigmoid, wherever it is told."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import mlp_mixer as mm
from mlp_mixer.analysis.explain import maps
from mlp_mixer.exporting.run import _description

PICTURE = np.zeros((8, 8, 3), np.uint8)


def one_class(bias: float, **provenance: Any) -> mm.Checkpoint:
    """A network that answers every picture with one logit, the bias."""
    model = mm.create_model("mixer_pico2", num_blocks=1, num_classes=1, gelu="erf")
    torch.nn.init.constant_(model.head.bias, bias)  # type: ignore[union-attr,arg-type]
    return mm.Checkpoint(model, mm.Preprocess((8, 8)), provenance=provenance)


@pytest.mark.parametrize("bias", [-9.0, -2.0, 0.0, 2.0])
@pytest.mark.parametrize("head", ["softmax", "sigmoid", "semantic softmax", None])
def test_its_score_is_the_sigmoid_of_its_logit(bias: float, head: str | None) -> None:
    checkpoint = one_class(bias, **({"head": head} if head else {}))
    expected = 1 / (1 + math.exp(-bias))
    answer = mm.Predictor(checkpoint)(PICTURE)
    assert answer.pred_score == pytest.approx(expected, rel=1e-5)
    assert answer.score_kind == "sigmoid"
    found = mm.inference_model(checkpoint, PICTURE)
    assert found["pred_scores"].tolist() == pytest.approx([expected], rel=1e-5)


def test_a_foreign_file_of_one_class_says_so(tmp_path: Path) -> None:
    path = tmp_path / "one.pt"
    torch.save(one_class(-2.0).model.state_dict(), path)
    assert mm.load(path).provenance["head"] == "sigmoid"
    (answer,) = mm.predict(path, PICTURE)
    assert isinstance(answer, mm.Prediction)
    assert answer.pred_score == pytest.approx(1 / (1 + math.exp(2)), rel=1e-5)


def test_transformers_is_told_by_the_folder(tmp_path: Path) -> None:
    with torch.device("meta"):
        model = mm.create_model("mixer_s32", num_classes=1, gelu="erf")
    model.to_empty(device="cpu")
    for parameter in model.parameters():
        torch.nn.init.zeros_(parameter)
    mm.save_pretrained(mm.Checkpoint(model, mm.Preprocess((224, 224))), tmp_path)
    described = json.loads((tmp_path / "config.json").read_text())
    assert described["problem_type"] == "multi_label_classification"


@pytest.mark.parametrize("where", ["inside", "beside"])
def test_the_file_beside_an_export_says_so(where: str) -> None:
    pixels = np.zeros((2, 3, 8, 8), np.float32)
    described = _description(one_class(-2.0, head="softmax"), where, pixels)
    assert described["scores"] == "sigmoid"


def test_an_explanation_is_not_empty() -> None:
    model = one_class(0.5).model.eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    image = torch.rand(1, 3, 8, 8)
    assert np.abs(maps(model, image, 0, "occlusion")).max() > 1e-4


@pytest.mark.parametrize("classes", [None, ["cat"], ["cat", "dog"]])
def test_images_of_one_class_are_refused_before_anything_is_learnt(
    tmp_path: Path, classes: list[str] | None
) -> None:
    images = np.random.default_rng(0).integers(0, 256, (12, 8, 8), np.uint8)
    data = mm.Dataset.from_arrays(images, np.zeros(12, int), classes)
    for run in (
        lambda: mm.train("digits", tmp_path / "a", data=data),
        lambda: mm.finetune("scratch", data, tmp_path / "b"),
        lambda: mm.MixerClassifier().fit(images.reshape(12, -1), ["x"] * 12),
    ):
        with pytest.raises(mm.UserError, match="one class"):
            run()


def test_a_file_of_arrays_of_one_class_is_refused(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), np.uint8)
    np.savez(tmp_path / "one.npz", x_train=images, y_train=np.zeros(12, int))
    spec = f"npz:{tmp_path / 'one.npz'}"
    with pytest.raises(mm.UserError, match="one class"):
        mm.finetune("scratch", spec, tmp_path / "run")
    with pytest.raises(mm.UserError, match="one class"):
        mm.evaluate(one_class(1.0), spec)


def test_several_labels_may_be_of_a_single_class(tmp_path: Path) -> None:
    """Yes or no for each image is no single answer."""
    images = np.random.default_rng(0).integers(0, 256, (16, 8, 8), np.uint8)
    data = mm.Dataset.from_arrays(images, targets=np.arange(16)[:, None] % 2)
    settings = {"train.epochs": 1, "model.num_blocks": 1}
    mm.train("digits", tmp_path, data=data, settings=settings)
    answer = mm.Predictor(tmp_path)(images[0])
    assert answer.score_kind == "sigmoid"
