"""lavish619's constructor: the original's own files, its initialisation, its traps."""

from __future__ import annotations

import copy
import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from mlp_mixer import MlpMixer, UserError, create_model, load, save
from mlp_mixer.compat.lavish619 import MLP_Mixer
from mlp_mixer.weights.lineages.tables import LAVISH619

PAPER = {"expansion_token": 0.5, "expansion_channel": 4}
GOLDEN = [
    "lavish619_default_a",
    "lavish619_default_b",
    "lavish619_paper_a",
    "lavish619_paper_b",
]


def small(**changes: object) -> MlpMixer:
    arguments = {
        "image_shape": (8, 8, 3),
        "patch_size": 4,
        "num_classes": 5,
        "num_mixers": 2,
        "num_features": 6,
    }
    return MLP_Mixer(**(arguments | PAPER | changes))  # type: ignore[arg-type]


def golden(folder: Path) -> tuple[MlpMixer, torch.Tensor, torch.Tensor]:
    """The model that the folder describes, an input, and the original's logits."""
    meta = json.loads((folder / "meta.json").read_text())
    shape = (*meta["image_size"], meta["in_channels"])
    sizes = ("patch_size", "num_classes", "num_blocks", "hidden_dim")
    factors = ("expansion_token", "expansion_channel")
    arguments = [meta[key] for key in (*sizes, *factors)]
    with warnings.catch_warnings():
        # The defaults' warning has its own test.
        warnings.simplefilter("ignore", UserWarning)
        model = MLP_Mixer(shape, *arguments)
    theirs = torch.load(folder / "state_dict.pth", weights_only=True)
    model.load_state_dict(theirs, strict=True)
    with np.load(folder / "io.npz") as arrays:
        image = torch.from_numpy(arrays["input_nhwc"]).permute(0, 3, 1, 2)
        return model.eval(), image, torch.from_numpy(arrays["logits"])


@pytest.mark.parametrize("name", GOLDEN)
def test_the_originals_checkpoints_give_the_originals_logits(
    shared: Path, name: str
) -> None:
    model, image, logits = golden(shared / "golden" / name)
    with torch.no_grad():
        # Measured 7e-7 at most, between machines (0 beside the original on one). A
        # wrong GELU shows as 1e-4.
        torch.testing.assert_close(model(image), logits, rtol=0, atol=2e-6)


def in_their_names(model: MlpMixer) -> dict[str, torch.Tensor]:
    ours = model.state_dict()
    rows = LAVISH619.table(model.config.num_blocks)
    return {row.theirs: ours[row.ours[0]] for row in rows}


def test_it_is_our_network() -> None:
    model = small(dropout=0.25)
    assert type(model) is MlpMixer
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert model.config.dropout == 0.25
    assert (model.config.final_norm, model.config.gelu) == (False, "erf")
    norms = [part for part in model.modules() if isinstance(part, nn.LayerNorm)]
    assert {norm.eps for norm in norms} == {1e-5} == {model.config.norm_eps}


def test_it_reads_both_names(tmp_path: Path) -> None:
    model = small()
    other = small()
    other.load_state_dict(in_their_names(model), strict=True)
    third = small()
    third.load_state_dict(model.state_dict(), strict=True)
    path = save(tmp_path / "m.safetensors", copy.deepcopy(model), labels=[*"abcde"])
    for twin in (other, third, load(path).model):
        for name, tensor in model.state_dict().items():
            assert torch.equal(twin.state_dict()[name], tensor), name


def test_a_part_of_a_larger_network_reads_them_too() -> None:
    model = small()
    whole = nn.Sequential(nn.Identity(), small())
    theirs = {f"1.{name}": tensor for name, tensor in in_their_names(model).items()}
    whole.load_state_dict(theirs, strict=True)
    assert torch.equal(whole[1].head.weight, model.head.weight)


def test_a_state_dict_that_lacks_a_tensor_is_refused() -> None:
    theirs = in_their_names(small())
    del theirs["final_fc.bias"]
    before = dict(theirs)
    with pytest.raises(RuntimeError, match="head.bias"):
        small().load_state_dict(theirs)
    assert theirs.keys() == before.keys()


