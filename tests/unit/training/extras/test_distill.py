"""A teacher: it sees what the student sees, as it is used to; its answers alone can
teach; a run keeps its teacher.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mlp_mixer import Dataset, MixerConfig, MlpMixer, Preprocess, UserError, load, save
from mlp_mixer.config import override
from mlp_mixer.recipes import get_recipe
from mlp_mixer.training import TrainConfig, prepare, train
from mlp_mixer.training.extras.distill import Teacher
from mlp_mixer.training.extras.linear_probe import fit_head
from mlp_mixer.training.optim.build import build_optimizer
from mlp_mixer.training.step import Stepper

TINY = [
    "model.num_blocks=2", "model.hidden_dim=16", "model.tokens_mlp_dim=8", "model.channels_mlp_dim=32",
    "train.batch_size=24", "train.steps=6", "train.device=cpu", "train.threads=1", "train.save_every_steps=2",
    "train.log_every_steps=1", "augment.rotate=0", "augment.scale=0",
]  # fmt: skip
CLASSES = ("a", "b", "c")


def source() -> Dataset:
    images = np.random.default_rng(0).integers(0, 256, (120, 8, 8, 1), dtype=np.uint8)
    return Dataset.from_arrays(images, np.arange(120) % 3, CLASSES)


def tiny(*settings: str) -> TrainConfig:
    return override(get_recipe("digits"), [*TINY, *settings])


def elder(
    path: Path, labels: tuple[str, ...], seed: int = 0, **fields: Any
) -> tuple[MlpMixer, Preprocess]:
    """A checkpoint with 12 pixels, another mean and deviation than the recipe's, and no
    parameter that is zero.
    """
    fields = {
        "image_size": (12, 12),
        "in_channels": 1,
        "num_classes": len(labels),
    } | fields
    model = MlpMixer(MixerConfig(4, 1, 8, 4, 8, **fields)).eval()
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3, generator=generator)
    preprocess = Preprocess(
        model.config.image_size, model.config.in_channels, mean=(0.2,), std=(0.7,)
    )
    save(path, model, preprocess=preprocess, labels=labels)
    return model, preprocess


class Always(nn.Module):
    """Answers with one class."""

    def __init__(self, label: int, classes: int = 3) -> None:
        super().__init__()
        self.register_buffer("logits", 50.0 * F.one_hot(torch.tensor(label), classes))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.get_buffer("logits").expand(len(images), -1)


def losses(
    config: TrainConfig, teacher: nn.Module | None = None
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Of the first batch of a student none of whose parameters is zero: the loss, and
    its gradients.
    """
    run = prepare(config, source(), teacher)
    for number, parameter in enumerate(run.model.parameters()):
        nn.init.normal_(
            parameter, std=0.3, generator=torch.Generator().manual_seed(number)
        )
    stepper = Stepper(
        run, run.model.train(), build_optimizer(run.model, config.optim), None
    )
    done = stepper.backward(*stepper.inputs(run.batches()[0], 0), 0)
    return done[0], [
        parameter.grad
        for parameter in run.model.parameters()
        if parameter.grad is not None
    ]


def test_the_teacher_sees_the_students_images_as_it_is_used_to(tmp_path: Path) -> None:
    model, own = elder(tmp_path / "elder.safetensors", ("x", "c", "b", "a"))
    run = prepare(tiny(f"distill.teacher={tmp_path / 'elder.safetensors'}"), source())
    assert run.teacher is not None
    pixels = torch.randint(256, (5, 1, 8, 8)).float()
    grown = F.interpolate(pixels, (12, 12), mode="bilinear", antialias=True)
    expected = model(own.normalize(grown))[:, [3, 2, 1]]
    torch.testing.assert_close(
        run.teacher(run.preprocess.normalize(pixels)), expected, rtol=0, atol=2e-5
    )
    assert run.provenance()["teacher"] == "elder.safetensors"
    assert run.notes == (
        "the answers of elder.safetensors at temperature 1 are 100% of the loss",
    )


