"""The pretexts of `experiments/transfer` crop and colour what they say, and learn.

The tasks themselves are tested with the package.
"""

from __future__ import annotations

import argparse
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from mlp_mixer import MixerConfig, MlpMixer

FOLDER = Path(__file__).parents[2] / "experiments" / "transfer"
PRETEXT = SimpleNamespace(**runpy.run_path(str(FOLDER / "pretext.py")))


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    monkeypatch.syspath_prepend(str(FOLDER))
    return SimpleNamespace(**runpy.run_path(str(FOLDER / "run.py")))


def small() -> MlpMixer:
    return MlpMixer(MixerConfig(4, 2, 12, 6, 24, image_size=(16, 16), num_classes=0))


@pytest.mark.parametrize("mirrored", [True, False])
def test_a_view_is_a_crop_inside_the_image(mirrored: bool) -> None:
    at = (torch.arange(32) + 0.5) / 32
    ramps = torch.stack([at.expand(32, 32), at[:, None].expand(32, 32)]).expand(
        2000, 2, 32, 32
    )
    seen = PRETEXT.views(ramps, mirrored, least=0.25, colours=False)
    assert seen.min() >= at[0]  # nothing from beyond
    assert seen.max() <= at[-1]
    width = (seen[:, 0, :, 17] - seen[:, 0, :, 14]).mean(1) * 32 / 3
    height = (seen[:, 1, 17] - seen[:, 1, 14]).mean(1) * 32 / 3
    area = width.abs() * height
    ratio = width.abs() / height
    for way, side in enumerate((width.abs(), height)):
        middle = seen[:, way, 15:17, 15:17].mean(dim=(1, 2))
        assert (middle - side / 2).min() > -1e-4
        assert (middle + side / 2).max() < 1 + 1e-4
    assert 0.24 < area.min() < 0.27
    assert 0.95 < area.max() < 1.001
    assert 0.74 < ratio.min() < 0.77
    assert 1.30 < ratio.max() < 1.34
    assert (width < 0).double().mean().sub(0.5 if mirrored else 0).abs() < (
        0.05 if mirrored else 1e-9
    )


def test_colours_are_drawn_for_each_image_alone() -> None:
    images = torch.tensor([0.5, 0.4, 0.3])[:, None, None].expand(4000, 3, 8, 8)
    seen = PRETEXT.views(images, True)[:, :, 4, 4]
    grey = (seen - seen[:, :1]).abs().amax(1) < 1e-6
    same = (seen - images[:, :, 4, 4]).abs().amax(1) < 1e-6
    assert grey.double().mean().sub(0.2).abs() < 0.03
    assert same.double().mean().sub(0.2 * 0.8).abs() < 0.03
    light = seen.mean(1) / 0.4
    assert 0.6 - 1e-4 < light.min() < 0.62
    assert 1.38 < light.max() < 1.4 + 1e-4


@pytest.mark.parametrize("kind", PRETEXT.PRETEXTS)
def test_pretraining_learns_and_repeats(kind: str) -> None:
    stripes = (
        torch.arange(16)[:, None] * torch.rand(64, 1, 1, 1) * 3
    )  # of each image its own width and colour
    images = (
        (255 * stripes.sin().square() * torch.rand(64, 3, 1, 1))
        .expand(64, 3, 16, 16)
        .to(torch.uint8)
    )
    losses = []
    networks = []
    for passes in (128, 4096, 4096):
        torch.manual_seed(0)
        networks.append(small())
        task = PRETEXT.PRETEXTS[kind](
            networks[-1], (torch.full((3, 1, 1), 0.5), torch.full((3, 1, 1), 0.3)), True
        )
        torch.rand(len(losses))  # what was drawn before is of no account
        losses.append(
            PRETEXT.pretrain(task, images, passes, seed=0, device="cpu", batch=64)[
                "loss"
            ]
        )
    assert losses[1] < 0.9 * losses[0]
    assert losses[1] == losses[2]
    assert all(
        one.equal(other)
        for one, other in zip(
            networks[1].parameters(), networks[2].parameters(), strict=True
        )
    )


def test_autocast_sees_each_step_s_weights(run: SimpleNamespace) -> None:
    layer = nn.Linear(4, 4)
    x = torch.randn(2, 4)
    with run.bfloat16("cpu"):
        before = layer(x)
        with torch.no_grad():
            layer.weight.zero_()
        assert before.dtype == torch.bfloat16
        assert not layer(x).equal(before)


def test_lost_weights_come_back_and_begin_what_is_tuned(
    run: SimpleNamespace, tmp_path: Path
) -> None:
    data = run.common.load_data("digits")
    plan = run.PLANS["smoke"]
    lab = run.Lab(data, plan, argparse.Namespace(device="cpu"), tmp_path)
    lab.pretrained("views")
    first = lab.begun("views", 0).state_dict()
    (tmp_path / "views.safetensors").unlink()
    again = lab.begun("views", 1).state_dict()
    assert all(again[name].equal(tensor) for name, tensor in first.items())
    fresh = lab.begun("scratch", 0).state_dict()
    assert not fresh["stem.proj.weight"].equal(first["stem.proj.weight"])
    assert not first["head.weight"].any()


def test_the_control_sees_the_crops_and_colours_of_views(run: SimpleNamespace) -> None:
    """They come in the place of flips and shifts, in training alone."""
    data = run.common.load_data("digits")
    seen: list[tuple[float, float, tuple[int, ...]]] = []

    def noted(images: Tensor) -> Tensor:
        seen.append((float(images.min()), float(images.max()), tuple(images.shape)))
        return PRETEXT.views(images, data.mirrored)

    recipe = run.common.Recipe(steps=3, batch=16)
    losses = []
    for augment in (noted, None):
        torch.manual_seed(0)
        model = run.competitors.build("Mixer", data, 0, grid=4, **run.SMALL)
        row = run.common.fit(model, data, recipe, 0, augment=augment)
        losses.append(row["loss"])
    assert len(seen) == 3
    assert all(low >= 0 and high <= 1 for low, high, _ in seen)
    assert seen[0][2] == (16, 1, 8, 8)
    assert losses[0] != losses[1]


def test_the_halves_share_no_class(run: SimpleNamespace) -> None:
    data = run.common.load_data("digits")
    halves = [run.half_of(data, second=second) for second in (False, True)]
    assert [
        set(half.labels.tolist()) | set(half.test_labels.tolist()) for half in halves
    ] == [
        set(range(5)),
        set(range(5, 10)),
    ]
    assert sum(len(half.labels) for half in halves) == len(data.labels)


def test_a_control_has_a_rate_of_its_own_length(
    run: SimpleNamespace, tmp_path: Path
) -> None:
    """And the grid goes on until it brackets the best."""
    seen: list[tuple[str, float, int]] = []

    def tuned(kind: str, part: object, seed: int, lr: float, extra: int) -> dict:
        seen.append((kind, lr, extra))
        return {"top1": -abs(lr - (0.03 if extra else 0.004)), "lr": lr}

    lab = SimpleNamespace(plan=run.PLANS["cpu"], tuned=tuned)
    results = run.common.Results.kept(tmp_path)
    assert run.rate_of(results, lab, "long", None) == 0.027
    assert {(kind, extra) for kind, _, extra in seen} == {("scratch", 200_000)}
    assert max(lr for _, lr, _ in seen) > 0.027
    assert run.rate_of(results, lab, "views", None) == 0.003
    assert seen[-1] == ("views", 0.009, 0)
    assert set(results.tried("lr long ")) == {0.001, 0.003, 0.009, 0.027, 0.081}
