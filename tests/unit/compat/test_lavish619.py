"""lavish619's constructor: the numbers of the original's own files, its names, its
initialisation, its traps.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from mlp_mixer import UserError, create_model
from mlp_mixer.compat.lavish619 import MLP_Mixer

PAPER = {"expansion_token": 0.5, "expansion_channel": 4}
GOLDEN = [
    "lavish619_default_a",
    "lavish619_default_b",
    "lavish619_paper_a",
    "lavish619_paper_b",
]


def small(**changes: object) -> MLP_Mixer:
    arguments = {
        "image_shape": (8, 8, 3),
        "patch_size": 4,
        "num_classes": 5,
        "num_mixers": 2,
        "num_features": 6,
    }
    return MLP_Mixer(**(arguments | PAPER | changes))  # type: ignore[arg-type]


def golden(folder: Path) -> tuple[MLP_Mixer, torch.Tensor, torch.Tensor]:
    """The model rebuilt from what the folder says, with its weights; the input; the
    original's logits.
    """
    meta = json.loads((folder / "meta.json").read_text())
    shape = (*meta["image_size"], meta["in_channels"])
    arguments = [
        meta[key] for key in ("patch_size", "num_classes", "num_blocks", "hidden_dim")
    ]
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", UserWarning
        )  # the defaults' warning has its own test
        model = MLP_Mixer(
            shape, *arguments, meta["expansion_token"], meta["expansion_channel"]
        )
    model.load_state_dict(
        torch.load(folder / "state_dict.pth", weights_only=True), strict=True
    )
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


@pytest.mark.parametrize("name", GOLDEN)
def test_to_mixer_computes_the_same(shared: Path, name: str) -> None:
    model, image, _ = golden(shared / "golden" / name)
    mixer = model.to_mixer()
    with torch.no_grad():
        torch.testing.assert_close(mixer(image), model(image), rtol=0, atol=1e-6)
    assert not mixer.training
    assert all(parameter.requires_grad for parameter in mixer.parameters())


def test_to_mixer_copies() -> None:
    model = small(dropout=0.25).double()
    mixer = model.to_mixer()
    assert mixer.training
    assert (mixer.config.dropout, mixer.config.final_norm, mixer.config.gelu) == (
        0.25,
        False,
        "erf",
    )
    assert (
        {norm.eps for norm in model.modules() if isinstance(norm, nn.LayerNorm)}
        == {1e-5}
        == {mixer.config.norm_eps}
    )
    assert mixer.head.weight.dtype == torch.float64
    before = model.final_fc.weight.clone()
    nn.init.zeros_(mixer.head.weight)
    assert torch.equal(model.final_fc.weight, before)


def test_names_and_order_of_arguments() -> None:
    by_place = MLP_Mixer((8, 8, 3), 4, 5, 2, 6, 0.5, 4, 0.1)
    assert isinstance(by_place.mixer_layers[1].token_mixer.mlp_block.drop, nn.Dropout)
    assert by_place.config == small(dropout=0.1).config
    assert small().config.dropout == 0.5
    names = list(by_place.state_dict())
    assert names[:2] == ["patch_breaker.weight", "patch_breaker.bias"]
    assert names[-2:] == ["final_fc.weight", "final_fc.bias"]
    parts = [
        f"{branch}.{leaf}"
        for branch in ("token_mixer", "channel_mixer")
        for leaf in ("layer_norm", "mlp_block")
    ]
    assert {
        name.split(".", 2)[2]
        .rsplit(".", 1)[0]
        .removesuffix(".fc1")
        .removesuffix(".fc2")
        for name in names[2:-2]
    } == {*parts}
    shapes = {
        name: tuple(tensor.shape) for name, tensor in by_place.state_dict().items()
    }
    assert shapes["mixer_layers.1.token_mixer.mlp_block.fc1.weight"] == (2, 4)
    assert shapes["mixer_layers.1.channel_mixer.mlp_block.fc1.weight"] == (24, 6)


def test_the_same_seed_gives_torchs_default_initialisation_in_the_originals_order() -> (
    None
):
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
    made = [
        m
        for m in model.modules()
        if isinstance(m, (nn.Conv2d, nn.Linear)) and m is not model.final_fc
    ]
    for ours, theirs in zip([*made, model.final_fc], layers, strict=True):
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
        advised = MLP_Mixer(
            (224, 224, 3),
            16,
            1000,
            8,
            512,
            expansion_token=(256 + 0.5) / 196,
            expansion_channel=4,
        )
        truncated = MLP_Mixer(
            (224, 224, 3),
            16,
            10,
            8,
            512,
            expansion_token=256 / 196,
            expansion_channel=4,
        )
    assert (model.config.tokens_mlp_dim, model.config.channels_mlp_dim) == (784, 256)
    assert "expansion_token=(256 + .5) / 196" in str(caught[0].message)
    assert caught[0].filename == __file__
    assert truncated.config.tokens_mlp_dim == 255
    paper = create_model("mixer_s16").config
    assert (advised.config.tokens_mlp_dim, advised.config.channels_mlp_dim) == (
        256,
        2048,
    )
    assert (paper.tokens_mlp_dim, paper.channels_mlp_dim) == (256, 2048)


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
