"""Training at several sizes: at each the network that `resize` makes."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

import mlp_mixer
from mlp_mixer import Dataset, MixerConfig, MlpMixer, UserError
from mlp_mixer.config import override
from mlp_mixer.recipes import get_recipe
from mlp_mixer.training import prepare, train
from mlp_mixer.training.extras import elastic
from mlp_mixer.training.extras.elastic import Elastic, at_a_side, scaled
from mlp_mixer.training.optim.build import build_optimizer
from mlp_mixer.training.parallel import wrap
from mlp_mixer.training.step import Stepper

TINY = [
    "model.num_blocks=2",
    "model.hidden_dim=16",
    "model.tokens_mlp_dim=8",
    "model.channels_mlp_dim=32",
    "model.drop_path=0.3",
    "train.batch_size=24",
    "train.steps=4",
    "train.device=cpu",
    "train.threads=1",
    "train.ema=0.9",
    "train.save_every_steps=2",
    "train.log_every_steps=1",
    "augment.rotate=0",
    "augment.scale=0",
]
SIDES = "augment.sides=4,8,12"
RESMLP = "model.name=resmlp_12"


def source() -> Dataset:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (120, 8, 8, 1), dtype=np.uint8)
    return Dataset.from_arrays(images, np.arange(120) % 3, ["a", "b", "c"])


def mixer(**fields: Any) -> MlpMixer:
    """16 pixels, patches of 4; no parameter is zero, behind which an error could hide."""
    own = {"image_size": (16, 16), "num_classes": 3}
    model = MlpMixer(MixerConfig(4, 2, 12, 6, 24, **(own | fields)))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def stepper(*settings: str) -> Stepper:
    config = override(get_recipe("digits"), [*TINY, SIDES, *settings])
    run = prepare(config, source())
    for parameter in run.model.parameters():
        generator = torch.Generator().manual_seed(parameter.numel())
        torch.nn.init.normal_(parameter, std=0.3, generator=generator)
    run.model.train().set_grad_checkpointing(config.train.grad_checkpointing)
    return Stepper(run, run.model, build_optimizer(run.model, config.optim), None)


def after(steps: Sequence[int], *settings: str) -> list[torch.Tensor]:
    """The weights after these steps."""
    own = stepper(*settings)
    for step in steps:
        own(own.run.batches()[step], step)
    return [parameter.detach() for parameter in own.run.model.parameters()]


def sides_of(own: Stepper, steps: int) -> list[int]:
    batch = own.run.batches()[0]
    return [own.inputs(batch, step)[0].shape[-1] for step in range(steps)]


def spy(monkeypatch: pytest.MonkeyPatch, thing: Any, name: str) -> list[Any]:
    """Collect the arguments of every call of a function, which still does its work."""
    calls: list[Any] = []
    real = getattr(thing, name)

    def watched(*arguments: Any) -> Any:
        calls.append(arguments)
        return real(*arguments)

    monkeypatch.setattr(thing, name, watched)
    return calls


@pytest.mark.parametrize("side", [8, 12, 16, 24])
def test_at_every_side_it_is_what_resize_makes_of_the_weights_of_the_moment(
    side: int,
) -> None:
    base = mixer()
    images = torch.randn(2, 3, side, side)
    network = Elastic(base, (8, 12, 24))
    with torch.no_grad():
        for parameter in base.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    expected = mlp_mixer.resize(base, side, method="interpolate")(images)
    torch.testing.assert_close(network(images), expected, rtol=0, atol=1e-5)
    own = [f"base.{name}" for name, _ in base.named_parameters()]
    assert [name for name, _ in network.named_parameters()] == own


def test_the_gradient_of_every_parameter_is_that_through_the_interpolation() -> None:
    """By finite differences of the resized network, in float64."""
    base = mixer().double()
    images = torch.randn(2, 3, 24, 24, dtype=torch.float64)
    Elastic(base, (24,))(images).square().sum().backward()
    for name, parameter in base.named_parameters():
        assert parameter.grad is not None, name
        direction = torch.randn_like(parameter)
        values = []
        for sign in (1, -1):
            moved = copy.deepcopy(base)
            moved.get_parameter(name).data += sign * 1e-5 * direction
            resized = mlp_mixer.resize(moved, 24, method="interpolate")
            values.append(resized(images).square().sum().item())
        slope = (values[0] - values[1]) / 2e-5
        found = (parameter.grad * direction).sum().item()
        assert found == pytest.approx(slope, rel=1e-5, abs=1e-7), name


def test_the_modes_and_draws_of_stochastic_depth_reach_every_side() -> None:
    base = mixer(drop_path=0.9)
    images = torch.randn(2, 3, 24, 24)
    network = Elastic(base.train(), (24,))
    zeros = torch.zeros(2, 2, 2)
    ones = torch.ones(2, 2, 2)
    assert not torch.equal(network(images, zeros), network(images, ones))
    base.eval()
    assert torch.equal(network(images, zeros), network(images, ones))


def test_autocast_does_not_round_the_weights_before_they_are_resampled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = spy(monkeypatch, elastic, "functional_call")
    with torch.autocast("cpu", torch.bfloat16):
        Elastic(mixer(), (24,))(torch.randn(2, 3, 24, 24))
    dtypes = [tensor.dtype for _, own, _ in calls for tensor in own.values()]
    assert dtypes == 6 * [torch.float32]


def test_checkpointing_recomputes_the_blocks_of_other_sides(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = spy(monkeypatch, elastic, "functional_call")
    base = mixer()
    images = torch.randn(2, 3, 24, 24)
    for enable, expected in ((False, [0, 1]), (True, [0, 1, 1, 0])):
        base.set_grad_checkpointing(enable)
        Elastic(base, (24,))(images).sum().backward()
        assert [block for block, *_ in calls] == [base.blocks[i] for i in expected]
        calls.clear()


def test_each_side_comes_equally_often_and_belongs_to_seed_and_step() -> None:
    image = torch.zeros(1, 1, 8, 8)
    drawn = []
    for step in range(300):
        drawn.append(at_a_side(image, (4, 8, 12), 0, step).shape[-1])
    assert all(abs(count - 100) < 30 for count in Counter(drawn).values())
    # At seed 0, whatever the images are.
    assert sides_of(stepper(), 40) == drawn[:40]
    assert sides_of(stepper("train.seed=1"), 40) != drawn[:40]


def test_images_are_scaled_after_normalisation_and_mixing() -> None:
    own = stepper("mix.mixup=0.5")
    plain = stepper("mix.mixup=0.5", "augment.sides=8")
    for step in range(6):
        batch = own.run.batches()[step]
        (images, targets, _) = own.inputs(batch, step)
        (whole, same, _) = plain.inputs(batch, step)
        assert torch.equal(targets, same)
        assert torch.equal(images, scaled(whole, images.shape[-1]))


def test_the_models_own_side_alone_changes_nothing() -> None:
    alone = after(range(2), "augment.sides=8")
    plain = after(range(2), "augment.sides=[]")
    for one, other in zip(alone, plain, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    "setting",
    ["train.grad_checkpointing=true", "train.accumulate=3", "optim.sam_images=24"],
)
def test_other_ways_to_the_same_step(setting: str) -> None:
    """Recomputed blocks, parts of a batch; and SAM, whose plain step is its limit."""
    sgd = ["optim.name=sgd"]
    sharp = ["optim.rho=1e-7"] if "sam" in setting else []
    assert len(set(sides_of(stepper(), 4))) > 1
    found = after(range(4), setting, *sharp, *sgd)
    for one, other in zip(found, after(range(4), *sgd), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_under_ddp_every_parameter_is_used_at_every_side(tmp_path: Path) -> None:
    store = f"file://{tmp_path / 'store'}"
    dist.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    try:
        own = stepper("train.accumulate=2")
        own.network = wrap(own.run.model, own.run.config)
        assert isinstance(own.network, DistributedDataParallel)
        for step in range(4):
            own(own.run.batches()[step], step)
    finally:
        dist.destroy_process_group()
    found = own.run.model.parameters()
    expected = after(range(4), "train.accumulate=2")
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


def test_both_passes_of_a_sharp_step_have_one_side(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own = stepper("optim.rho=0.05")
    calls = spy(monkeypatch, Elastic, "forward")
    sides = sides_of(own, 4)
    for step in range(4):
        own(own.run.batches()[step], step)
    seen = [image.shape[-1] for _, image, *_ in calls]
    assert seen == [side for side in sides for _ in range(2)]


def test_a_resumed_run_ends_with_the_same_bytes_and_the_models_own_size(
    tmp_path: Path, crash_at: Any, crash: type[Exception]
) -> None:
    settings = [*TINY, SIDES, "mix.mixup=0.5", "train.steps=6"]
    config = override(get_recipe("digits"), settings)
    # The run goes on from the state at step 2.
    assert len(set(sides_of(stepper(), 6)[2:])) > 1
    whole = tmp_path / "whole"
    parts = tmp_path / "parts"
    fixed = tmp_path / "fixed"
    last = "last.safetensors"
    train(config, whole, source=source())
    with pytest.raises(crash):
        train(config, parts, source=source(), report=crash_at(4))
    train(config, parts, source=source(), resume=True)
    assert "starting anew" not in (parts / "metrics.jsonl").read_text()
    assert (whole / last).read_bytes() == (parts / last).read_bytes()

    checkpoint = mlp_mixer.load(whole)
    assert checkpoint.model.config.image_size == (8, 8)
    assert checkpoint.preprocess.image_size == (8, 8)
    train(override(config, ["augment.sides=8"]), fixed, source=source())
    other = mlp_mixer.load(fixed / last).model.stem.proj.weight
    own = mlp_mixer.load(whole / last).model.stem.proj.weight
    assert not torch.equal(other, own)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (
            ["augment.sides=8,9"],
            "augment.sides=9: image size 9x9 is not divisible by the patch size 2",
        ),
        (["augment.sides=0"], "augment.sides=0: image size 0x0 is not divisible"),
        (["augment.sides=-2"], "augment.sides=-2: image size -2x-2 is not divisible"),
        (
            [RESMLP, "model.num_blocks=1", "model.image_size=8", "model.patch_size=2"],
            "augment.sides knows Mixers only",
        ),
        (
            ["model.image_size=[8,12]"],
            "augment.sides are of square images, this model takes 8x12",
        ),
        (["train.parallel=fsdp"], "augment.sides needs whole weights"),
        (
            ["train.kernels=fused"],
            "train.kernels=fused and train.compile are for one size",
        ),
        (
            ["train.compile=true"],
            "train.kernels=fused and train.compile are for one size",
        ),
    ],
)
def test_what_cannot_be_is_said_before_the_first_step(
    settings: list[str], sentence: str
) -> None:
    # A ResMLP has no widths of its own to set.
    common = TINY[4:] if RESMLP in settings else TINY
    config = override(get_recipe("digits"), [*common, SIDES, *settings])
    with pytest.raises(UserError) as error:
        prepare(config, source())
    assert str(error.value).startswith(sentence)


def test_the_size_of_parts_is_not_searched_for(tmp_path: Path) -> None:
    config = override(get_recipe("digits"), [*TINY, SIDES])
    with pytest.raises(UserError, match="set train.accumulate by hand for"):
        train(config, tmp_path / "run", source=source(), find_batch_size=True)
