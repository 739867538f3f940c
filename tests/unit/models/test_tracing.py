"""Others' tools on our networks: torch.fx, torchvision's extractor, timm's functions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mlp_mixer import UserError, create_model
from mlp_mixer.models.layers import DropPath
from mlp_mixer.models.nd import NdMixer

TINY: dict[str, Any] = {"image_size": 32, "num_classes": 3}
NAMES = ("mixer_nano4", "gmlp_ti16", "gmixer_12", "resmlp_12", "untied_nano4")
NAMES += ("grouped_nano4", "views_nano4", "pyramid_nano4")


def network(name: str, **fields: Any) -> Any:
    blocks = {} if name.startswith("pyramid") else {"num_blocks": 2}
    model = create_model(name, **{**TINY, **blocks, **fields})
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.1)
    return model.eval()


def images(count: int) -> Tensor:
    generator = torch.Generator().manual_seed(count)
    return torch.rand(count, 3, 32, 32, generator=generator)


@pytest.mark.parametrize("name", NAMES)
def test_fx_traces_every_family(name: str) -> None:
    model = network(name)
    traced = torch.fx.symbolic_trace(model)
    # Of two numbers of images: the graph holds no fixed one.
    for count in (1, 3):
        torch.testing.assert_close(
            traced(images(count)), model(images(count)), rtol=0, atol=1e-6
        )


@pytest.mark.parametrize("name", ["mixer_nano4", "pyramid_nano4", "gmlp_ti16"])
def test_a_graph_of_training_drops_branches_by_itself(name: str) -> None:
    model = network(name, drop_path=0.5).train()
    traced = torch.fx.symbolic_trace(model)
    torch.manual_seed(3)
    expected = model(images(4))
    torch.manual_seed(3)
    torch.testing.assert_close(traced(images(4)), expected, rtol=0, atol=1e-6)
    # It does drop: another draw gives another answer.
    assert (traced(images(4)) - expected).abs().max() > 1e-4


def test_draws_of_stochastic_depth_are_those_of_rand() -> None:
    branch = torch.ones(64, 2, 3)
    layer = DropPath(0.5, rescale=False).train()
    torch.manual_seed(5)
    kept = layer(branch)[:, 0, 0]
    torch.manual_seed(5)
    assert kept.tolist() == (torch.rand(64) < 0.5).float().tolist()


def test_a_mixer_of_one_axis_is_traced_too() -> None:
    fields = {"num_blocks": 1, "hidden_dim": 4, "tokens_mlp_dim": 3}
    model = NdMixer((12,), (3,), 2, channels_mlp_dim=5, num_classes=2, **fields)
    x = torch.rand(2, 2, 12)
    torch.testing.assert_close(torch.fx.symbolic_trace(model)(x), model(x))


@pytest.mark.parametrize("name", ["mixer_nano4", "gmlp_ti16"])
def test_torchvision_extracts_features(name: str) -> None:
    extraction = pytest.importorskip("torchvision.models.feature_extraction")
    model = network(name)
    extract = extraction.create_feature_extractor(model, ["norm", "head"])
    found = extract(images(2))
    expected = model.forward_features(images(2))
    torch.testing.assert_close(found["norm"], expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(found["head"], model(images(2)), rtol=0, atol=1e-6)


@pytest.mark.filterwarnings("ignore:.*jit:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*jit:DeprecationWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize(
    "name", ["mixer_nano4", "pyramid_nano4", "gmlp_ti16", "resmlp_12"]
)
def test_other_tracers_still_take_it(name: str) -> None:
    model = network(name)
    traced = torch.jit.trace(model, images(2))
    torch.testing.assert_close(traced(images(3)), model(images(3)), rtol=0, atol=1e-6)
    program = torch.export.export(
        model, (images(2),), dynamic_shapes={"image": {0: torch.export.Dim("B")}}
    )
    found = program.module()(images(3))
    torch.testing.assert_close(found, model(images(3)), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"indices": 2},
        {"indices": 3},
        {"indices": [0, -1]},
        {"indices": (1,), "stop_early": True},
        {"norm": True, "output_fmt": "NLC"},
        {"indices": [-1, 1], "norm": True, "intermediates_only": True},
    ],
)
def test_intermediates_are_those_of_timm(arguments: dict[str, Any]) -> None:
    timm = pytest.importorskip("timm.models.mlp_mixer")
    model = network("mixer_nano4", num_blocks=3, hidden_dim=16, gelu="erf")
    theirs = timm.MlpMixer(
        num_classes=3, img_size=32, patch_size=4, num_blocks=3, embed_dim=16,
        mlp_ratio=(model.config.tokens_mlp_dim / 16, 512 / 16),
    ).eval()  # fmt: skip
    theirs.load_state_dict(model.state_dict())
    expected = theirs.forward_intermediates(images(2), **arguments)
    found = model.forward_intermediates(images(2), **arguments)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-6)


def test_intermediates_lie_as_the_patches_do() -> None:
    model = network("mixer_nano4", image_size=(8, 20))
    (found,) = model.forward_intermediates(
        torch.rand(1, 3, 8, 20), [0], intermediates_only=True
    )
    assert found.shape == (1, 128, 2, 5)
    tokens = model.features(torch.rand(1, 3, 8, 20))["blocks.0"]
    assert tokens.shape == (1, 10, 128)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"indices": [2]}, "2 blocks: there is none of number 2"),
        ({"indices": 3}, "no last 3"),
        ({"indices": 0}, "no last 0"),
        ({"output_fmt": "NHWC"}, "output format"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        network("mixer_nano4").forward_intermediates(images(1), **arguments)


def test_tokens_of_a_pyramid_are_no_grid() -> None:
    model = network("pyramid_nano4")
    with pytest.raises(UserError, match="NLC"):
        model.forward_intermediates(images(1))
    _, found = model.forward_intermediates(images(1), output_fmt="NLC")
    assert [tokens.shape[1] for tokens in found[-2:]] == [16, 16]


@pytest.mark.parametrize("argument", ["features_only", "out_indices", "pretrained"])
def test_arguments_of_timm_are_told_where_to_go(argument: str) -> None:
    with pytest.raises(UserError, match=r"forward_intermediates|`load\("):
        create_model("mixer_nano4", **{argument: True})


@pytest.mark.parametrize(
    "name", ["mixer_nano4", "pyramid_nano4", "gmlp_ti16", "resmlp_12", "views_nano4"]
)
def test_hooks_on_blocks_see_what_features_computes(name: str) -> None:
    model = network(name)
    seen: list[Tensor] = []
    for block in model.blocks:
        block.register_forward_hook(lambda module, given, out: seen.append(out))
    out = model.features(images(1))
    names = [f"blocks.{index}" for index in range(len(model.blocks))]
    assert [id(out[name]) for name in names] == list(map(id, seen))
