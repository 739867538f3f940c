"""Predictor: one answer per picture, in order, with the bad ones reported."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mlp_mixer import Checkpoint, Failure, Prediction, Predictor, Preprocess, UserError, create_model


@pytest.fixture
def checkpoint() -> Checkpoint:
    model = create_model("mixer_nano4", num_classes=6, num_blocks=1, hidden_dim=8, image_size=16).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return Checkpoint(model, Preprocess((16, 16)), tuple("abcdef"))


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    rng = np.random.default_rng(0)
    paths = [tmp_path / f"{number}.png" for number in range(5)]
    for path in paths:
        Image.fromarray(rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(path)
    return paths


def test_the_answer_is_the_models(checkpoint: Checkpoint, pictures: list[Path]) -> None:
    predictor = Predictor(checkpoint, top=3)
    answer = predictor(pictures[0])
    x = checkpoint.preprocess(np.array(Image.open(pictures[0])))[None]
    expected = checkpoint.model(x).softmax(dim=1)[0]
    assert answer.pred_label == expected.argmax().item()
    assert answer.pred_class == "abcdef"[answer.pred_label]
    assert answer.pred_score == pytest.approx(expected.max().item())
    assert [candidate.score for candidate in answer.top] == pytest.approx(expected.topk(3).values.tolist())


@pytest.mark.parametrize("batch_size", [1, 2, 32])
def test_order_and_failures_survive_batching(checkpoint: Checkpoint, pictures: list[Path], batch_size: int) -> None:
    broken = pictures[0].with_name("broken.jpg")
    broken.write_bytes(b"<html>")
    mixed = [pictures[0], broken, *pictures[1:], "nowhere.png"]
    answers = list(Predictor(checkpoint).predict(mixed, batch_size=batch_size))
    assert [answer.path for answer in answers] == [str(path) for path in mixed]
    assert [type(answer) for answer in answers] == [Prediction, Failure, *[Prediction] * 4, Failure]
    assert isinstance(answers[1], Failure)
    assert "broken.jpg" in answers[1].error


def test_every_kind_of_picture_gives_the_same_answer(checkpoint: Checkpoint, pictures: list[Path]) -> None:
    image = Image.open(pictures[0])
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    kinds = [pictures[0], str(pictures[0]), image, np.array(image), buffer.getvalue()]
    answers = list(Predictor(checkpoint).predict(kinds))
    scores = {answer.pred_score for answer in answers if isinstance(answer, Prediction)}
    assert len(answers) == 5
    assert len(scores) == 1


def test_nothing_is_read_ahead_of_its_batch(checkpoint: Checkpoint, pictures: list[Path]) -> None:
    def endless() -> object:
        while True:
            yield pictures[0]

    answers = Predictor(checkpoint).predict(endless(), batch_size=2)  # type: ignore[arg-type]
    assert isinstance(next(answers), Prediction)
    assert isinstance(next(answers), Prediction)


def test_what_cannot_answer_says_so(checkpoint: Checkpoint, pictures: list[Path]) -> None:
    with pytest.raises(UserError, match="nowhere"):
        Predictor(checkpoint)("nowhere.png")
    headless = create_model("mixer_nano4", num_classes=0, num_blocks=1)
    with pytest.raises(UserError, match="has no classifier"):
        Predictor(Checkpoint(headless, Preprocess((32, 32))))


def test_half_precision_weights_answer_too(checkpoint: Checkpoint, pictures: list[Path]) -> None:
    checkpoint.model.to(torch.bfloat16)
    assert Predictor(checkpoint)(pictures[0]).pred_score > 1 / 6
