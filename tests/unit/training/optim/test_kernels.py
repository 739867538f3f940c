"""Which parameters decay is said by what they are, not by their number of axes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from mlp_mixer import UserError
from mlp_mixer.models import create_model
from mlp_mixer.training.config import OptimChoice
from mlp_mixer.training.optim.build import build_optimizer, kernel_names
from mlp_mixer.training.state import StateSaver, newest_state, restore


def decaying(model: nn.Module, choice: OptimChoice) -> set[str]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        names[id(parameter)]
        for group in build_optimizer(model, choice).param_groups
        for parameter in group["params"]
        if group["weight_decay"]
    }


def of_linear_maps(model: nn.Module) -> set[str]:
    return {
        f"{place}.weight"
        for place, module in model.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
    }


@pytest.mark.parametrize("family", ["mixer_s16", "gmixer_24", "gmlp_ti16"])
def test_where_only_kernels_have_two_axes_nothing_changed(family: str) -> None:
    """What 0.1.0 did, so that its runs go on with the same bits."""
    with torch.device("meta"):
        model = create_model(family, num_blocks=2, num_classes=3)
    by_axes = {name for name, p in model.named_parameters() if p.ndim >= 2}
    assert kernel_names(model) == by_axes == of_linear_maps(model)


@pytest.mark.parametrize("optimiser", ["adamw", "lion", "lamb", "muon"])
def test_the_affine_maps_and_scales_of_resmlp_do_not_decay(optimiser: str) -> None:
    with torch.device("meta"):
        model = create_model("resmlp_12", num_classes=3)
    assert kernel_names(model) == of_linear_maps(model)
    choice = OptimChoice(name=optimiser, weight_decay=0.1)  # type: ignore[arg-type]
    found = decaying(model, choice)
    assert found == of_linear_maps(model)
    assert not [name for name in found if name.endswith(("alpha", "beta", "ls1"))]


class Vit(nn.Module):
    """The kinds of parameters that a ViT and its relatives have."""

    def __init__(self) -> None:
        super().__init__()
        self.pos_embed = nn.Parameter(torch.zeros(1, 5, 8))
        self.cls_token = nn.Parameter(torch.zeros(1, 1, 8))
        self.gamma = nn.Parameter(torch.ones(8, 1, 1))
        self.stem = nn.Conv2d(3, 8, 4, bias=False)
        # Kernels with one row or one column.
        self.narrow = nn.Linear(1, 8)
        self.head = nn.Linear(8, 1)
        self.attention = nn.MultiheadAttention(8, 2)
        self.norm = nn.LayerNorm((5, 8))
        self.groups = nn.GroupNorm(2, 8)
        self.scaled = nn.BatchNorm2d(8)


def test_a_vision_transformer() -> None:
    assert kernel_names(Vit()) == {
        "stem.weight",
        "narrow.weight",
        "head.weight",
        "attention.in_proj_weight",
        "attention.out_proj.weight",
    }


def test_timm_s_vit_beside_timm_s_own_rule() -> None:
    """timm leaves out what has one axis, and what the network names."""
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        vit = timm.create_model("vit_tiny_patch16_224", depth=1, num_classes=3)
    spared = vit.no_weight_decay()
    assert "pos_embed" in spared
    theirs = {
        name
        for name, parameter in vit.named_parameters()
        if parameter.ndim > 1 and name not in spared
    }
    assert kernel_names(vit) == theirs


def test_what_is_learnt_beside_the_network_decays_likewise() -> None:
    model = create_model("mixer_pico2", num_classes=3, in_channels=1, num_blocks=1)
    beside = nn.Sequential(nn.Linear(8, 4), nn.LayerNorm((2, 4)))
    optimizer = build_optimizer(model, OptimChoice(weight_decay=0.1), beside)
    decayed, spared = optimizer.param_groups
    assert decayed["weight_decay"] == 0.1
    assert any(parameter is beside[0].weight for parameter in decayed["params"])
    assert any(parameter is beside[1].weight for parameter in spared["params"])


def test_a_state_with_another_order_is_refused(tmp_path: Path) -> None:
    """As the ResMLP of an earlier version wrote it."""
    model = create_model("resmlp_12", num_blocks=1, image_size=32, num_classes=3)
    by_axes = sorted(model.parameters(), key=lambda parameter: parameter.ndim < 2)
    before = torch.optim.SGD(by_axes, lr=0.1, momentum=0.9)
    for parameter in by_axes:
        parameter.grad = torch.ones_like(parameter)
    before.step()
    saver = StateSaver(tmp_path)
    header = {"config": {}, "fingerprint": "", "best": None}
    saver.save(header, step=1, modules={"model": model}, optimizer=before)
    saver.wait()
    state, _ = newest_state(tmp_path)
    assert state is not None
    choice = OptimChoice(name="sgd", weight_decay=0.1)
    with pytest.raises(UserError, match=r"in another order.*mlp-mixer finetune"):
        restore(state, {"model": model}, build_optimizer(model, choice))
    restore(state, {"model": model}, torch.optim.SGD(by_axes, lr=0.1, momentum=0.9))
