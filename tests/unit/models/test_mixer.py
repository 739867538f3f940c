"""The Mixer against the paper's listing, others' checkpoints, and its own promises."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from mlp_mixer.errors import UserError
from mlp_mixer.models import (
    VARIANTS,
    MixerConfig,
    MlpMixer,
    create_model,
    model_config,
    variants,
)
from mlp_mixer.models.layers import DropPath, drop_path_rates

BESIDE = Path(__file__).parents[4] / "shared"
SHARED = Path(os.environ.get("MLP_MIXER_SHARED", BESIDE))

# 1000 classes, each at its own image size. The first eight are those of the paper's
# Table 1, plus the head.
PARAMETERS = {
    "mixer_s32": 19_104_624,
    "mixer_s16": 18_528_264,
    "mixer_s8": 20_646_504,
    "mixer_b32": 60_293_428,
    "mixer_b16": 59_880_472,
    "mixer_l32": 206_939_264,
    "mixer_l16": 208_196_168,
    "mixer_h14": 432_350_952,
    "mixer_pico2": 203_624,
    "mixer_pico7": 212_264,
    "mixer_micro4": 748_680,
    "mixer_nano4": 1_259_880,
    "mixer_nano2": 1_453_416,
    "mixer_mini4": 1_359_080,
    "mixer_tiny4": 4_615_400,
    "mixer_tiny2": 5_000_936,
}


def small(**fields) -> MlpMixer:
    """6 tokens from a rectangle, 2 blocks; no two axes have the same length."""
    defaults = {
        "image_size": (8, 12),
        "num_blocks": 2,
        "hidden_dim": 20,
        "tokens_mlp_dim": 10,
        "channels_mlp_dim": 28,
    }
    torch.manual_seed(0)
    return create_model("mixer_nano4", **({"num_classes": 5} | defaults | fields))


def randomised(model: MlpMixer) -> MlpMixer:
    """Every parameter random, so that each of them matters; in evaluation mode."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.5, generator=generator)
    return model.eval()


def images_for(model: MlpMixer, batch: int = 3) -> Tensor:
    size = (batch, model.config.in_channels, *model.config.image_size)
    generator = torch.Generator().manual_seed(batch)
    images = torch.randn(size, generator=generator)
    return images.to(model.stem.proj.weight.dtype)


def assert_near(actual: Tensor, expected: Tensor) -> None:
    """Equal but for the rounding of fp32, as a share of the largest value."""
    bound = 5e-6 * expected.abs().max().item()
    torch.testing.assert_close(actual, expected, rtol=0, atol=bound)


# Size


@pytest.mark.parametrize("name", VARIANTS)
def test_parameter_counts(name):
    with torch.device("meta"):
        model = create_model(name)
    C = model.config.hidden_dim
    P = model.config.patch_size
    S = model.config.num_patches
    D_S = model.config.tokens_mlp_dim
    D_C = model.config.channels_mlp_dim
    L = model.config.num_blocks
    stem = 3 * P * P * C + C
    mlp_tokens = 2 * S * D_S + D_S + S
    mlp_channels = 2 * C * D_C + D_C + C
    norms = 4 * C
    head = 1000 * C + 1000
    by_formula = stem + L * (mlp_tokens + mlp_channels + norms) + 2 * C + head
    counted = sum(parameter.numel() for parameter in model.parameters())
    assert counted == by_formula == PARAMETERS[name]


def test_every_count_belongs_to_a_variant():
    assert list(PARAMETERS) == list(VARIANTS) == variants("mixer_*")


def test_variants_by_pattern_in_the_order_of_the_table():
    assert variants("mixer_?16") == ["mixer_s16", "mixer_b16", "mixer_l16"]
    assert variants("vit*") == []


@pytest.mark.parametrize("name", [name for name in VARIANTS if name != "mixer_mini4"])
def test_widths_follow_the_rule_of_table_1(name):
    config = VARIANTS[name]
    assert config.tokens_mlp_dim == config.hidden_dim // 2
    assert config.channels_mlp_dim == 4 * config.hidden_dim


# Initialisation


