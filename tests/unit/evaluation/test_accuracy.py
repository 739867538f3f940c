"""Accuracy against counting by hand, and labels matched by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mlp_mixer import (
    ArraySet,
    Checkpoint,
    Dataset,
    Preprocess,
    UserError,
    create_model,
)
from mlp_mixer.data.image_set import FileSet
from mlp_mixer.evaluation import align_labels, eval_split, evaluate, evaluate_checkpoint
from mlp_mixer.evaluation.accuracy import best_labels, score
from mlp_mixer.weights.labels import class_names, wordnet_ids


def test_score_counts_as_a_person_would() -> None:
    first = [9.0, 1, 2, 3, 4, 5, 0]
    last = [0.0, 0, 0, 0, 0, 9, 8]
    logits = torch.tensor([first, first, last])
    result = score(logits, torch.tensor([0, 6, 6]))
    assert (result.n, result.top1, result.top5) == (3, 1 / 3, 2 / 3)
    assert result.predictions.tolist() == [0, 0, 5]
    surprises = -logits.log_softmax(1)[[0, 1, 2], [0, 6, 6]]
    assert result.loss == pytest.approx(surprises.mean().item())
    confusion = np.zeros((7, 7), dtype=int)
    confusion[0, 0] = confusion[6, 0] = confusion[6, 5] = 1
    assert (result.confusion == confusion).all()


def test_fewer_than_five_classes() -> None:
    assert score(torch.tensor([[1.0, 2]]), torch.tensor([0])).top5 == 1


class Brightness(torch.nn.Module):
    """Says class k for an image whose mean value is k/10, not normalised."""

    def __init__(self) -> None:
        super().__init__()
        self.anchors = torch.nn.Parameter(torch.arange(4) / 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert not self.training
        brightness = x.mean(dim=(1, 2, 3))[:, None]
        return -100 * (brightness - self.anchors) ** 2


GRAY = Preprocess((4, 4), channels=1, crop_pct=1.0, mean=(0.0,), std=(1.0,))


@pytest.mark.parametrize("batch_size", [1, 3, 7, 100])
def test_every_image_is_evaluated_once_whatever_the_batch(batch_size: int) -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 50)
    values = (labels * 25.5).round().astype(np.uint8)
    images = np.broadcast_to(values[:, None, None, None], (50, 4, 4, 1)).copy()
    images[:5] = 255  # brighter than any class: taken for the last
    data = ArraySet(images, labels, classes=["a", "b", "c", "d"])
    model = Brightness().train()
    result = evaluate(model, data, GRAY, batch_size=batch_size)
    assert result.n == 50
    assert result.top1 == pytest.approx((45 + (labels[:5] == 3).sum()) / 50)
    assert result.labels.tolist() == labels.tolist()
    assert model.training


@pytest.mark.parametrize("training", [True, False])
def test_an_unreadable_image_leaves_the_mode_of_the_model(
    tmp_path: Path, training: bool
) -> None:
    Image.new("L", (4, 4)).save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(b"no image")
    data = FileSet(tmp_path, ["good.png", "bad.png"], [0, 1], ["a", "b"], channels=1)
    model = Brightness().train(training)
    with pytest.raises(UserError, match="bad.png"):
        evaluate(model, data, GRAY, batch_size=1, workers=0)
    assert model.training == training


def test_the_model_may_name_its_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """ "auto" is a GPU if there is one; here there is none."""
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    images = np.zeros((2, 4, 4, 1), np.uint8)
    source = Dataset.from_arrays(images, [0, 1])
    for device in ("auto", "cpu", torch.device("cpu"), None):
        checkpoint = Checkpoint(
            create_model("mixer_pico2", num_classes=2, in_channels=1, image_size=4),
            GRAY,
            None,
        )
        chosen, result = evaluate_checkpoint(checkpoint, source, device=device)
        assert (chosen.split, result.split) == ("all images, one per class",) * 2
    with pytest.raises(UserError, match="cannot use the device 'gpu'"):
        evaluate_checkpoint(checkpoint, source, device="gpu")


class Corners(torch.nn.Module):
    """Logits from two places of the image: a view shows where they went."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([x[:, 0, 0, 0], x[:, 0, 2, 1]], dim=1)


