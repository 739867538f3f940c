"""`inference_model` gives what mmpretrain's function of this name gives."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import mlp_mixer.inference.predictor
from mlp_mixer import (
    Checkpoint,
    Predictor,
    UserError,
    load,
    save,
)
from mlp_mixer.inference import inference_model


def test_the_result_of_inference_model(
    checkpoint: Checkpoint, pictures: list[Path], tmp_path: Path
) -> None:
    file = save(
        tmp_path / "m.safetensors",
        checkpoint.model,
        preprocess=checkpoint.preprocess,
        labels="abcdef",
    )
    expected = Predictor(checkpoint)(pictures[0])
    for model in (checkpoint, Predictor(checkpoint), file, str(file)):
        answer = inference_model(model, pictures[0])
        assert set(answer) == {"pred_scores", "pred_label", "pred_score", "pred_class"}
        assert type(answer["pred_label"]) is int
        assert type(answer["pred_score"]) is float
        assert answer["pred_label"] == expected.pred_label
        assert answer["pred_class"] == expected.pred_class
        assert answer["pred_score"] == answer["pred_scores"].max()
        # Several engines may answer, so the scores differ by rounding.
        assert answer["pred_score"] == pytest.approx(expected.pred_score, abs=5e-6)
        assert answer["pred_scores"].shape == (6,)
        assert answer["pred_scores"].dtype == np.float32
        assert answer["pred_scores"].sum() == pytest.approx(1)
    nameless = dataclasses.replace(checkpoint, labels=None)
    assert set(inference_model(nameless, pictures[0])) == {
        "pred_scores",
        "pred_label",
        "pred_score",
    }
    with pytest.raises(UserError, match="nowhere"):
        inference_model(checkpoint, "nowhere.png")


def test_a_model_is_loaded_once_until_its_file_changes(
    checkpoint: Checkpoint,
    pictures: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loaded: list[str] = []

    def counted(source: str, **options: Any) -> Checkpoint:
        loaded.append(Path(source).name)
        return load(source, **options)

    def write(bias: float) -> None:
        head = checkpoint.model.get_classifier()
        assert isinstance(head, torch.nn.Linear)
        torch.nn.init.constant_(head.weight, 0)
        torch.nn.init.constant_(head.bias, 0)
        head.bias.data[3] = bias
        for name in ("run/best.safetensors", "m.safetensors"):
            save(tmp_path / name, checkpoint.model, preprocess=checkpoint.preprocess)

    monkeypatch.setattr(mlp_mixer.inference.predictor, "load", counted)
    write(1)
    for _ in range(3):
        for source in (tmp_path / "run", str(tmp_path / "m.safetensors")):
            assert inference_model(source, pictures[0])["pred_label"] == 3
    assert loaded == ["run", "m.safetensors"]
    write(-1)
    for source in ("run", "m.safetensors"):
        assert inference_model(tmp_path / source, pictures[0])["pred_label"] != 3
    assert loaded == ["run", "m.safetensors"] * 2
    for folder in ("here", "there"):  # one relative name, two files
        labels = [f"{folder} {k}" for k in range(6)]
        save(
            tmp_path / folder / "x.safetensors",
            checkpoint.model,
            preprocess=checkpoint.preprocess,
            labels=labels,
        )
        monkeypatch.chdir(tmp_path / folder)
        answer = inference_model("x.safetensors", pictures[0])
        assert answer["pred_class"].startswith(folder)


@pytest.mark.parametrize("device", ["nonsense", "cuda:99", "meta:x"])
def test_a_device_that_is_not_there_is_one_sentence(
    checkpoint: Checkpoint, pictures: list[Path], tmp_path: Path, device: str
) -> None:
    file = save(tmp_path / "m.safetensors", checkpoint.model)
    for model in (checkpoint, file):
        with pytest.raises(UserError, match="cannot use the device") as caught:
            inference_model(model, pictures[0], device=device)
        assert "\n" not in str(caught.value)
