"""A step: the same for however many parts and processes, and what happens when a
gradient is no number.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F

from mlp_mixer import UserError, create_model, load, save
from mlp_mixer.config import override
from mlp_mixer.data import ArraySet, Dataset
from mlp_mixer.data.loader import TrainBatches
from mlp_mixer.images.preprocess import Preprocess
from mlp_mixer.images.settings import Augment
from mlp_mixer.recipes import RECIPES, get_recipe
from mlp_mixer.training import prepare, step, train
from mlp_mixer.training.config import ModelChoice
from mlp_mixer.training.optim.build import build_optimizer
from mlp_mixer.training.state import newest_state
from mlp_mixer.training.step import Stepper

SMALL = [
    "model.num_blocks=3", "model.hidden_dim=8", "model.tokens_mlp_dim=4", "model.channels_mlp_dim=16",
    "train.batch_size=24", "train.epochs=2", "train.device=cpu", "train.threads=1", "data.val_fraction=0.2",
    "augment.shift=0", "augment.rotate=0", "augment.scale=0", "train.ema=0", "train.log_every_steps=1",
]  # fmt: skip


def source(n: int = 120, classes: int = 3) -> Dataset:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (n, 8, 8, 1), dtype=np.uint8)
    return Dataset.from_arrays(
        images, np.arange(n) % classes, [f"class {k}" for k in range(classes)]
    )


def stepper(*settings: str) -> tuple[Stepper, Any]:
    run = prepare(override(get_recipe("digits"), [*SMALL, *settings]), source())
    for parameter in run.model.parameters():
        torch.nn.init.normal_(
            parameter,
            std=0.3,
            generator=torch.Generator().manual_seed(parameter.numel()),
        )
    return Stepper(
        run, run.model.train(), build_optimizer(run.model, run.config.optim), None
    ), run


def gradients(settings: list[str], number: int = 5) -> tuple[float, list[torch.Tensor]]:
    own, run = stepper(*settings)
    loss, _ = own.backward(*own.inputs(run.batches()[number], number), number)
    return loss.item(), [parameter.grad.clone() for parameter in run.model.parameters()]


@pytest.mark.parametrize(
    "extra",
    [[], ["mix.mixup=0.5"], ["train.loss=sigmoid"], ["train.label_smoothing=0.1"]],
)
@pytest.mark.parametrize("parts", [2, 5, 24, 100])
def test_parts_of_a_batch_add_up(extra: list[str], parts: int) -> None:
    settings = [*extra, "model.drop_path=0.3"]
    loss, whole = gradients(settings)
    loss_of_parts, sum_of_parts = gradients([*settings, f"train.accumulate={parts}"])
    assert loss_of_parts == pytest.approx(loss, abs=1e-5)
    assert all(
        torch.allclose(a, b, atol=1e-5)
        for a, b in zip(whole, sum_of_parts, strict=True)
    )


def test_sigmoid_loss_is_the_sum_over_classes_as_in_big_vision() -> None:
    own, run = stepper("train.loss=sigmoid", "train.label_smoothing=0")
    batch = run.batches()[0]
    logits = run.model(run.preprocess.normalize(batch.images)).double()
    targets = F.one_hot(batch.labels, 3).double()
    log_p = F.logsigmoid(logits)
    log_not_p = F.logsigmoid(-logits)
    expected = -(targets * log_p + (1 - targets) * log_not_p).sum(1).mean()
    loss, _ = own._loss(*own.inputs(batch, 0))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_head_bias_and_the_kind_of_head_are_kept(tmp_path: Path) -> None:
    config = override(
        get_recipe("digits"),
        [*SMALL, "train.loss=sigmoid", "train.head_bias=-6.9", "optim.lr=1e-9"],
    )
    train(config, tmp_path / "run", source=source())
    checkpoint = load(tmp_path / "run")
    assert torch.allclose(checkpoint.model.head.bias, torch.tensor(-6.9), atol=1e-3)  # type: ignore[arg-type]
    assert checkpoint.provenance["head"] == "sigmoid"


def test_stochastic_depth_belongs_to_the_image_in_however_many_processes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own, _ = stepper("model.drop_path=0.5")
    whole = own.depth_draws(7)
    assert whole is not None
    assert whole.shape == (24, 3, 2)
    parts = []
    for rank in range(3):
        monkeypatch.setattr(step, "rank", lambda rank=rank: rank)
        monkeypatch.setattr(step, "world_size", lambda: 3)
        parts.append(own.depth_draws(7))
    assert torch.equal(torch.cat(parts), whole)
    assert stepper("model.drop_path=0")[0].depth_draws(7) is None


def test_draws_decide_which_branches_are_kept() -> None:
    model = create_model(
        "mixer_nano4", num_classes=2, num_blocks=2, hidden_dim=8, drop_path=0.5
    ).train()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    image = torch.randn(2, 3, 32, 32)
    kept = torch.zeros(2, 2, 2)
    dropped = torch.full((2, 2, 2), 0.999)
    assert torch.allclose(
        model(image, kept), model.eval()(image), atol=1e-5
    )  # the paper's rule does not rescale
    first_only = model.train().forward_head(
        model.norm(model.blocks[0].eval()(model.stem(image)))
    )
    assert torch.allclose(
        model.train()(image, dropped), first_only, atol=1e-5
    )  # the first block's rate is 0
    mixed = torch.stack([kept[0], dropped[0]])
    assert torch.allclose(model(image, mixed)[0], model(image, kept)[0], atol=1e-5)
    assert torch.allclose(model(image, mixed)[1], model(image, dropped)[1], atol=1e-5)


def test_every_image_comes_once_per_epoch_over_restarts_and_changing_worlds() -> None:
    """Two processes, then one, then three: the ledger of two epochs and a bit."""
    images = source(101).train
    preprocess = Preprocess((8, 8), channels=1)
    seen: Counter[int] = Counter()
    worlds = [2] * 6 + [1] * 5 + [3] * 6
    length = len(images)
    size = 12
    for number, world in enumerate(worlds):
        for rank in range(world):
            seen.update(
                TrainBatches(images, preprocess, Augment(), size, 0, rank, world)[
                    number
                ].indices.tolist()
            )
    epochs, rest = divmod(len(worlds) * size, length)
    assert epochs >= 2
    assert Counter(seen.values()) == {epochs: length - rest, epochs + 1: rest}


def broken_at(monkeypatch: pytest.MonkeyPatch, bad: int) -> None:
    """The gradient of this step is no number, every time it comes."""
    honest = Stepper.backward

    def backward(self: Stepper, *inputs: Any) -> Any:
        result = honest(self, *inputs)
        if inputs[-1] == bad:
            next(self.run.model.parameters()).grad.fill_(float("nan"))  # type: ignore[union-attr]
        return result

    monkeypatch.setattr(Stepper, "backward", backward)


def digests(out: Path) -> list[str]:
    paths = [
        out / "best.safetensors",
        out / "last.safetensors",
        *sorted((out / "state").iterdir()),
    ]
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]


def test_a_bad_step_stops_the_run_and_names_step_and_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken_at(monkeypatch, 5)
    with pytest.raises(
        UserError,
        match=r"no number at step 5 \(images \d+, .* and 18 more\).*train.nonfinite=rollback",
    ):
        train(override(get_recipe("digits"), SMALL), tmp_path / "run", source=source())


def test_or_the_run_goes_back_and_leaves_the_step_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a crash after that changes nothing."""
    broken_at(monkeypatch, 5)
    config = override(
        get_recipe("digits"),
        [*SMALL, "train.nonfinite=rollback", "train.save_every_steps=2"],
    )
    notes: list[str] = []
    whole = tmp_path / "whole"
    train(
        config,
        whole,
        source=source(),
        report=lambda row: notes.append(row["text"]) if row["kind"] == "note" else None,
    )
    assert [note for note in notes if "back to step 4, and without that step" in note]
    state, _ = newest_state(whole)
    assert state is not None
    assert state.skipped == [5]

    def crash(row: dict[str, Any]) -> None:
        if row["kind"] == "train" and row["step"] == 8 - 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "crashed", source=source(), report=crash)
    train(config, tmp_path / "crashed", source=source(), resume=True)
    assert digests(tmp_path / "crashed") == digests(whole)