@pytest.mark.parametrize("mixup", [0, 0.5])
def test_the_loss_is_hintons(mixup: float, tmp_path: Path) -> None:
    elder(tmp_path / "elder.safetensors", CLASSES)
    labels = ["train.label_smoothing=0.2", f"mix.mixup={mixup}"]
    teaching = [
        f"distill.teacher={tmp_path / 'elder.safetensors'}",
        "distill.temperature=3",
        "distill.weight=0.25",
    ]
    config = tiny(*labels, *teaching)
    found, gradients = losses(config)
    run = prepare(config, source())
    for number, parameter in enumerate(run.model.parameters()):
        nn.init.normal_(
            parameter, std=0.3, generator=torch.Generator().manual_seed(number)
        )
    plain = prepare(tiny(*labels), source())
    images, hard, _ = Stepper(
        plain, plain.model, build_optimizer(plain.model, config.optim), None
    ).inputs(run.batches()[0], 0)
    logits = run.model(images)
    assert_close = torch.testing.assert_close
    assert run.teacher is not None
    soft = F.kl_div(
        (logits / 3).log_softmax(1),
        (run.teacher(images) / 3).softmax(1),
        reduction="batchmean",
    )
    expected = (
        0.75 * F.cross_entropy(logits, hard, label_smoothing=0 if mixup else 0.2)
        + 0.25 * 9 * soft
    )
    for mine, other in zip(
        gradients,
        torch.autograd.grad(expected, list(run.model.parameters())),
        strict=True,
    ):
        assert_close(mine, other, rtol=1e-4, atol=1e-6)
    assert_close(found, expected.detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "settings", [["train.accumulate=3"], ["train.accumulate=3", "mix.cutmix=1"]]
)
def test_parts_change_nothing(settings: list[str], tmp_path: Path) -> None:
    elder(tmp_path / "elder.safetensors", CLASSES)
    config = tiny(
        f"distill.teacher={tmp_path / 'elder.safetensors'}",
        "distill.temperature=2",
        *settings[1:],
    )
    whole = losses(config)
    parts = losses(override(config, settings))
    for mine, other in zip([whole[0], *whole[1]], [parts[0], *parts[1]], strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "settings",
    [[], ["optim.rho=0.05"], ["train.precision=bf16", "distill.temperature=4"]],
)
def test_what_the_teacher_says_is_learned_whatever_the_labels_say(
    settings: list[str], tmp_path: Path
) -> None:
    config = tiny(*settings, "train.steps=30", "train.ema=0", "augment.sides=8,12")
    train(config, tmp_path / "run", source=source(), teacher=Always(2))
    student = load(tmp_path / "run" / "last.safetensors").model
    assert student(torch.rand(9, 1, 8, 8)).argmax(1).eq(2).all()


def test_a_teacher_is_not_changed(tmp_path: Path) -> None:
    teacher = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 3))
    before = copy.deepcopy(teacher.state_dict())
    train(tiny(), tmp_path / "run", source=source(), teacher=teacher)
    torch.testing.assert_close(teacher.state_dict(), before, rtol=0, atol=0)
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_a_resumed_run_ends_with_the_same_bytes_and_refuses_another_teacher(
    tmp_path: Path,
) -> None:
    def crash(row: dict[str, Any]) -> None:
        if row.get("kind") == "train" and row["step"] >= 4:
            raise KeyError

    path = tmp_path / "elder.safetensors"
    elder(path, CLASSES)
    config = tiny(f"distill.teacher={path}")
    train(config, tmp_path / "whole", source=source())
    with pytest.raises(KeyError):
        train(config, tmp_path / "parts", source=source(), report=crash)
    elder(path, CLASSES, seed=1)
    with pytest.raises(UserError, match="the teacher is not the one that"):
        train(config, tmp_path / "parts", source=source(), resume=True)
    with pytest.raises(UserError, match="the teacher is not the one that"):
        train(tiny(), tmp_path / "parts", source=source(), resume=True)
    (tmp_path / "moved").mkdir()
    elder(moved := tmp_path / "moved" / path.name, CLASSES)
    config = override(config, [f"distill.teacher={moved}"])
    train(config, tmp_path / "parts", source=source(), resume=True)
    assert "starting anew" not in (tmp_path / "parts" / "metrics.jsonl").read_text()
    whole, parts = (
        (tmp_path / name / "last.safetensors").read_bytes()
        for name in ("whole", "parts")
    )
    assert whole == parts


def test_what_cannot_teach_is_named_before_the_first_step(tmp_path: Path) -> None:
    path = tmp_path / "elder.safetensors"
    config = tiny(f"distill.teacher={path}")

    def sentence(config: TrainConfig, teacher: nn.Module | None = None) -> str:
        with pytest.raises(UserError) as error:
            prepare(config, source(), teacher)
        return str(error.value)

    assert "elder.safetensors" in sentence(config)  # no such file
    elder(path, ("a", "bee", "sea"))
    assert sentence(config).startswith(
        "distill.teacher=elder.safetensors does not know b, c: a teacher needs every"
    )
    elder(path, CLASSES, in_channels=3)
    assert (
        sentence(config)
        == "the images have 1 channels, distill.teacher=elder.safetensors takes 3"
    )
    elder(path, CLASSES)
    assert sentence(config, Always(1)).startswith("one teacher only")
    assert sentence(override(config, ["train.loss=sigmoid"])).startswith(
        "a teacher's answers are shares of one"
    )
    assert sentence(tiny("distill.temperature=2")).startswith(
        "distill.temperature and distill.weight are of a teacher"
    )
    with pytest.raises(UserError, match=r"distill\.temperature must be above 0, got 0"):
        tiny("distill.temperature=0")
    with pytest.raises(UserError, match="leave out distill.teacher"):
        fit_head(
            override(config, [f"model.init={path}"]), tmp_path / "head", source=source()
        )
    with pytest.raises(
        UserError,
        match=r"the teacher answers with \(24, 2\) to 24 images: expected one logit for each of",
    ):
        train(tiny(), tmp_path / "run", source=source(), teacher=Always(1, 2))


def test_the_fingerprint_is_of_every_weight() -> None:
    def of(network: nn.Module) -> str:
        return Teacher(
            "", network, Preprocess((8, 8)), Preprocess((8, 8)), (0,)
        ).fingerprint

    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    before = of(network)
    assert before == of(copy.deepcopy(network))
    for tensor in network.state_dict().values():
        changed = tensor.clone()
        tensor += 1
        assert of(network) != before
        tensor.copy_(changed)
    assert of(network) == before
