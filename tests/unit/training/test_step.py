"""A step: the same for any number of parts and processes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from mlp_mixer import create_model, load
from mlp_mixer.config import override
from mlp_mixer.data.loader import TrainBatches
from mlp_mixer.images.preprocess import Preprocess
from mlp_mixer.images.settings import Augment
from mlp_mixer.recipes import get_recipe
from mlp_mixer.training import Run, TrainConfig, prepare, step, train
from mlp_mixer.training.optim.build import build_optimizer
from mlp_mixer.training.step import Stepper

SMALL = [
    "model.num_blocks=3",
    "model.hidden_dim=8",
    "model.tokens_mlp_dim=4",
    "model.channels_mlp_dim=16",
    "train.batch_size=24",
    "train.epochs=2",
    "train.device=cpu",
    "train.threads=1",
    "train.ema=0",
    "train.log_every_steps=1",
    "data.val_fraction=0.2",
    "augment.shift=0",
    "augment.rotate=0",
    "augment.scale=0",
]


def small(*settings: str) -> TrainConfig:
    return override(get_recipe("digits"), [*SMALL, *settings])


def stepper(noise: Any, *settings: str) -> Stepper:
    """A stepper of a run with random weights that are not zero anywhere."""
    run = prepare(small(*settings), noise())
    for parameter in run.model.parameters():
        generator = torch.Generator().manual_seed(parameter.numel())
        torch.nn.init.normal_(parameter, std=0.3, generator=generator)
    optimizer = build_optimizer(run.model, run.config.optim)
    return Stepper(run, run.model.train(), optimizer, None)


def gradients(noise: Any, settings: list[str]) -> tuple[float, list[torch.Tensor]]:
    """The loss of one batch, and the gradient of each parameter."""
    own = stepper(noise, *settings)
    number = 5
    loss, _ = own.backward(*own.inputs(own.run.batches()[number], number), number)
    found = []
    for parameter in own.run.model.parameters():
        assert parameter.grad is not None
        found.append(parameter.grad.clone())
    return loss.item(), found


@pytest.mark.parametrize(
    "extra",
    [[], ["mix.mixup=0.5"], ["train.loss=sigmoid"], ["train.label_smoothing=0.1"]],
)
@pytest.mark.parametrize("parts", [2, 5, 24, 100])
def test_parts_of_a_batch_add_up(noise: Any, extra: list[str], parts: int) -> None:
    settings = [*extra, "model.drop_path=0.3"]
    loss, whole = gradients(noise, settings)
    in_parts = [*settings, f"train.accumulate={parts}"]
    loss_of_parts, sums = gradients(noise, in_parts)
    assert loss_of_parts == pytest.approx(loss, abs=1e-5)
    for one, other in zip(whole, sums, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-5)


def test_sigmoid_loss_is_the_sum_over_classes_as_in_big_vision(noise: Any) -> None:
    own = stepper(noise, "train.loss=sigmoid", "train.label_smoothing=0")
    run = own.run
    batch = run.batches()[0]
    logits = run.model(run.preprocess.normalize(batch.images)).double()
    targets = F.one_hot(batch.labels, 3).double()
    log_p = F.logsigmoid(logits)
    log_not_p = F.logsigmoid(-logits)
    expected = -(targets * log_p + (1 - targets) * log_not_p).sum(1).mean()
    loss, _ = own._loss(*own.inputs(batch, 0))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_head_bias_and_the_kind_of_head_are_kept(noise: Any, tmp_path: Path) -> None:
    config = small("train.loss=sigmoid", "train.head_bias=-6.9", "optim.lr=1e-9")
    train(config, tmp_path / "run", source=noise())
    checkpoint = load(tmp_path / "run")
    bias = checkpoint.model.get_parameter("head.bias")
    torch.testing.assert_close(bias.data, torch.full((3,), -6.9), rtol=0, atol=1e-3)
    assert checkpoint.provenance["head"] == "sigmoid"


# Stochastic depth


def test_stochastic_depth_belongs_to_the_image_in_however_many_processes(
    noise: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = stepper(noise, "model.drop_path=0.5")
    whole = own.depth_draws(7)
    assert whole is not None
    assert whole.shape == (24, 3, 2)
    monkeypatch.setattr(step, "world_size", lambda: 3)
    parts = []
    for rank in range(3):
        monkeypatch.setattr(step, "rank", lambda rank=rank: rank)
        part = own.depth_draws(7)
        assert part is not None
        parts.append(part)
    assert torch.equal(torch.cat(parts), whole)
    assert stepper(noise, "model.drop_path=0").depth_draws(7) is None


def test_draws_decide_which_branches_are_kept() -> None:
    model = create_model(
        "mixer_nano4", num_classes=2, num_blocks=2, hidden_dim=8, drop_path=0.5
    )
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    image = torch.randn(2, 3, 32, 32)
    kept = torch.zeros(2, 2, 2)
    dropped = torch.full((2, 2, 2), 0.999)
    close = {"rtol": 1e-5, "atol": 1e-5}

    # The paper's rule does not rescale what is kept.
    whole = model.eval()(image)
    torch.testing.assert_close(model.train()(image, kept), whole, **close)

    # The rate of the first block is 0: it is always kept.
    tokens = model.blocks[0].eval()(model.stem(image))
    first_only = model.forward_head(model.norm(tokens))
    model.train()
    torch.testing.assert_close(model(image, dropped), first_only, **close)

    # Each image has draws of its own.
    mixed = model(image, torch.stack([kept[0], dropped[0]]))
    torch.testing.assert_close(mixed[0], whole[0], **close)
    torch.testing.assert_close(mixed[1], first_only[1], **close)


# The order of images


def test_every_image_comes_once_per_epoch_over_restarts_and_changing_worlds(
    noise: Any,
) -> None:
    """Two processes, then one, then three: the ledger of two epochs and a bit."""
    images = noise(101).train
    preprocess = Preprocess((8, 8), channels=1)
    size = 12
    worlds = [2] * 6 + [1] * 5 + [3] * 6
    seen: Counter[int] = Counter()
    for number, world in enumerate(worlds):
        for rank in range(world):
            batches = TrainBatches(images, preprocess, Augment(), size, 0, rank, world)
            seen.update(batches[number].indices.tolist())
    epochs, rest = divmod(len(worlds) * size, len(images))
    assert epochs >= 2
    assert Counter(seen.values()) == {epochs: len(images) - rest, epochs + 1: rest}


# Sharpness-aware steps


def test_sam_and_gsam_train(noise: Any, tmp_path: Path) -> None:
    """And several ascent steps per batch are not the same as one."""
    finals = []
    for name, settings in {
        "sam": [],
        "gsam": ["optim.alpha=0.5"],
        "m": ["optim.sam_images=6"],
    }.items():
        config = small("optim.rho=0.5", "model.drop_path=0.2", *settings)
        train(config, tmp_path / name, source=noise())
        finals.append(load(tmp_path / name).model.stem.proj.weight)
    assert not torch.equal(finals[0], finals[1])
    assert not torch.equal(finals[0], finals[2])


# The result


def test_the_norm_is_of_the_gradient_before_clipping(noise: Any) -> None:
    norms = []
    for setting in ("optim.clip_norm=none", "optim.clip_norm=1e-3"):
        own = stepper(noise, setting, "model.drop_path=0")
        run: Run = own.run
        norms.append(own(run.batches()[0], 0).grad_norm.item())
        lengths = [p.grad.norm() for p in run.model.parameters() if p.grad is not None]
        left = torch.stack(lengths).norm().item()
    assert norms[0] == norms[1] > 0.01
    assert left == pytest.approx(1e-3, rel=1e-3)