def test_finetuning_keeps_what_the_weights_know_by_name(tmp_path: Path) -> None:
    model = create_model(
        "mixer_pico2", num_classes=3, in_channels=1, num_blocks=1, hidden_dim=8
    )
    torch.nn.init.normal_(model.head.weight)  # type: ignore[arg-type]
    preprocess = Preprocess((8, 8), channels=1, crop_pct=0.9, resampler="opencv")
    save(
        tmp_path / "old.safetensors",
        model,
        labels=["class 2", "owl", "class 0"],
        preprocess=preprocess,
    )
    config = override(get_recipe("digits"), ["model.drop_path=0.2", "train.device=cpu"])
    config = dataclasses.replace(
        config,
        model=dataclasses.replace(
            type(config.model)(), init=str(tmp_path / "old.safetensors"), drop_path=0.2
        ),
    )
    run = prepare(config, source())
    assert run.preprocess == preprocess
    assert run.model.config.drop_path == 0.2
    head = run.model.head.weight
    assert torch.equal(head[0], model.head.weight[2])  # type: ignore[index]
    assert torch.equal(head[2], model.head.weight[0])  # type: ignore[index]
    assert not head[1].any()  # type: ignore[index]
    assert run.notes == ("the head keeps 2 of 3 classes that the weights know by name",)
    with pytest.raises(UserError, match="model.num_blocks is settled by the weights"):
        prepare(
            dataclasses.replace(
                config, model=dataclasses.replace(config.model, num_blocks=2)
            ),
            source(),
        )