def test_kernels_are_lecun_normal_and_truncated():
    torch.manual_seed(0)
    model = create_model(
        "mixer_nano4",
        num_blocks=1,
        hidden_dim=256,
        tokens_mlp_dim=256,
        channels_mlp_dim=512,
    )
    (block,) = model.blocks
    fan_in = {
        model.stem.proj: 3 * 4 * 4,
        block.mlp_tokens.fc1: 64,
        block.mlp_tokens.fc2: 256,
        block.mlp_channels.fc1: 256,
        block.mlp_channels.fc2: 512,
    }
    for layer, n in fan_in.items():
        std = 1 / math.sqrt(n)
        assert layer.weight.std().item() == pytest.approx(std, rel=0.03)
        assert abs(layer.weight.mean().item()) < 0.05 * std
        bound = 2 * std / 0.8796
        largest = layer.weight.abs().max().item()
        assert 0.97 * bound < largest <= 1.0001 * bound
        assert not layer.bias.any()


def test_norms_are_neutral_and_the_head_is_zero():
    model = small()
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            assert (module.weight == 1).all()
            assert not module.bias.any()
    assert model.training
    images = images_for(model)
    assert torch.equal(model(images), torch.zeros(3, 5))
    assert model.forward_features(images).std() > 0.5


def test_initialisation_follows_the_global_seed():
    first = small().state_dict()
    second = small().state_dict()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


# Parity


def normalised(x_BSC: Tensor, scale: Tensor, shift: Tensor, eps: float) -> Tensor:
    centred = x_BSC - x_BSC.mean(2, keepdim=True)
    variance = centred.square().mean(2, keepdim=True)
    return centred / (variance + eps).sqrt() * scale + shift


def activated(x: Tensor, gelu: str) -> Tensor:
    if gelu == "erf":
        return x * (1 + torch.erf(x / math.sqrt(2))) / 2
    inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
    return x * (1 + torch.tanh(inner)) / 2


def cut(image_BIHW: Tensor, P: int) -> Tensor:
    """Patches (B, S, I, P, P) in row-major order."""
    patches = []
    for top in range(0, image_BIHW.shape[2], P):
        for left in range(0, image_BIHW.shape[3], P):
            patches.append(image_BIHW[:, :, top : top + P, left : left + P])
    return torch.stack(patches, dim=1)


def listing_1(
    model: MlpMixer, image_BIHW: Tensor, norm_eps: float, gelu: str, final_norm: bool
) -> Tensor:
    """The paper's Listing 1 once more, in plain tensor algebra on the state dict."""
    weights = model.state_dict()

    def part(name: str) -> tuple[Tensor, Tensor]:
        return weights[f"{name}.weight"], weights[f"{name}.bias"]

    def norm(x_BSC: Tensor, name: str) -> Tensor:
        return normalised(x_BSC, *part(name), norm_eps)

    kernel_CIPQ, bias_C = part("stem.proj")
    patches_BSIPQ = cut(image_BIHW, kernel_CIPQ.shape[-1])
    x_BSC = torch.einsum("bsipq,cipq->bsc", patches_BSIPQ, kernel_CIPQ) + bias_C
    for i in range(model.config.num_blocks):
        W1_DS, b1_D = part(f"blocks.{i}.mlp_tokens.fc1")
        W2_SD, b2_S = part(f"blocks.{i}.mlp_tokens.fc2")
        y_BSC = norm(x_BSC, f"blocks.{i}.norm1")
        h_BDC = torch.einsum("bsc,ds->bdc", y_BSC, W1_DS) + b1_D[:, None]
        h_BDC = activated(h_BDC, gelu)
        x_BSC = x_BSC + torch.einsum("bdc,sd->bsc", h_BDC, W2_SD) + b2_S[:, None]

        W1_DC, b1_D = part(f"blocks.{i}.mlp_channels.fc1")
        W2_CD, b2_C = part(f"blocks.{i}.mlp_channels.fc2")
        y_BSC = norm(x_BSC, f"blocks.{i}.norm2")
        h_BSD = torch.einsum("bsc,dc->bsd", y_BSC, W1_DC) + b1_D
        h_BSD = activated(h_BSD, gelu)
        x_BSC = x_BSC + torch.einsum("bsd,cd->bsc", h_BSD, W2_CD) + b2_C
    if final_norm:
        x_BSC = norm(x_BSC, "norm")
    W_KC, b_K = part("head")
    return x_BSC.mean(1) @ W_KC.T + b_K


@pytest.mark.parametrize("gelu", ["tanh", "erf"])
@pytest.mark.parametrize("final_norm", [True, False])
@pytest.mark.parametrize("norm_eps", [1e-6, 1e-3])
@pytest.mark.parametrize("in_channels", [1, 3, 4, 5])
def test_equals_listing_1(gelu, final_norm, norm_eps, in_channels):
    fields = {"gelu": gelu, "final_norm": final_norm, "norm_eps": norm_eps}
    model = randomised(small(in_channels=in_channels, **fields).double())
    images = images_for(model)
    expected = listing_1(model, images, **fields)
    torch.testing.assert_close(model(images), expected, rtol=0, atol=1e-10)


