"""A teacher: it sees what the student sees, its answers teach, a run keeps its own."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mlp_mixer import MixerConfig, MlpMixer, Preprocess, UserError, load, save
from mlp_mixer.config import override
from mlp_mixer.recipes import get_recipe
from mlp_mixer.training import Run, TrainConfig, prepare, train
from mlp_mixer.training.extras.distill import Teacher
from mlp_mixer.training.extras.linear_probe import fit_head
from mlp_mixer.training.optim.build import build_optimizer
from mlp_mixer.training.step import Stepper

TINY = [
    "model.num_blocks=2",
    "model.hidden_dim=16",
    "model.tokens_mlp_dim=8",
    "model.channels_mlp_dim=32",
    "train.batch_size=24",
    "train.steps=6",
    "train.device=cpu",
    "train.threads=1",
    "train.save_every_steps=2",
    "train.log_every_steps=1",
    "augment.rotate=0",
    "augment.scale=0",
]
# Those of the fixture `noise`.
CLASSES = ("class 0", "class 1", "class 2")


def tiny(*settings: str) -> TrainConfig:
    return override(get_recipe("digits"), [*TINY, *settings])


def elder(
    path: Path, labels: tuple[str, ...] = CLASSES, seed: int = 0, **fields: Any
) -> tuple[MlpMixer, Preprocess]:
    """Save a checkpoint of 12 pixels with another mean and deviation than the recipe's.

    No parameter is zero.
    """
    own = {"image_size": (12, 12), "in_channels": 1, "num_classes": len(labels)}
    model = MlpMixer(MixerConfig(4, 1, 8, 4, 8, **(own | fields))).eval()
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3, generator=generator)
    size = model.config.image_size
    channels = model.config.in_channels
    preprocess = Preprocess(size, channels, mean=(0.2,), std=(0.7,))
    save(path, model, preprocess=preprocess, labels=labels)
    return model, preprocess


class Always(nn.Module):
    """Answers with one class."""

    def __init__(self, label: int, classes: int = 3) -> None:
        super().__init__()
        self.register_buffer("logits", 50.0 * F.one_hot(torch.tensor(label), classes))

    def forward(self, images: Tensor) -> Tensor:
        return self.get_buffer("logits").expand(len(images), -1)


def randomised(run: Run) -> Run:
    """Give the student weights of which none is zero."""
    for number, parameter in enumerate(run.model.parameters()):
        generator = torch.Generator().manual_seed(number)
        nn.init.normal_(parameter, std=0.3, generator=generator)
    return run


def stepper(run: Run) -> Stepper:
    optimizer = build_optimizer(run.model, run.config.optim)
    return Stepper(run, run.model.train(), optimizer, None)


def loss_and_gradients(config: TrainConfig, noise: Any) -> list[Tensor]:
    """The loss of the first batch, and its gradients."""
    run = randomised(prepare(config, noise()))
    own = stepper(run)
    loss, _ = own.backward(*own.inputs(run.batches()[0], 0), 0)
    gradients = [parameter.grad for parameter in run.model.parameters()]
    return [loss, *(gradient for gradient in gradients if gradient is not None)]


# What it sees, and the loss


def test_the_teacher_sees_the_students_images_as_it_is_used_to(
    tmp_path: Path, noise: Any
) -> None:
    path = tmp_path / "elder.safetensors"
    model, own = elder(path, ("x", "class 2", "class 1", "class 0"))
    run = prepare(tiny(f"distill.teacher={path}"), noise())
    assert run.teacher is not None
    pixels = torch.randint(256, (5, 1, 8, 8)).float()
    grown = F.interpolate(pixels, (12, 12), mode="bilinear", antialias=True)
    expected = model(own.normalize(grown))[:, [3, 2, 1]]
    found = run.teacher(run.preprocess.normalize(pixels))
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)
    assert run.provenance()["teacher"] == "elder.safetensors"
    note = "the answers of elder.safetensors at temperature 1 are 100% of the loss"
    assert run.notes == (note,)


@pytest.mark.parametrize("mixup", [0, 0.5])
def test_the_loss_is_hintons(mixup: float, tmp_path: Path, noise: Any) -> None:
    path = tmp_path / "elder.safetensors"
    elder(path)
    labels = ["train.label_smoothing=0.2", f"mix.mixup={mixup}"]
    teaching = ["distill.temperature=3", "distill.weight=0.25"]
    config = tiny(f"distill.teacher={path}", *labels, *teaching)
    loss, *gradients = loss_and_gradients(config, noise)

    run = randomised(prepare(config, noise()))
    assert run.teacher is not None
    plain = stepper(prepare(tiny(*labels), noise()))
    images, targets, _ = plain.inputs(run.batches()[0], 0)
    logits = run.model(images)
    own = (logits / 3).log_softmax(1)
    answers = (run.teacher(images) / 3).softmax(1)
    soft = F.kl_div(own, answers, reduction="batchmean")
    # Mixed targets are smoothed already.
    smoothing = 0 if mixup else 0.2
    hard = F.cross_entropy(logits, targets, label_smoothing=smoothing)
    expected = 0.75 * hard + 0.25 * 9 * soft
    slopes = torch.autograd.grad(expected, list(run.model.parameters()))
    for found, slope in zip(gradients, slopes, strict=True):
        torch.testing.assert_close(found, slope, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(loss, expected.detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mixing", [[], ["mix.cutmix=1"]])
def test_parts_change_nothing(mixing: list[str], tmp_path: Path, noise: Any) -> None:
    path = tmp_path / "elder.safetensors"
    elder(path)
    config = tiny(f"distill.teacher={path}", "distill.temperature=2", *mixing)
    whole = loss_and_gradients(config, noise)
    parts = loss_and_gradients(override(config, ["train.accumulate=3"]), noise)
    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "settings",
    [[], ["optim.rho=0.05"], ["train.precision=bf16", "distill.temperature=4"]],
)
def test_what_the_teacher_says_is_learned_whatever_the_labels_say(
    settings: list[str], tmp_path: Path, noise: Any
) -> None:
    config = tiny(*settings, "train.steps=30", "train.ema=0", "augment.sides=8,12")
    train(config, tmp_path / "run", source=noise(), teacher=Always(2))
    student = load(tmp_path / "run" / "last.safetensors").model
    assert student(torch.rand(9, 1, 8, 8)).argmax(1).eq(2).all()


# A run and its teacher


def test_a_teacher_is_not_changed(tmp_path: Path, noise: Any) -> None:
    teacher = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 3))
    before = copy.deepcopy(teacher.state_dict())
    train(tiny(), tmp_path / "run", source=noise(), teacher=teacher)
    torch.testing.assert_close(teacher.state_dict(), before, rtol=0, atol=0)
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_a_resumed_run_ends_with_the_same_bytes_and_refuses_another_teacher(
    tmp_path: Path, noise: Any, crash_at: Any, crash: type[Exception]
) -> None:
    whole = tmp_path / "whole"
    parts = tmp_path / "parts"
    path = tmp_path / "elder.safetensors"
    elder(path)
    config = tiny(f"distill.teacher={path}")
    train(config, whole, source=noise())
    with pytest.raises(crash):
        train(config, parts, source=noise(), report=crash_at(4))

    # Other weights under the same name, or no teacher at all, are refused.
    elder(path, seed=1)
    for other in (config, tiny()):
        with pytest.raises(UserError, match="the teacher is not the one that"):
            train(other, parts, source=noise(), resume=True)

    # The same weights in another place are welcome.
    (tmp_path / "moved").mkdir()
    moved = tmp_path / "moved" / path.name
    elder(moved)
    config = override(config, [f"distill.teacher={moved}"])
    train(config, parts, source=noise(), resume=True)
    assert "starting anew" not in (parts / "metrics.jsonl").read_text()
    last = "last.safetensors"
    assert (whole / last).read_bytes() == (parts / last).read_bytes()


def test_the_fingerprint_is_of_every_weight() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    preprocess = Preprocess((8, 8))

    def fingerprint(network: nn.Module) -> str:
        return Teacher("", network, preprocess, preprocess, (0,)).fingerprint

    before = fingerprint(network)
    assert fingerprint(copy.deepcopy(network)) == before
    for tensor in network.state_dict().values():
        kept = tensor.clone()
        tensor += 1
        assert fingerprint(network) != before
        tensor.copy_(kept)
    assert fingerprint(network) == before


# Mistakes


@pytest.mark.parametrize(
    ("saved", "settings", "given", "sentence"),
    [
        (
            {"labels": ("class 0", "bee", "sea")},
            [],
            None,
            "distill.teacher=elder.safetensors does not know class 1, class 2: a teacher",
        ),
        (
            {"in_channels": 3},
            [],
            None,
            "the images have 1 channels, distill.teacher=elder.safetensors takes 3",
        ),
        ({}, [], Always(1), "one teacher only"),
        ({}, ["train.loss=sigmoid"], None, "a teacher's answers are shares of one"),
    ],
)
def test_what_cannot_teach_is_named_before_the_first_step(
    saved: Any,
    settings: list[str],
    given: nn.Module | None,
    sentence: str,
    tmp_path: Path,
    noise: Any,
) -> None:
    path = tmp_path / "elder.safetensors"
    elder(path, **saved)
    config = tiny(f"distill.teacher={path}", *settings)
    with pytest.raises(UserError) as error:
        prepare(config, noise(), given)
    assert str(error.value).startswith(sentence)


def test_a_teacher_that_is_not_there_is_named(noise: Any) -> None:
    with pytest.raises(UserError, match="nowhere.safetensors"):
        prepare(tiny("distill.teacher=nowhere.safetensors"), noise())
    with pytest.raises(UserError, match="distill.weight are of a teacher"):
        prepare(tiny("distill.temperature=2"), noise())
    with pytest.raises(UserError, match=r"distill\.temperature must be above 0, got 0"):
        tiny("distill.temperature=0")


def test_a_linear_probe_has_no_teacher(tmp_path: Path, noise: Any) -> None:
    path = tmp_path / "elder.safetensors"
    elder(path)
    config = tiny(f"distill.teacher={path}", f"model.init={path}")
    with pytest.raises(UserError, match="leave out distill.teacher"):
        fit_head(config, tmp_path / "head", source=noise())


def test_a_teacher_of_too_few_classes_is_named(tmp_path: Path, noise: Any) -> None:
    sentence = r"answers with \(24, 2\) to 24 images: expected one logit for each of"
    with pytest.raises(UserError, match=sentence):
        train(tiny(), tmp_path / "run", source=noise(), teacher=Always(1, 2))