def test_finetuning_at_another_size_begins_with_the_answers_of_the_tiles(
    tmp_path: Path,
) -> None:
    """The paper's App. C: twice the side gives the mean of four tiles, and every new
    weight can learn.
    """
    model = create_model(
        "mixer_pico2", num_classes=3, in_channels=1, num_blocks=2, hidden_dim=8
    )
    torch.nn.init.normal_(model.head.weight)  # type: ignore[arg-type]
    preprocess = Preprocess((8, 8), channels=1)
    save(
        tmp_path / "old.safetensors",
        model,
        labels=["class 0", "class 1", "class 2"],
        preprocess=preprocess,
    )
    choice = ModelChoice(init=str(tmp_path / "old.safetensors"), image_size=16)
    config = dataclasses.replace(
        override(get_recipe("digits"), ["train.device=cpu", "train.steps=4"]),
        model=choice,
    )
    run = prepare(config, source())
    assert run.preprocess.image_size == run.model.config.image_size == (16, 16)
    images = torch.randn(3, 1, 16, 16)
    tiles = [model(images[:, :, y : y + 8, x : x + 8]) for y in (0, 8) for x in (0, 8)]
    torch.testing.assert_close(
        run.model(images), torch.stack(tiles).mean(0), atol=1e-6, rtol=0
    )
    train(config, tmp_path / "run", source=source())
    learned = load(tmp_path / "run" / "last.safetensors").model.state_dict()[
        "blocks.0.mlp_tokens.fc1.weight"
    ]
    before = run.model.state_dict()["blocks.0.mlp_tokens.fc1.weight"]
    assert (learned[before == 0] != 0).any()
    with pytest.raises(UserError, match="whole multiples of 8x8"):
        prepare(
            dataclasses.replace(
                config, model=dataclasses.replace(choice, image_size=12)
            ),
            source(),
        )
    interpolated = dataclasses.replace(choice, image_size=12, resize="interpolate")
    assert prepare(
        dataclasses.replace(config, model=interpolated), source()
    ).model.config.grid == (6, 6)