def test_defaults_are_the_paper_s():
    config = small().config
    assert (config.gelu, config.norm_eps) == ("tanh", 1e-6)
    assert (config.final_norm, config.drop_path_rule) == (True, "paper")
    assert (config.dropout, config.drop_path) == (0, 0)


def golden(name: str) -> tuple[Path, MlpMixer, Tensor, Tensor]:
    """A checkpoint that its own project wrote.

    The folder, our empty model, its input and its logits.
    """
    folder = SHARED / "golden" / name
    if not folder.is_dir():
        pytest.skip(f"no golden checkpoints at {folder}; set MLP_MIXER_SHARED")
    meta = json.loads((folder / "meta.json").read_text("utf-8"))
    meta["image_size"] = tuple(meta["image_size"])
    known = {field.name for field in dataclasses.fields(MixerConfig)}
    fields = {name: value for name, value in meta.items() if name in known}
    model = MlpMixer(MixerConfig(**fields)).eval()
    with np.load(folder / "io.npz") as io:
        images = torch.from_numpy(io["input_nhwc"]).permute(0, 3, 1, 2)
        return folder, model, images, torch.from_numpy(io["logits"])


@pytest.mark.parametrize("name", ["timm_a", "timm_b"])
def test_equals_timm_under_its_own_names(name):
    folder, model, images, logits = golden(name)
    model.load_state_dict(load_file(folder / "model.safetensors"))
    torch.testing.assert_close(model(images), logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["google_npz_a", "google_npz_b"])
def test_equals_the_authors_code(name):
    folder, model, images, logits = golden(name)
    ours = {
        "LayerNorm_0": "norm1",
        "LayerNorm_1": "norm2",
        "token_mixing": "mlp_tokens",
        "channel_mixing": "mlp_channels",
        "Dense_0": "fc1",
        "Dense_1": "fc2",
        "stem": "stem.proj",
        "pre_head_layer_norm": "norm",
        "scale": "weight",
        "kernel": "weight",
    }
    # HWIO -> OIHW, (in, out) -> (out, in).
    layouts = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}
    state = {}
    with np.load(folder / "checkpoint.npz") as archive:
        for path, value in archive.items():
            parts = path.replace("MixerBlock_", "blocks.").split("/")
            name = ".".join(ours.get(part, part) for part in parts)
            turned = value.transpose(layouts[value.ndim])
            state[name] = torch.from_numpy(turned.copy())
    model.load_state_dict(state)
    torch.testing.assert_close(model(images), logits, rtol=0, atol=1e-5)


# Shapes


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize(
    ("fields", "tokens"),
    [
        ({}, 6),
        ({"image_size": (12, 8), "in_channels": 1}, 6),
        ({"image_size": 4}, 1),  # one patch
        ({"image_size": (3, 5), "patch_size": 1}, 15),
        ({"num_classes": 1}, 6),
        ({"num_classes": 0}, 6),
    ],
)
def test_shapes(fields, tokens, batch):
    model = small(**fields)
    C = model.config.hidden_dim
    K = model.config.num_classes
    images = images_for(model, batch)
    x_BSC = model.forward_features(images)
    assert x_BSC.shape == (batch, tokens, C)
    assert model.forward_head(x_BSC, pre_logits=True).shape == (batch, C)
    assert model(images).shape == (batch, K or C)


def test_a_batch_is_its_images_one_by_one():
    model = randomised(small())
    images = images_for(model, 3)
    one_by_one = [model(image[None]) for image in images]
    assert_near(model(images), torch.cat(one_by_one))


@pytest.mark.parametrize("num_classes", [5, 0])
@pytest.mark.parametrize("final_norm", [True, False])
def test_features_by_name_in_order(num_classes, final_norm):
    model = randomised(small(num_classes=num_classes, final_norm=final_norm))
    images = images_for(model)
    out = model.features(images)
    blocks = []
    for i in range(2):
        blocks += [f"blocks.{i}.mlp_tokens", f"blocks.{i}.mlp_channels", f"blocks.{i}"]
    assert list(out) == ["stem", *blocks, "norm", "pre_logits", "logits"]
    for name in ("stem", *blocks, "norm"):
        assert out[name].shape == (3, 6, 20)
    assert out["pre_logits"].shape == (3, 20)
    assert torch.equal(out["logits"], model(images))
    x_BSC = model.forward_features(images)
    assert torch.equal(out["norm"], x_BSC)
    assert torch.equal(out["pre_logits"], model.forward_head(x_BSC, pre_logits=True))
    assert torch.equal(out["logits"], model.forward_head(x_BSC))


