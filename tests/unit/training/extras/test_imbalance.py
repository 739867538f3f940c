"""Rare classes: their weights against scikit-learn and torch, their turn, their good."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.utils.class_weight import compute_class_weight
from torch import nn

from mlp_mixer import ArraySet, Dataset, Preprocess, UserError, load
from mlp_mixer.config import override
from mlp_mixer.data.loader import TrainBatches
from mlp_mixer.evaluation import evaluate
from mlp_mixer.images.settings import Augment
from mlp_mixer.randomness import ClassMembers, balanced_epoch, batch_positions
from mlp_mixer.recipes import get_recipe
from mlp_mixer.training import prepare, train
from mlp_mixer.training.extras.imbalance import class_weights
from mlp_mixer.training.optim.build import build_optimizer
from mlp_mixer.training.step import Stepper

SMALL = (
    "model.num_blocks=1",
    "model.hidden_dim=8",
    "model.tokens_mlp_dim=4",
    "model.channels_mlp_dim=16",
    "model.drop_path=0",
    "train.batch_size=32",
    "train.epochs=8",
    "train.device=cpu",
    "train.threads=1",
    "train.ema=0",
    "train.label_smoothing=0",
    "train.eval_every_epochs=4",
    "augment.shift=0",
    "augment.rotate=0",
    "augment.scale=0",
)
COUNTS = (200, 20, 10)
"""20 to 1."""


def overlapping(seed: int) -> ArraySet:
    """Gray images whose brightness tells the class, with much noise."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(COUNTS)), COUNTS)
    means = 90 + 35 * labels[:, None, None] + rng.normal(0, 25, (len(labels), 1, 1))
    pixels = means + rng.normal(0, 20, (len(labels), 8, 8))
    images = pixels.clip(0, 255).astype(np.uint8)
    return ArraySet(images, labels, ["common", "rare", "rarer"])


def dataset() -> Dataset:
    splits = {"train": overlapping(0), "val": overlapping(1), "test": overlapping(2)}
    return Dataset.from_splits("overlapping", splits)


def stepper(*settings: str, teacher: nn.Module | None = None) -> Stepper:
    """A stepper of a run with random weights that are not zero anywhere."""
    config = override(get_recipe("digits"), [*SMALL, *settings])
    run = prepare(config, dataset(), teacher)
    for parameter in run.model.parameters():
        generator = torch.Generator().manual_seed(parameter.numel())
        torch.nn.init.normal_(parameter, std=0.3, generator=generator)
    optimizer = build_optimizer(run.model, run.config.optim)
    return Stepper(run, run.model.train(), optimizer, None)


# The weights


def test_the_weights_are_those_of_scikit_learn() -> None:
    images = overlapping(0)
    expected = compute_class_weight("balanced", classes=np.arange(3), y=images.labels)
    weights = class_weights(images)
    np.testing.assert_allclose(weights, expected)
    assert weights[images.labels].mean() == pytest.approx(1)


def test_a_class_without_images_has_the_weight_one() -> None:
    pixels = np.zeros((3, 8, 8), np.uint8)
    images = ArraySet(pixels, [0, 2, 2], ["a", "b", "c"])
    np.testing.assert_allclose(class_weights(images), [1.5, 1, 0.75])


def test_the_softmax_loss_is_each_image_times_its_weight() -> None:
    own = stepper("train.class_weights=auto")
    batch = own.run.batches()[0]
    logits = own.run.model(own.run.preprocess.normalize(batch.images)).double()
    weights = torch.from_numpy(class_weights(own.run.train))
    each = F.cross_entropy(logits, batch.labels, reduction="none")
    expected = (each * weights[batch.labels]).mean()
    loss, _ = own._loss(*own.inputs(batch, 0))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_sigmoid_loss_weighs_the_yes_of_a_class() -> None:
    own = stepper("train.class_weights=auto", "train.loss=sigmoid")
    batch = own.run.batches()[0]
    logits = own.run.model(own.run.preprocess.normalize(batch.images)).double()
    weights = torch.from_numpy(class_weights(own.run.train))
    targets = F.one_hot(batch.labels, 3).double()
    yes = -F.logsigmoid(logits) * targets * weights
    no = -F.logsigmoid(-logits) * (1 - targets)
    loss, _ = own._loss(*own.inputs(batch, 0))
    assert loss.item() == pytest.approx((yes + no).sum(1).mean().item(), rel=1e-5)