def test_views_are_averaged() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 5, 5, 1), dtype=np.uint8)
    data = ArraySet(pixels, np.zeros(9, int), classes=["a", "b"])
    preprocess = Preprocess((5, 5), channels=1, crop_pct=1.0, mean=(0.0,), std=(1.0,))
    x = pixels[..., 0] / 255.0
    # Moved by a pixel up and left, place (2, 1) shows what was at (3, 2); down and
    # right, what was at (1, 0). What lies outside repeats the edge. In a mirror column c
    # is column 4 - c.
    itself = (x[:, 0, 0], x[:, 2, 1])
    mirrored = (x[:, 0, 4], x[:, 2, 3])
    up = (x[:, 1, 1], x[:, 3, 2])
    up_mirrored = (x[:, 1, 4], x[:, 3, 4])
    down = (x[:, 0, 0], x[:, 1, 0])
    down_mirrored = (x[:, 0, 3], x[:, 1, 2])
    views = {
        "none": [itself],
        "flip": [itself, mirrored],
        "shift": [itself, mirrored, up, up_mirrored, down, down_mirrored],
    }
    for tta, expected in views.items():
        logits = np.mean([np.stack(view, axis=1) for view in expected], axis=0)
        probabilities = torch.from_numpy(logits).float().softmax(1)
        result = evaluate(Corners(), data, preprocess, tta=tta)  # type: ignore[arg-type]
        np.testing.assert_allclose(
            result.probabilities, probabilities, atol=1e-6, err_msg=tta
        )


def test_labels_are_matched_by_name() -> None:
    data = ArraySet(np.zeros((3, 2, 2, 1), np.uint8), [0, 1, 1], classes=["dog", "cat"])
    assert align_labels(data, ["bird", "cat", "dog"]).tolist() == [2, 1, 1]
    message = "for other classes: the data has 'cat', the model knows 'bird', 'dog'"
    with pytest.raises(UserError, match=message):
        align_labels(data, ["bird", "dog"])


def test_imagenet_folders_are_matched_by_wordnet_id_or_first_synonym() -> None:
    labels = class_names("imagenet1k")
    pixels = np.zeros((3, 4, 4, 3), dtype=np.uint8)
    names = ("n02510455", "tench", "tench, Tinca tinca")
    data = ArraySet(pixels, np.array([0, 1, 2]), names)
    assert align_labels(data, labels).tolist() == [388, 0, 0]
    # A bird and a machine.
    cranes = ArraySet(pixels[:1], np.array([0]), ("crane",))
    with pytest.raises(UserError, match="other classes: the data has 'crane'"):
        align_labels(cranes, labels)
    with pytest.raises(UserError, match="other classes: the data has 'n02510455'"):
        align_labels(data, labels[:999])


# --- ImageNet's test sets

NAMES = class_names("imagenet1k")
WNIDS = wordnet_ids("imagenet1k")
AS_IT_IS = Preprocess((8, 8), crop_pct=1.0, mean=(0.0,), std=(1.0,))


class Told(torch.nn.Module):
    """Answers what the pixel says, all in `order`.

    First comes class 256 red + green, then class blue, then 3, 4 and 5.
    """

    num_classes = 1000

    def __init__(self, order: np.ndarray | None = None) -> None:
        super().__init__()
        self.register_parameter("where", torch.nn.Parameter(torch.zeros(())))
        self.order = torch.from_numpy(np.arange(1000) if order is None else order)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        red, green, blue = (x[:, :, 0, 0] * 255).round().long().unbind(1)
        rows = torch.arange(len(x))
        logits = torch.zeros(len(x), 1000)
        for value, said in ((1.0, 5), (2.0, 4), (3.0, 3)):
            logits[rows, self.order[said]] = value
        logits[rows, self.order[blue]] = 4.0
        logits[rows, self.order[256 * red + green]] = 9.0
        return logits


