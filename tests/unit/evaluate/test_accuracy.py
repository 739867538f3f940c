"""Accuracy against counting by hand, and labels matched by name."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mlp_mixer import ArraySet, Preprocess, UserError
from mlp_mixer.evaluate import align_labels, evaluate
from mlp_mixer.evaluate.accuracy import score
from mlp_mixer.weights.labels import class_names


def test_score_counts_as_a_person_would() -> None:
    logits = torch.tensor([[9.0, 1, 2, 3, 4, 5, 0], [9.0, 1, 2, 3, 4, 5, 0], [0.0, 0, 0, 0, 0, 9, 8]])
    result = score(logits, torch.tensor([0, 6, 6]))
    assert (result.n, result.top1, result.top5) == (3, 1 / 3, 2 / 3)
    assert result.predictions.tolist() == [0, 0, 5]
    assert result.loss == pytest.approx(-logits.log_softmax(1)[[0, 1, 2], [0, 6, 6]].mean().item())
    confusion = np.zeros((7, 7), dtype=int)
    confusion[0, 0] = confusion[6, 0] = confusion[6, 5] = 1
    assert (result.confusion == confusion).all()


def test_fewer_than_five_classes() -> None:
    assert score(torch.tensor([[1.0, 2]]), torch.tensor([0])).top5 == 1


class Brightness(torch.nn.Module):
    """Says class k for an image whose mean value is k/10 after the identity normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.anchors = torch.nn.Parameter(torch.arange(4) / 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert not self.training
        return -100 * (x.mean(dim=(1, 2, 3))[:, None] - self.anchors) ** 2


@pytest.mark.parametrize("batch_size", [1, 3, 7, 100])
def test_every_image_is_judged_once_whatever_the_batch(batch_size: int) -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 50)
    images = np.broadcast_to((labels * 25.5).round().astype(np.uint8)[:, None, None, None], (50, 4, 4, 1)).copy()
    images[:5] = 255  # brighter than any class: taken for the last
    data = ArraySet(images, labels, classes=["a", "b", "c", "d"])
    model = Brightness().train()
    preprocess = Preprocess((4, 4), channels=1, crop_pct=1.0, mean=(0.0,), std=(1.0,))
    result = evaluate(model, data, preprocess, batch_size=batch_size)
    assert result.n == 50
    assert result.top1 == pytest.approx((45 + (labels[:5] == 3).sum()) / 50)
    assert result.labels.tolist() == labels.tolist()
    assert model.training


def test_labels_are_matched_by_name() -> None:
    data = ArraySet(np.zeros((3, 2, 2, 1), np.uint8), [0, 1, 1], classes=["dog", "cat"])
    assert align_labels(data, ["bird", "cat", "dog"]).tolist() == [2, 1, 1]
    with pytest.raises(UserError, match="for other classes: the data has 'cat', the model knows 'bird', 'dog'"):
        align_labels(data, ["bird", "dog"])


def test_imagenet_folders_are_matched_by_wordnet_id_or_first_synonym() -> None:
    labels = class_names("imagenet1k")
    pixels = np.zeros((3, 4, 4, 3), dtype=np.uint8)
    data = ArraySet(pixels, np.array([0, 1, 2]), ("n02510455", "tench", "tench, Tinca tinca"))
    assert align_labels(data, labels).tolist() == [388, 0, 0]
    with pytest.raises(UserError, match="other classes: the data has 'crane'"):  # a bird and a machine
        align_labels(ArraySet(pixels[:1], np.array([0]), ("crane",)), labels)
    with pytest.raises(UserError, match="other classes: the data has 'n02510455'"):
        align_labels(data, labels[:999])