def test_a_teacher_is_heard_by_the_same_weights() -> None:
    """With a teacher's answers equal to the labels, its part is the weighted loss."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    settings = ("train.class_weights=auto", "distill.weight=0.5")
    own = stepper(*settings, teacher=network)
    images, targets, draws = own.inputs(own.run.batches()[0], 0)
    labels = targets[:, 0]
    plain, _ = own._loss(images, labels, draws)
    both, _ = own._loss(images, torch.stack([labels, labels], 1), draws)
    assert both.item() == pytest.approx(plain.item(), rel=1e-5)


@pytest.mark.parametrize(
    "extra",
    [[], ["mix.mixup=0.5"], ["train.loss=sigmoid"], ["train.label_smoothing=0.1"]],
)
def test_parts_of_a_batch_add_up(extra: list[str]) -> None:
    """They would not if the sum of the weights of a part divided its loss."""
    losses = []
    for parts in (1, 3):
        settings = ["train.class_weights=auto", f"train.accumulate={parts}", *extra]
        own = stepper(*settings)
        batch = own.run.batches()[3]
        loss, _ = own.backward(*own.inputs(batch, 3), 3)
        losses.append(loss.item())
    assert losses[1] == pytest.approx(losses[0], abs=1e-5)


# The turns


@pytest.mark.parametrize(
    "counts", [(200, 20, 10), (7, 1), (3, 3, 3), (5,), (1, 2, 4, 9)]
)
def test_every_class_fills_an_equal_part_of_every_epoch(counts: tuple[int]) -> None:
    labels = np.random.default_rng(0).permutation(np.repeat(range(len(counts)), counts))
    members = ClassMembers.of(labels)
    seen = []
    for epoch in range(2 * len(counts)):
        rounds, indices = balanced_epoch(3, epoch, members)
        assert len(rounds) == len(indices) == len(labels)
        of_class = np.bincount(labels[indices], minlength=len(counts))
        assert of_class.max() - of_class.min() <= 1
        seen += list(zip(rounds.tolist(), indices.tolist(), strict=True))
    # No visit comes twice, and the classes are equal after as many epochs as classes.
    assert len(set(seen)) == len(seen)
    totals = np.bincount(labels[[index for _, index in seen]])
    assert len(set(totals.tolist())) == 1
    # Of a class every image comes equally often, but for the round that is not complete.
    visits = np.bincount([index for _, index in seen], minlength=len(labels))
    for label in range(len(counts)):
        own = visits[labels == label]
        assert own.max() - own.min() <= 1


def test_steps_follow_the_epochs_and_repeats_have_numbers_of_their_own() -> None:
    labels = np.array([0] * 9 + [1])
    members = ClassMembers.of(labels)
    order = [balanced_epoch(5, epoch, members)[1] for epoch in range(2)]
    steps = [batch_positions(step, 4, 10, 5, 1, members)[1] for step in range(5)]
    assert np.concatenate(steps).tolist() == np.concatenate(order).tolist()
    visits, indices = batch_positions(1, 8, 10, 5, 2, members)
    assert len(set(zip(visits.tolist(), indices.tolist(), strict=True))) == 8


def test_a_crashed_run_goes_on_with_the_same_order_with_workers_too(
    tmp_path: Path, tiny: Any, crash_at: Any, crash: Any, digests: Any
) -> None:
    settings = ["data.sampling=balanced", "train.epochs=1", "mix.cutmix=1"]
    config = override(tiny(), settings)
    train(config, tmp_path / "unbroken")
    with pytest.raises(crash):
        train(config, tmp_path / "run", report=crash_at(4))
    resumed = override(config, ["data.workers=2"])
    train(resumed, tmp_path / "run", resume=True)
    found = digests(tmp_path / "run")
    expected = digests(tmp_path / "unbroken")
    assert found["last.safetensors"] == expected["last.safetensors"]


def test_processes_share_the_same_batches() -> None:
    images = overlapping(0)
    members = ClassMembers.of(images.labels)
    plain = Preprocess((8, 8), channels=1)
    whole = TrainBatches(images, plain, Augment(), 12, seed=1, members=members)
    parts = []
    for rank in range(3):
        part = replace(whole, rank=rank, world_size=3)[7]
        parts += part.indices.tolist()
    assert parts == whole[7].indices.tolist()


def test_one_imbalance_is_not_corrected_twice() -> None:
    with pytest.raises(UserError, match="correct the same imbalance twice"):
        stepper("train.class_weights=auto", "data.sampling=balanced")


# What it is for


def balanced_accuracy(out: Path, *settings: str) -> float:
    config = override(get_recipe("digits"), [*SMALL, *settings])
    data = dataset()
    train(config, out, source=data)
    trained = load(out)
    assert data.test is not None
    result = evaluate(trained.model, data.test, trained.preprocess)
    return result.balanced_top1


def test_rare_classes_are_recognised_more_often(tmp_path: Path) -> None:
    plain = balanced_accuracy(tmp_path / "plain")
    weighted = balanced_accuracy(tmp_path / "weighted", "train.class_weights=auto")
    sampled = balanced_accuracy(tmp_path / "sampled", "data.sampling=balanced")
    assert weighted > plain + 0.1
    assert sampled > plain + 0.1
    # Better than any answer that does not look: that has a third.
    assert weighted > 0.5