# Classifier


def test_new_classifier_is_zero_and_lives_where_the_model_does():
    model = randomised(small()).to(torch.bfloat16)
    pre_logits = model.features(images_for(model))["pre_logits"]
    model.reset_classifier(7)
    assert model.num_classes == model.config.num_classes == 7
    assert model.num_features == model.config.hidden_dim
    head = model.get_classifier()
    assert head is model.head
    assert isinstance(head, nn.Linear)
    assert head.weight.shape == (7, 20)
    assert head.weight.dtype == torch.bfloat16
    assert not head.weight.any()
    assert not head.bias.any()
    images = images_for(model)
    assert torch.equal(model.features(images)["pre_logits"], pre_logits)
    assert torch.equal(model(images), torch.zeros(3, 7))


def test_classifier_can_go_and_come_back():
    model = randomised(small())
    model.reset_classifier(0)
    assert isinstance(model.get_classifier(), nn.Identity)
    assert model.config.num_classes == 0
    images = images_for(model)
    assert torch.equal(model(images), model.features(images)["pre_logits"])
    model.reset_classifier(2)
    assert model(images).shape == (3, 2)


def test_new_classifier_follows_the_device():
    with torch.device("meta"):
        model = small()
    model.reset_classifier(3)
    assert model.head.weight.device.type == "meta"


def test_negative_classes_leave_the_classifier_alone():
    model = small()
    with pytest.raises(UserError, match="num_classes must be 0"):
        model.reset_classifier(-1)
    assert model.head.weight.shape == (5, 20)


# Refusals


OTHER_SHAPES = [
    (2, 3, 12, 8),
    (2, 1, 8, 12),
    (3, 8, 12),
    (2, 3, 8, 12, 1),
    (2, 8, 12, 3),
]


@pytest.mark.parametrize("shape", OTHER_SHAPES, ids=str)
@pytest.mark.parametrize("method", ["forward", "features", "forward_features"])
def test_other_images_are_refused(shape, method):
    with pytest.raises(UserError) as raised:
        getattr(small(), method)(torch.zeros(shape))
    assert "takes images of shape (batch, 3, 8, 12)" in str(raised.value)
    assert f"got {shape};" in str(raised.value)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"patch_size": 0}, "patch_size must be at least 1, got 0"),
        ({"num_blocks": 0}, "num_blocks must be at least 1, got 0"),
        ({"hidden_dim": -1}, "hidden_dim must be at least 1, got -1"),
        ({"tokens_mlp_dim": 0}, "tokens_mlp_dim must be at least 1, got 0"),
        ({"channels_mlp_dim": 0}, "channels_mlp_dim must be at least 1, got 0"),
        ({"in_channels": 0}, "in_channels must be at least 1, got 0"),
        ({"num_classes": -1}, r"num_classes must be 0 \(no head\) or more, got -1"),
        ({"dropout": 1.0}, "dropout must be at least 0 and below 1, got 1.0"),
        ({"dropout": float("nan")}, "dropout must be at least 0 and below 1, got nan"),
        ({"drop_path": -0.1}, "drop_path must be at least 0 and below 1, got -0.1"),
        ({"gelu": "relu"}, "gelu must be one of tanh, erf, got 'relu'"),
        (
            {"drop_path_rule": "mine"},
            "drop_path_rule must be one of paper, timm, deit, got 'mine'",
        ),
        (
            {"image_size": (8, 0)},
            "image size 8x0 is not divisible .*; the nearest legal size is 8x4",
        ),
        (
            {"image_size": (31, 34)},
            "image size 31x34 is not divisible by the patch size 4; .* size is 32x32",
        ),
        ({"image_size": (1, 30)}, "the nearest legal size is 4x32"),
        ({"norm_eps": -1e-6}, "norm_eps must"),
    ],
)
def test_illegal_configurations(fields, message):
    with pytest.raises(UserError, match=message):
        dataclasses.replace(VARIANTS["mixer_nano4"], **fields)


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("mixer_b61", {}, "unknown model 'mixer_b61'; did you mean 'mixer_b16'"),
        ("resnet50", {}, "unknown model 'resnet50'; known are gmixer_12, "),
        (
            "mixer_b16",
            {"drop_out": 0.1},
            "unknown field 'drop_out'; did you mean 'dropout'",
        ),
        (
            "mixer_b16",
            {"in_chans": 1},
            "unknown field 'in_chans'; did you mean 'in_channels'",
        ),
        (
            "mixer_b16",
            {"gelu": "tan"},
            "gelu: unknown value 'tan'; did you mean 'tanh'",
        ),
        ("mixer_b16", {"hidden_dim": 2.5}, "hidden_dim: expected an integer, got 2.5"),
        ("mixer_b16", {"image_size": 230}, "image size 230x230 .* size is 224x224"),
        (
            "mixer_b16",
            {"image_size": (224,)},
            "image_size: expected a list of an integer, an integer",
        ),
    ],
)
@pytest.mark.parametrize("function", [create_model, model_config])
def test_illegal_names_and_fields(function, name, fields, message):
    with pytest.raises(UserError, match=message):
        function(name, **fields)