def test_order_of_arguments() -> None:
    by_place = MLP_Mixer((8, 8, 3), 4, 5, 2, 6, 0.5, 4, 0.1)
    assert by_place.config == small(dropout=0.1).config
    assert small().config.dropout == 0.5
    config = by_place.config
    assert (config.tokens_mlp_dim, config.channels_mlp_dim) == (2, 24)


def test_a_seed_gives_torchs_default_initialisation_in_the_originals_order() -> None:
    torch.manual_seed(3)
    model = small(num_mixers=1)
    torch.manual_seed(3)
    layers = [
        nn.Conv2d(3, 6, 4, 4),
        nn.Linear(4, 2),
        nn.Linear(2, 4),
        nn.Linear(6, 24),
        nn.Linear(24, 6),
        nn.Linear(6, 5),
    ]
    kinds = (nn.Conv2d, nn.Linear)
    made = [part for part in model.modules() if isinstance(part, kinds)]
    for ours, theirs in zip(made, layers, strict=True):
        assert torch.equal(ours.weight, theirs.weight)
        assert torch.equal(ours.bias, theirs.bias)


def test_two_sides_mean_one_channel() -> None:
    assert small(image_shape=(8, 8)).config.in_channels == 1
    assert small(image_shape=[8, 8])(torch.rand(2, 1, 8, 8)).shape == (2, 5)


@pytest.mark.parametrize(
    "expansions", [{}, {"expansion_token": 4, "expansion_channel": 0.5}]
)
def test_the_default_expansions_warn_and_the_advice_gives_the_papers_widths(
    expansions: dict[str, float],
) -> None:
    with torch.device("meta"):
        with pytest.warns(UserWarning, match="not the paper's Mixer") as caught:
            model = MLP_Mixer((224, 224, 3), 16, 10, 8, 512, **expansions)
        advised = MLP_Mixer((224, 224, 3), 16, 10, 8, 512, (256 + 0.5) / 196, 4)
        truncated = MLP_Mixer((224, 224, 3), 16, 10, 8, 512, 256 / 196, 4)
    assert (model.config.tokens_mlp_dim, model.config.channels_mlp_dim) == (784, 256)
    assert "expansion_token=(256 + .5) / 196" in str(caught[0].message)
    assert caught[0].filename == __file__
    assert truncated.config.tokens_mlp_dim == 255
    paper = create_model("mixer_s16").config
    for config in (advised.config, paper):
        assert (config.tokens_mlp_dim, config.channels_mlp_dim) == (256, 2048)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"image_shape": (8, 12, 3)}, "square images only, got height 8 and width 12"),
        ({"image_shape": (8, 12)}, "square images only"),
        (
            {"image_shape": (3, 8, 8)},
            r"\(3, 8, 8\) looks like \(channels, height, width\); pass \(8, 8, 3\)",
        ),
        (
            {"image_shape": (10, 10, 3)},
            "10x10 is not divisible by the patch size 4; the nearest legal size is 8x8",
        ),
        (
            {"image_shape": (8,)},
            r"must be \(height, width, channels\) or \(height, width\), got \(8,\)",
        ),
        ({"image_shape": 8}, "got 8"),
        ({"image_shape": (8, 8, 0)}, "in_channels must be at least 1"),
        ({"patch_size": 0}, "patch_size must be at least 1, got 0"),
        ({"num_classes": 0}, "num_classes must be at least 1, got 0"),
        ({"dropout": 1.5}, "dropout must be at least 0 and below 1"),
        ({"expansion_token": 0.1}, "tokens_mlp_dim must be at least 1, got 0"),
    ],
)
def test_what_cannot_be_built(changes: dict[str, object], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        small(**changes)


@pytest.mark.parametrize("shape", [(2, 3, 9, 9), (2, 1, 8, 8), (2, 8, 8, 3), (3, 8, 8)])
def test_an_image_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match=r"\(batch, 3, 8, 8\)"):
        small()(torch.zeros(shape))
