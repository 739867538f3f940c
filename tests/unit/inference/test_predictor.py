"""Predictor: one answer per picture, in order, bad ones reported; features by name."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import mlp_mixer.inference.predictor
from mlp_mixer import (
    Checkpoint,
    Failure,
    Prediction,
    Predictor,
    Preprocess,
    UserError,
    create_model,
)
from mlp_mixer.devices import pick_device
from mlp_mixer.inference import Features, inference_model


def test_the_answer_is_the_models(checkpoint: Checkpoint, pictures: list[Path]) -> None:
    predictor = Predictor(checkpoint, top=3)
    answer = predictor(pictures[0])
    x = checkpoint.preprocess(np.array(Image.open(pictures[0])))[None]
    expected = checkpoint.model(x).softmax(dim=1)[0]
    assert answer.pred_label == expected.argmax().item()
    assert answer.pred_class == "abcdef"[answer.pred_label]
    assert answer.pred_score == pytest.approx(expected.max().item())
    assert [candidate.score for candidate in answer.top] == pytest.approx(
        expected.topk(3).values.tolist()
    )


@pytest.mark.parametrize("batch_size", [1, 2, 32])
def test_order_and_failures_survive_batching(
    checkpoint: Checkpoint, pictures: list[Path], batch_size: int
) -> None:
    broken = pictures[0].with_name("broken.jpg")
    broken.write_bytes(b"<html>")
    mixed = [pictures[0], broken, *pictures[1:], "nowhere.png"]
    answers = list(Predictor(checkpoint).predict(mixed, batch_size=batch_size))
    assert [answer.path for answer in answers] == [str(path) for path in mixed]
    assert [type(answer) for answer in answers] == [
        Prediction,
        Failure,
        *[Prediction] * 4,
        Failure,
    ]
    assert isinstance(answers[1], Failure)
    assert "broken.jpg" in answers[1].error


def test_every_kind_of_picture_gives_the_same_answer(
    checkpoint: Checkpoint, pictures: list[Path]
) -> None:
    image = Image.open(pictures[0])
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    kinds = [pictures[0], str(pictures[0]), image, np.array(image), buffer.getvalue()]
    answers = list(Predictor(checkpoint).predict(kinds))
    scores = {answer.pred_score for answer in answers if isinstance(answer, Prediction)}
    assert len(answers) == 5
    assert max(scores) - min(scores) < 1e-6


def test_nothing_is_read_ahead_of_its_batch(
    checkpoint: Checkpoint, pictures: list[Path]
) -> None:
    def endless() -> object:
        while True:
            yield pictures[0]

    answers = Predictor(checkpoint).predict(endless(), batch_size=2)  # type: ignore[arg-type]
    assert isinstance(next(answers), Prediction)
    assert isinstance(next(answers), Prediction)


def test_what_cannot_answer_says_so(
    checkpoint: Checkpoint, pictures: list[Path]
) -> None:
    predictor = Predictor(checkpoint)
    with pytest.raises(UserError, match="nowhere"):
        predictor("nowhere.png")
    with pytest.raises(UserError, match="batch_size must be at least 1, got 0"):
        list(predictor.predict(pictures, batch_size=0))
    with pytest.raises(UserError, match="top must be at least 1, got 0"):
        Predictor(checkpoint, top=0)
    headless = Predictor(
        Checkpoint(
            create_model("mixer_nano4", num_classes=0, num_blocks=1),
            Preprocess((32, 32)),
        )
    )
    for ask in (
        headless,
        lambda picture: headless.predict([picture]),
        lambda picture: inference_model(headless, picture),
    ):
        with pytest.raises(UserError, match=r"has no classifier.*features\(\)"):
            ask(pictures[0])


@pytest.mark.parametrize(
    "what", [5, None, 2.5, "a\0b.png", "", "x" * 5000, ["a.png"]], ids=repr
)
def test_no_kind_of_picture_ends_the_run(
    checkpoint: Checkpoint, pictures: list[Path], what: Any
) -> None:
    answers = list(Predictor(checkpoint).predict([pictures[0], what, pictures[1]]))
    assert [type(answer) for answer in answers] == [Prediction, Failure, Prediction]


def test_half_precision_weights_answer_too(
    checkpoint: Checkpoint, pictures: list[Path]
) -> None:
    checkpoint.model.to(torch.bfloat16)
    assert Predictor(checkpoint)(pictures[0]).pred_score > 1 / 6


# Devices


def test_without_a_device_it_takes_what_is_there(checkpoint: Checkpoint) -> None:
    best = pick_device("auto")
    assert Predictor(checkpoint).device == best
    assert Predictor(checkpoint, device="auto").device == best
    assert Predictor(checkpoint, device=torch.device("cpu")).device.type == "cpu"


@pytest.mark.parametrize("device", ["cuda:99", "cudaa", "", "cpu:x"])
def test_a_device_that_is_not_there_is_refused_before_the_weights_are_read(
    monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    monkeypatch.setattr(
        mlp_mixer.inference.predictor, "load", lambda _: pytest.fail("loaded")
    )
    with pytest.raises(UserError, match="cannot use the device .*; use cpu or auto"):
        Predictor("weights.npz", device=device)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_without_a_driver_is_one_sentence(checkpoint: Checkpoint) -> None:
    with pytest.raises(UserError, match="cannot use the device 'cuda'"):
        Predictor(checkpoint, device="cuda")


# Scores


def test_an_answer_is_json(checkpoint: Checkpoint, pictures: list[Path]) -> None:
    answer = Predictor(checkpoint, top=2)(pictures[0]).to_dict()
    assert json.loads(json.dumps(answer)) == answer | {"top": list(answer["top"])}
    assert answer["score_kind"] == "softmax"


def with_head(checkpoint: Checkpoint, head: str) -> Checkpoint:
    return dataclasses.replace(checkpoint, provenance={"head": head})


def test_a_sigmoid_head_scores_each_class_alone(
    checkpoint: Checkpoint, pictures: list[Path]
) -> None:
    predictor = Predictor(with_head(checkpoint, "sigmoid"), top=6)
    answer = predictor(pictures[0])
    logits = checkpoint.model(
        checkpoint.preprocess(np.array(Image.open(pictures[0])))[None]
    )[0]
    assert answer.score_kind == "sigmoid"
    assert {c.label: c.score for c in answer.top} == pytest.approx(
        dict(enumerate(logits.sigmoid().tolist()))
    )
    scores = inference_model(predictor, pictures[0])["pred_scores"]
    assert scores == pytest.approx(logits.sigmoid().detach().numpy())
    assert scores.sum() != pytest.approx(1, abs=0.01)


def test_classes_whose_sigmoids_round_to_one_keep_their_order(
    checkpoint: Checkpoint, pictures: list[Path]
) -> None:
    head = checkpoint.model.get_classifier()
    assert isinstance(head, torch.nn.Linear)
    with torch.no_grad():
        head.weight.zero_()
        head.bias.copy_(torch.tensor([20.0, 21, 40, 30, 25, -5]))
    answer = Predictor(with_head(checkpoint, "sigmoid"), top=6)(pictures[0])
    assert [c.score for c in answer.top[:5]] == [1.0] * 5
    assert [c.label for c in answer.top] == [2, 3, 4, 1, 0, 5]
    assert (
        inference_model(with_head(checkpoint, "sigmoid"), pictures[0])["pred_label"]
        == 2
    )


def test_an_unknown_kind_of_head_is_refused(checkpoint: Checkpoint) -> None:
    with pytest.raises(
        UserError, match="unknown kind of head 'sigmod'; did you mean 'sigmoid'"
    ):
        Predictor(with_head(checkpoint, "sigmod"))


# Features


def test_features_are_the_models_own(
    checkpoint: Checkpoint, pictures: list[Path]
) -> None:
    x = torch.stack(
        [checkpoint.preprocess(np.array(Image.open(path))) for path in pictures]
    )
    expected = checkpoint.model.features(x)
    for names in (
        tuple(expected),
        ("pre_logits", "logits"),
        ("norm",),
        ("blocks.0.mlp_tokens",),
    ):
        found = list(Predictor(checkpoint).features(pictures, names))
        assert [features.path for features in found] == [str(path) for path in pictures]
        for i, features in enumerate(found):
            assert isinstance(features, Features)
            assert tuple(features.values) == names
            for name, value in features.values.items():
                assert value.dtype == np.float32
                ours = expected[name][i].detach().numpy()
                # One picture more or less in a batch changes the rounding.
                bound = 5e-6 * max(1.0, np.abs(ours).max())
                np.testing.assert_allclose(value, ours, rtol=0, atol=bound)


def test_features_without_a_head_and_in_half_precision(pictures: list[Path]) -> None:
    model = create_model(
        "mixer_nano4", num_classes=0, num_blocks=2, hidden_dim=8, image_size=16
    ).to(torch.bfloat16)
    predictor = Predictor(Checkpoint(model, Preprocess((16, 16))))
    mixed = ["nowhere.png", pictures[0], b"<html>", pictures[1]]
    found = list(predictor.features(mixed, "pre_logits", batch_size=2))
    assert [type(one) for one in found] == [Failure, Features, Failure, Features]
    assert [one.path for one in found] == [
        "nowhere.png",
        str(pictures[0]),
        "image 2",
        str(pictures[1]),
    ]
    assert isinstance(found[1], Features)
    assert found[1].values["pre_logits"].shape == (8,)
    assert found[1].values["pre_logits"].dtype == np.float32


def test_an_unknown_feature_is_refused_before_any_picture(
    checkpoint: Checkpoint,
) -> None:
    with pytest.raises(
        UserError, match=r"unknown feature 'block\.0'; did you mean 'blocks\.0'"
    ):
        Predictor(checkpoint).features([], ["pre_logits", "block.0"])
    with pytest.raises(
        UserError, match=r"unknown feature 'blocks\.1'"
    ):  # this model has one block
        Predictor(checkpoint).features([], "blocks.1")