def test_config_is_what_create_model_builds():
    fields = {
        "num_classes": 3,
        "image_size": (8, 16),
        "in_channels": 1,
        "gelu": "erf",
        "num_blocks": 1,
    }
    config = model_config("mixer_nano4", **fields)
    assert config == create_model("mixer_nano4", **fields).config
    assert config.grid == (2, 4)
    assert config.num_patches == 8
    assert config.hidden_dim == 128
    assert model_config("mixer_b16").image_size == (224, 224)


# Dropout and stochastic depth


@pytest.mark.parametrize(
    ("rule", "blocks", "rates"),
    [
        ("paper", 5, [0, 0.1, 0.2, 0.3, 0.4]),
        ("paper", 1, [0]),
        ("timm", 3, [0.4, 0.4, 0.4]),
        ("deit", 5, [0, 0.1, 0.2, 0.3, 0.4]),
        ("deit", 1, [0]),
    ],
)
def test_drop_path_rates(rule, blocks, rates):
    assert drop_path_rates(rule, 0.4, blocks) == pytest.approx(rates)
    model = small(num_blocks=blocks, drop_path=0.4, drop_path_rule=rule)
    for block, rate in zip(model.blocks, rates, strict=True):
        assert block.drop_path.rate == pytest.approx(rate)
        assert block.drop_path.rescale == (rule != "paper")


@pytest.mark.parametrize(("rescale", "kept"), [(False, 1.0), (True, 4 / 3)])
def test_drop_path_drops_whole_samples_at_its_rate(rescale, kept):
    torch.manual_seed(0)
    drop_path = DropPath(0.25, rescale=rescale)
    out = drop_path(torch.ones(10_000, 2, 3))
    assert (out == out[:, :1, :1]).all()
    values, counts = out[:, 0, 0].unique(return_counts=True)
    assert values.tolist() == pytest.approx([0, kept])
    deviation = math.sqrt(10_000 * 0.25 * 0.75)
    assert counts[0].item() == pytest.approx(2500, abs=4 * deviation)


@pytest.mark.parametrize("rescale", [False, True])
def test_drop_path_does_nothing_in_evaluation_or_at_rate_zero(rescale):
    branch = torch.randn(4, 2, 3)
    in_evaluation = DropPath(0.9, rescale=rescale).eval()
    assert torch.equal(in_evaluation(branch), branch)
    never = DropPath(0.0, rescale=rescale)
    assert torch.equal(never(branch), branch)


@pytest.mark.parametrize("method", ["forward_features", "features"])
def test_drop_path_drops_both_branches_and_never_the_skip(method):
    model = randomised(small(drop_path=1 - 1e-7, drop_path_rule="timm"))
    images = images_for(model)
    skipped = model.norm(model.stem(images))
    assert not torch.allclose(model.forward_features(images), skipped)
    model.train()
    out = getattr(model, method)(images)
    tokens = out if method == "forward_features" else out["norm"]
    assert torch.equal(tokens, skipped)


def test_the_two_branches_are_dropped_independently():
    torch.manual_seed(0)
    model = small(num_blocks=1, drop_path=0.5, drop_path_rule="timm")
    model = randomised(model).train()
    images = images_for(model, 1).expand(200, -1, -1, -1)
    draws = torch.rand(200, 1, 2)
    kept = (draws[:, 0] < 0.5).int()
    with torch.no_grad():
        tokens = model.forward_features(images, draws)
    # By which branches were kept: alike within, apart between.
    outcomes = {}
    for one, (first, second) in zip(tokens, kept.tolist(), strict=True):
        alike = outcomes.setdefault((first, second), one)
        assert_near(one, alike)
    assert len(outcomes) == 4
    pairs = itertools.combinations(outcomes.values(), 2)
    assert all((one - other).abs().max() > 0.1 for one, other in pairs)


