"""Tasks without labels: what they hide and compare, and that runs of them resume."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from mlp_mixer import ArraySet, Dataset, MixerConfig, MlpMixer, UserError, load
from mlp_mixer.config import override
from mlp_mixer.models.families import build_network
from mlp_mixer.models.token_mixing import TokenMixingConfig
from mlp_mixer.training import TrainConfig, prepare, train
from mlp_mixer.training.config import PretextChoice
from mlp_mixer.training.extras import pretext
from mlp_mixer.training.extras.pretext import Covered, Views, build_pretext, contrast
from mlp_mixer.training.journal import read_journal

VIEWS = ["pretext.name=views", "data.repeats=2"]
COVERED = ["pretext.name=covered", "pretext.mask_ratio=0.6"]
TASKS = {"views": VIEWS, "covered": COVERED}


def configured(tiny: Any, *settings: str, **loop: Any) -> TrainConfig:
    config = tiny(label_smoothing=0.0, **loop)
    return override(config, ["augment.jitter=0.4", "augment.gray=0.2", *settings])


def small() -> MlpMixer:
    return MlpMixer(MixerConfig(4, 2, 12, 6, 24, image_size=(16, 16), num_classes=0))


# Views


def test_the_other_view_is_what_is_to_be_found() -> None:
    z = torch.randn(6, 5, dtype=torch.float64)
    unit = [row / row.square().sum().sqrt() for row in z]
    terms = []
    found = 0
    for i, other in enumerate((3, 4, 5, 0, 1, 2)):
        cosines = {j: float(unit[i] @ unit[j]) for j in range(6) if j != i}
        among = sum(np.exp(cosine / 0.2) for cosine in cosines.values())
        terms.append(-np.log(np.exp(cosines[other] / 0.2) / among))
        found += max(cosines, key=cosines.__getitem__) == other
    loss, share = contrast(z, 0.2)
    assert loss.item() == pytest.approx(np.mean(terms), rel=1e-6)
    assert share.item() == pytest.approx(found / 6)


def test_equal_views_of_unlike_images_are_found() -> None:
    z = torch.eye(4).repeat(2, 1)
    loss, share = contrast(z, 0.1)
    assert share == 1
    # Seven others, six of them at a cosine of 0 and one at 1.
    assert loss.item() == pytest.approx(np.log(1 + 6 * np.exp(-10)), abs=1e-6)


def test_each_process_gets_the_gradient_of_the_whole_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With the others' rows beside its own, and an average over processes after it."""
    torch.manual_seed(0)
    task = Views(small(), PretextChoice(name="views"))
    images = torch.rand(8, 3, 16, 16)
    loss, _ = task(images, torch.zeros(8, 0), None)
    loss.backward()
    expected = [p.grad.clone() for p in task.parameters() if p.grad is not None]
    sums = [torch.zeros_like(gradient) for gradient in expected]
    for rank in range(2):
        mine = slice(4 * rank, 4 * rank + 4)

        def gathered(rows: Tensor, mine: slice = mine) -> Tensor:
            everybody = task.model(images).detach()
            whole = everybody.index_copy(0, torch.arange(8)[mine], rows)
            # As `distributed.gathered_rows` does in its backward pass.
            whole.register_hook(lambda gradient: 2 * gradient)
            return whole

        monkeypatch.setattr(pretext, "gathered_rows", gathered)
        task.zero_grad()
        own, _ = task(images[mine], torch.zeros(4, 0), None)
        assert own.item() == pytest.approx(loss.item(), rel=1e-6)
        own.backward()
        for total, parameter in zip(sums, task.model.parameters(), strict=False):
            assert parameter.grad is not None
            total += parameter.grad / 2
    count = len(list(task.model.parameters()))
    for total, gradient in zip(sums[:count], expected[:count], strict=True):
        torch.testing.assert_close(total, gradient, rtol=1e-3, atol=3e-5)


# Covered