def test_every_recipe_can_be_built() -> None:
    """And its numbers are those of Table 4."""
    for name, recipe in RECIPES.items():
        assert recipe().recipe == name
        assert recipe.__doc__
        config = recipe()
        assert config.train.batch_size % config.data.repeats == 0, (
            f"{name}: no batch of whole repeats"
        )
        for processes in (1, 2, 4, 8) if config.train.batch_size >= 512 else (1,):
            share, rest = divmod(config.train.batch_size, processes)
            assert rest == 0, name
            assert not config.mix.active or share % config.mix.group == 0, name
            assert (
                not config.optim.sam_images or share % config.optim.sam_images == 0
            ), name
    b16, l21k, h14 = (
        RECIPES[name]() for name in ("imagenet_b16", "imagenet21k_l16", "jft_h14")
    )
    assert (b16.train.epochs, b16.optim.lr, b16.optim.weight_decay, b16.mix.mixup) == (
        300,
        1e-3,
        0.1,
        0.5,
    )
    assert (
        b16.augment.policy_magnitude,
        l21k.augment.policy_magnitude,
        h14.augment.policy,
    ) == (15, 20, "none")
    assert (b16.train.batch_size, b16.schedule.warmup_steps, h14.train.epochs) == (
        4096,
        10_000,
        14,
    )
    released = RECIPES["bigvision_b16"]()
    assert (released.train.loss, released.train.head_bias, released.schedule.final) == (
        "sigmoid",
        -6.9,
        1e-5,
    )
    assert isinstance(source().train, ArraySet)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            ["mix.mixup=0.5", "mix.group=7"],
            "24 images of a batch, no multiple of mix.group=7",
        ),
        (
            ["optim.rho=0.1", "optim.sam_images=5"],
            "24 images of a batch, no multiple of optim.sam_images=5",
        ),
        (
            ["optim.rho=0.1", "train.parallel=fsdp"],
            "needs whole weights in each process",
        ),
    ],
)
def test_what_cannot_be_shared_is_refused(settings: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        prepare(override(get_recipe("digits"), [*SMALL, *settings]), source())


def test_sam_and_gsam_train(tmp_path: Path) -> None:
    """And several ascent steps per batch are not the same as one."""
    finals = []
    for name, settings in {
        "sam": [],
        "gsam": ["optim.alpha=0.5"],
        "m": ["optim.sam_images=6"],
    }.items():
        config = override(
            get_recipe("digits"),
            [*SMALL, "optim.rho=0.5", "model.drop_path=0.2", *settings],
        )
        train(config, tmp_path / name, source=source())
        finals.append(load(tmp_path / name).model.stem.proj.weight)
    assert not torch.equal(finals[0], finals[1])
    assert not torch.equal(finals[0], finals[2])


def test_a_state_of_an_older_version_lacks_new_settings_and_is_still_resumed(
    tmp_path: Path,
) -> None:
    from mlp_mixer.training.resume import find_state
    from mlp_mixer.training.state import _KEY
    from mlp_mixer.weights.checkpoint import opened

    config = override(get_recipe("digits"), SMALL)
    train(config, tmp_path / "run", source=source())
    state, _ = newest_state(tmp_path / "run")
    assert state is not None
    with opened(state.files[0], _KEY) as (header, file):
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    del (
        header["config"]["optim"]["rho"],
        header["config"]["mix"],
        header["made_with"],
        header["skipped"],
    )
    state.files[0].write_bytes(
        safetensors.torch.save(tensors, {_KEY: json.dumps(header)})
    )
    found = find_state(tmp_path / "run", prepare(config, source()), lambda row: None)
    assert found is not None
    assert found.step == state.step