def test_dropout_is_for_training_only():
    plain = randomised(small())
    model = randomised(small(dropout=0.5))
    images = images_for(model)
    expected = plain(images)
    assert torch.equal(model(images), expected)
    assert torch.equal(plain.train()(images), expected)
    model.train()
    assert not torch.equal(model(images), model(images))


def test_dropout_follows_each_dense_layer():
    model = small(dropout=0.75)
    block = model.blocks[0]
    dropped = []

    def see(layer: nn.Module, inputs: tuple[Tensor]) -> None:
        dropped.append(inputs[0])

    for mlp in (block.mlp_tokens, block.mlp_channels):
        # No zero of its own.
        nn.init.ones_(mlp.fc2.bias)
        mlp.fc2.register_forward_pre_hook(see)
    with torch.no_grad():
        out = model.features(images_for(model, 8))
    dropped += [out["blocks.0.mlp_tokens"], out["blocks.0.mlp_channels"]]
    assert len(dropped) == 4
    for x in dropped:
        zeros = (x == 0).float().mean().item()
        assert zeros == pytest.approx(0.75, abs=0.06)


# As a module


BLOCK = (
    "norm1",
    "mlp_tokens.fc1",
    "mlp_tokens.fc2",
    "norm2",
    "mlp_channels.fc1",
    "mlp_channels.fc2",
)


def test_names_of_the_parameters():
    parts = ["stem.proj"]
    for i in range(2):
        parts += [f"blocks.{i}.{part}" for part in BLOCK]
    parts += ["norm", "head"]
    names = []
    for part in parts:
        names += [f"{part}.weight", f"{part}.bias"]
    assert list(small().state_dict()) == names


def test_state_dict_round_trip():
    model = randomised(small())
    other = small().eval()
    other.load_state_dict(model.state_dict())
    images = images_for(model)
    assert torch.equal(other(images), model(images))


def test_deepcopy_is_independent():
    model = randomised(small())
    images = images_for(model)
    before = model(images)
    twin = copy.deepcopy(model)
    assert torch.equal(twin(images), before)
    with torch.no_grad():
        twin.stem.proj.weight.zero_()
    twin.reset_classifier(2)
    assert torch.equal(model(images), before)


def test_bfloat16():
    model = randomised(small())
    expected = model(images_for(model))
    model = model.to(torch.bfloat16)
    actual = model(images_for(model))
    assert actual.dtype == torch.bfloat16
    bound = 0.1 * expected.abs().max().item()
    torch.testing.assert_close(actual.float(), expected, rtol=0.1, atol=bound)


def test_grad_checkpointing_keeps_less_and_computes_the_same():
    model = randomised(small(dropout=0.5, drop_path=0.5)).train()
    images = images_for(model)

    def gradients_and_kept(enable: bool) -> tuple[list[Tensor], int]:
        kept = []

        def keep(tensor: Tensor) -> Tensor:
            kept.append(tensor)
            return tensor

        model.set_grad_checkpointing(enable)
        model.zero_grad()
        torch.manual_seed(1)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = model(images).square().sum()
        loss.backward()
        gradients = [parameter.grad.clone() for parameter in model.parameters()]
        return gradients, len(kept)

    plain, kept = gradients_and_kept(False)
    recomputed, kept_less = gradients_and_kept(True)
    assert kept_less < kept / 2
    assert all(map(torch.equal, plain, recomputed))
    assert all(gradient.any() for gradient in plain)


@pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() == "DEFAULT",
    reason="torch 2.11's inductor writes at::vec without its header for such a CPU",
)
def test_compiles_as_one_graph():
    model = randomised(small(num_blocks=1))
    compiled = torch.compile(model, fullgraph=True)
    images = images_for(model)
    assert_near(compiled(images), model(images))


def test_exports_with_any_batch_size():
    model = randomised(small())
    batch = {"image": {0: torch.export.Dim("batch")}}
    example = (images_for(model, 3),)
    exported = torch.export.export(model, example, dynamic_shapes=batch).module()
    for size in (1, 3, 8):
        images = images_for(model, size)
        assert_near(exported(images), model(images))