@pytest.mark.parametrize("share", [0.01, 0.6, 0.99])
def test_as_many_patches_are_covered_in_each_image(share: float) -> None:
    task = Covered(small(), PretextChoice(name="covered", mask_ratio=share))
    mask = task.mask(torch.rand(5, 16))
    assert mask.sum(1).tolist() == [max(1, round(16 * share))] * 5


def test_covered_patches_are_invisible_and_are_what_the_loss_is_of() -> None:
    task = Covered(small(), PretextChoice(name="covered"))
    shown: list[Tensor] = []

    def noted(_module: nn.Module, given: tuple[Tensor]) -> Tensor:
        shown.append(given[0].detach().clone().requires_grad_())
        return shown[-1]

    task.model.stem.register_forward_pre_hook(noted)
    images = torch.rand(5, 3, 16, 16)
    draws = torch.rand(5, 16)
    loss, _ = task(images, draws, None)
    loss.backward()
    assert shown[0].grad is not None
    # Axes: B, row, column of the grid.
    per_patch = shown[0].grad.abs().unfold(2, 4, 4).unfold(3, 4, 4).sum((1, 4, 5))
    assert (per_patch > 0).flatten(1).equal(~task.mask(draws))

    own: Any = task.own
    nn.init.zeros_(own.pixels.weight)
    nn.init.zeros_(own.pixels.bias)
    loss, _ = task(images, draws, None)
    expected = []
    for image, covered in zip(images, task.mask(draws), strict=True):
        for number in covered.nonzero()[:, 0].tolist():
            top, left = 4 * (number // 4), 4 * (number % 4)
            patch = image[:, top : top + 4, left : left + 4]
            spread = patch.std(correction=0) + 0.1
            expected.append(((patch - patch.mean()) / spread).abs().mean())
    torch.testing.assert_close(loss, torch.stack(expected).mean(), rtol=1e-4, atol=1e-5)


def test_a_pyramid_has_no_token_for_every_patch() -> None:
    config = TokenMixingConfig(
        4, 2, 12, 6, 24, image_size=(16, 16), num_classes=0, pyramid=(4,)
    )
    with pytest.raises(UserError, match="use pretext.name=views"):
        build_pretext(PretextChoice(name="covered"), build_network(config))


# Runs


@pytest.mark.parametrize("task", TASKS)
def test_a_crashed_and_resumed_run_ends_with_the_same_bytes(
    task: str,
    tmp_path: Path,
    tiny: Any,
    digests: Any,
    crash_at: Any,
    crash: type[Exception],
) -> None:
    config = configured(tiny, *TASKS[task])
    train(config, tmp_path / "whole")
    for step in (4, 9):
        with pytest.raises(crash):
            train(config, tmp_path / "broken", resume=True, report=crash_at(step))
    train(config, tmp_path / "broken", resume=True)
    assert digests(tmp_path / "broken") == digests(tmp_path / "whole")
    rows = read_journal(tmp_path / "whole")
    kept = [row for row in rows if row["kind"] == "train"]
    assert [row["step"] for row in kept] == [
        row["step"]
        for row in read_journal(tmp_path / "broken")
        if row["kind"] == "train"
    ]
    assert ("found" in kept[0]) == (task == "views")
    assert "train_top1" not in kept[0]


@pytest.mark.parametrize("task", TASKS)
def test_a_task_is_learnt(task: str, tmp_path: Path, tiny: Any) -> None:
    config = configured(
        tiny, *TASKS[task], "augment.jitter=0", "augment.gray=0", "augment.flip=false",
        "augment.rotate=0", "model.hidden_dim=32", "model.dropout=0",
        "model.drop_path=0", epochs=12, ema=0.0,
    )  # fmt: skip
    train(config, tmp_path)
    rows = [row for row in read_journal(tmp_path) if row["kind"] == "train"]
    assert rows[-1]["loss"] < 0.9 * rows[0]["loss"]
    if task == "views":
        # By chance, one of 127.
        assert rows[-1]["found"] > 0.1


@pytest.mark.parametrize("task", TASKS)
def test_the_checkpoint_has_no_classifier_and_nothing_of_the_task(
    task: str, tmp_path: Path, tiny: Any, crash_at: Any, crash: type[Exception]
) -> None:
    with pytest.raises(crash):
        train(configured(tiny, *TASKS[task]), tmp_path, report=crash_at(8))
    state = safetensors.torch.load_file(max((tmp_path / "state").iterdir()))
    assert [name for name in state if name.startswith("pretext.")]
    train(configured(tiny, *TASKS[task]), tmp_path, resume=True)
    checkpoint = load(tmp_path)
    assert checkpoint.model.num_classes == 0
    assert checkpoint.labels is None
    assert checkpoint.provenance["pretext"]["name"] == task
    assert "head" not in checkpoint.provenance
    names = safetensors.torch.load_file(tmp_path / "best.safetensors")
    assert not [name for name in names if re.match("head|pretext|own", name)]


class Unread(ArraySet.__base__):  # type: ignore[misc]
    """Images that nobody may look at."""

    def image(self, index: int) -> Any:
        raise AssertionError("the test split was read")

    def name(self, index: int) -> str:
        return f"test/{index}"

    subset = image


def test_neither_labels_nor_test_images_are_learnt_from(
    tmp_path: Path, tiny: Any
) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (60, 8, 8, 1), dtype=np.uint8)
    config = configured(tiny, *VIEWS, "train.batch_size=16", "train.epochs=1")
    weights = []
    notes: list[str] = []
    for number, labels in enumerate((np.arange(60) % 3, np.arange(60) // 20)):
        known = ArraySet(images, labels)
        hidden = Unread(np.zeros(7, int), known.classes, 1, (8, 8))
        source = Dataset("mine", known, val=hidden, test=hidden)
        out = tmp_path / str(number)
        train(
            config,
            out,
            source=source,
            report=lambda row: notes.append(row.get("text", "")),
        )
        weights.append(load(out).model.state_dict())
    assert all(weights[1][name].equal(one) for name, one in weights[0].items())
    note = "the 7 test and 7 validation images are not learnt from"
    assert notes.count(note) == 2


def test_the_projection_is_drawn_by_the_seed(tiny: Any, noise: Any) -> None:
    drawn = []
    for seed in (0, 0, 1):
        task = prepare(configured(tiny, *VIEWS, seed=seed), noise()).task
        assert task is not None
        drawn.append(next(task.own.parameters()))
    assert drawn[0].equal(drawn[1])
    assert not drawn[0].equal(drawn[2])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["pretext.temperature=0.2"], "of a task: set pretext.name"),
        (["pretext.name=views"], "set data.repeats=2 (now 1)"),
        ([*VIEWS, "train.accumulate=2"], "set train.accumulate=1"),
        ([*VIEWS, "train.batch_size=2"], "leaves nothing to compare"),
        ([*VIEWS, "mix.mixup=0.2"], "images are mixed with their labels"),
        ([*VIEWS, "distill.teacher=x"], "a teacher names classes"),
        ([*VIEWS, "optim.rho=0.1"], "optim.rho=0.1 does not go with"),
        ([*VIEWS, "train.patience=3"], "train.patience=3 does not go with"),
        ([*VIEWS, "train.parallel=fsdp"], "train.parallel=fsdp does not go with"),
        ([*COVERED, "data.repeats=2"], "set data.repeats=1"),
    ],
)
def test_what_does_not_go_without_labels_is_refused(
    tiny: Any, settings: list[str], message: str
) -> None:
    config = override(tiny(label_smoothing=0.0), settings)
    with pytest.raises(UserError, match=re.escape(message)):
        prepare(config)


def test_parts_that_fit_are_not_sought(tmp_path: Path, tiny: Any) -> None:
    with pytest.raises(UserError, match="--find-batch-size is for a classifier"):
        train(configured(tiny, *VIEWS), tmp_path, find_batch_size=True)


def test_settings_of_a_task_are_checked() -> None:
    for wrong in ({"temperature": 0.0}, {"projection_dim": 0}, {"mask_ratio": 1.0}):
        with pytest.raises(UserError, match=f"pretext.{next(iter(wrong))}"):
            replace(PretextChoice(), **wrong)