def plant(root: Path, said: dict[str, tuple[int, int]]) -> Path:
    """Images that make `Told` answer so: first and second choice by file."""
    for name, (first, second) in said.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (first // 256, first % 256, second)).save(path)
    return root


def told(
    labels: Sequence[str] | None = NAMES, order: np.ndarray | None = None
) -> Checkpoint:
    names = None if labels is None else tuple(labels)
    model = Told(order)
    if names is not None:
        model.num_classes = len(names)
    return Checkpoint(model, AS_IT_IS, names)  # type: ignore[arg-type]


# A checkpoint with another order of outputs.
REVERSED = {"labels": WNIDS[::-1], "order": np.arange(1000)[::-1].copy()}


@pytest.mark.parametrize("kind", [{}, REVERSED], ids=["standard", "reversed"])
def test_v2s_numbers_are_imagenets(tmp_path: Path, kind: dict[str, Any]) -> None:
    said = {
        "2/a.png": (2, 9),
        "10/a.png": (10, 9),
        "388/a.png": (388, 9),
        "388/b.png": (387, 9),
    }
    plant(tmp_path, said)
    chosen, result = evaluate_checkpoint(told(**kind), f"imagenet_v2:{tmp_path}")
    assert (chosen.split, chosen.among) == ("test", None)
    assert (result.n, result.top1) == (4, 0.75)
    order = kind.get("order", np.arange(1000))
    assert result.labels.tolist() == order[[10, 2, 388, 388]].tolist()


def test_numbers_are_not_taken_for_names(tmp_path: Path) -> None:
    """A model of the digits has classes "0" ... "9" too, and knows nothing of a tench."""
    plant(tmp_path, {f"{k}/a.png": (0, 0) for k in range(10)})
    with pytest.raises(UserError, match="for other classes: the data has 'n01440764'"):
        evaluate_checkpoint(told([*"0123456789"]), f"imagenet_v2:{tmp_path}")
    with pytest.raises(UserError, match="does not know the names of its classes"):
        evaluate_checkpoint(told(None), f"imagenet_v2:{tmp_path}")


@pytest.mark.parametrize("kind", [{}, REVERSED], ids=["standard", "reversed"])
def test_a_and_r_are_evaluated_among_their_classes(
    tmp_path: Path, kind: dict[str, Any]
) -> None:
    """Class 500 is none of theirs: the authors leave its logit out.

    So the second choice counts.
    """
    said = {
        f"{WNIDS[6]}/a.png": (500, 6),
        f"{WNIDS[6]}/b.png": (7, 6),
        f"{WNIDS[7]}/a.png": (7, 6),
    }
    plant(tmp_path, said)
    for name in ("a", "r"):
        spec = f"imagenet_{name}:{tmp_path}"
        chosen, result = evaluate_checkpoint(told(**kind), spec)
        assert (chosen.split, chosen.among) == ("test among 2 classes", 2)
        assert (result.top1, result.top5) == (2 / 3, 1)
        assert result.probabilities.shape == (3, 1000)
        assert ((result.probabilities > 0).sum(axis=1) == 2).all()
        np.testing.assert_allclose(result.probabilities.sum(axis=1), 1, rtol=1e-6)
        # Two logits are left.
        gaps = np.array([0 - 4, 9 - 4, 4 - 9])
        expected = np.log(1 + np.exp(gaps)).mean()
        assert result.loss == pytest.approx(expected, rel=1e-5)
    chosen, result = evaluate_checkpoint(told(**kind), f"imagenet_sketch:{tmp_path}")
    assert (chosen.split, chosen.among) == ("test", None)
    assert (result.top1, result.top5) == (1 / 3, 1)


@pytest.mark.parametrize("kind", [{}, REVERSED], ids=["standard", "reversed"])
def test_real_takes_any_of_its_labels(tmp_path: Path, kind: dict[str, Any]) -> None:
    files = [f"ILSVRC2012_val_0000000{i}.png" for i in range(1, 6)]
    plant(tmp_path, dict.fromkeys(files, (970, 9)))
    (tmp_path / "real.json").write_text("[[3, 970], [], [970], [795, 9], [795, 12]]")
    chosen, result = evaluate_checkpoint(told(**kind), f"imagenet_real:{tmp_path}")
    assert chosen.split == "test by any of several labels"
    assert (result.n, result.top1, result.top5) == (4, 0.5, 0.75)
    assert chosen.among is None
    assert chosen.images.name(1) == files[2]
    order = kind.get("order", np.arange(1000))
    assert result.labels.tolist()[:3] == order[[970, 970, 9]].tolist()


def test_of_several_labels_the_rank_decides_ties_included() -> None:
    """Against the definition: the best guess, or one of the best five, is in the set."""
    rng = np.random.default_rng(0)
    without_ties = torch.from_numpy(rng.normal(size=(300, 12)))
    with_ties = torch.from_numpy(rng.integers(0, 3, (300, 12)) / 1.0)
    for logits in (without_ties, with_ties):
        sets = [
            rng.choice(12, rng.integers(1, 5), replace=False).tolist()
            for _ in range(300)
        ]
        result = score(logits, torch.from_numpy(best_labels(logits, sets)))
        hits1 = hits5 = 0
        guesses = logits.topk(5).indices.tolist()
        for row, label, top, own in zip(
            logits, result.labels, guesses, sets, strict=True
        ):
            hits1 += top[0] in own
            hits5 += bool({*top} & {*own})
            assert label in own
            assert row[label] == max(row[own])
        assert result.top1 == pytest.approx(hits1 / 300)
        assert result.top5 == pytest.approx(hits5 / 300)
    one = rng.integers(0, 12, 300)
    assert best_labels(logits, one[:, None].tolist()).tolist() == one.tolist()


def test_one_image_per_class_can_be_evaluated() -> None:
    source = Dataset.from_arrays(np.zeros((2, 4, 4, 1), np.uint8), [0, 1])
    chosen = eval_split(source, {})
    assert len(chosen.images) == 2
    assert chosen.split == "all images, one per class"
