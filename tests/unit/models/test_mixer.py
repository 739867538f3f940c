import copy
import dataclasses
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

SHARED = Path(os.environ.get("MLP_MIXER_SHARED", Path(__file__).parents[4] / "shared"))

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
    return torch.randn(size, generator=torch.Generator().manual_seed(batch)).to(
        model.stem.proj.weight.dtype
    )


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
    block = (2 * S * D_S + D_S + S) + (2 * C * D_C + D_C + C) + 4 * C
    by_formula = (3 * P * P * C + C) + L * block + 2 * C + (1000 * C + 1000)
    assert (
        sum(parameter.numel() for parameter in model.parameters())
        == by_formula
        == PARAMETERS[name]
    )


def test_every_count_belongs_to_a_variant():
    assert list(PARAMETERS) == list(VARIANTS) == variants("mixer_*")


def test_variants_by_pattern_in_the_order_of_the_table():
    assert variants("mixer_?16") == ["mixer_s16", "mixer_b16", "mixer_l16"]
    assert variants("vit*") == []


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)
def test_widths_follow_the_rule_of_table_1(config):
    assert (config.tokens_mlp_dim, config.channels_mlp_dim) == (
        config.hidden_dim // 2,
        4 * config.hidden_dim,
    )


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
    }
    fan_in |= {block.mlp_channels.fc1: 256, block.mlp_channels.fc2: 512}
    for layer, n in fan_in.items():
        std = 1 / math.sqrt(n)
        largest = 2 / math.sqrt(n) / 0.8796
        assert layer.weight.std().item() == pytest.approx(std, rel=0.03)
        assert abs(layer.weight.mean().item()) < 0.05 * std
        assert 0.97 * largest < layer.weight.abs().max().item() <= 1.0001 * largest
        assert not layer.bias.any()


def test_norms_are_neutral_and_the_head_is_zero():
    model = small()
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            assert (module.weight == 1).all()
            assert not module.bias.any()
    assert model.training
    assert torch.equal(model(images_for(model)), torch.zeros(3, 5))
    assert model.forward_features(images_for(model)).std() > 0.5


def test_initialisation_follows_the_global_seed():
    first = small().state_dict()
    second = small().state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


# Parity


def listing_1(
    model: MlpMixer, image_BIHW: Tensor, norm_eps: float, gelu: str, final_norm: bool
) -> Tensor:
    """The paper's Listing 1 once more, in plain tensor algebra on the state dict."""
    weights = model.state_dict()

    def norm(x_BSC: Tensor, name: str) -> Tensor:
        centred = x_BSC - x_BSC.mean(2, keepdim=True)
        variance = centred.square().mean(2, keepdim=True)
        return (
            centred / (variance + norm_eps).sqrt() * weights[f"{name}.weight"]
            + weights[f"{name}.bias"]
        )

    def activate(x: Tensor) -> Tensor:
        if gelu == "erf":
            return x * (1 + torch.erf(x / math.sqrt(2))) / 2
        return x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2

    P = weights["stem.proj.weight"].shape[-1]
    patches_BSIPQ = torch.stack(
        [
            image_BIHW[:, :, top : top + P, left : left + P]
            for top in range(0, image_BIHW.shape[2], P)
            for left in range(0, image_BIHW.shape[3], P)
        ],
        dim=1,
    )
    x_BSC = (
        torch.einsum("bsipq,cipq->bsc", patches_BSIPQ, weights["stem.proj.weight"])
        + weights["stem.proj.bias"]
    )
    for i in range(model.config.num_blocks):
        w = {
            name.removeprefix(f"blocks.{i}."): value for name, value in weights.items()
        }
        h_BDC = torch.einsum(
            "bsc,ds->bdc", norm(x_BSC, f"blocks.{i}.norm1"), w["mlp_tokens.fc1.weight"]
        )
        h_BDC = activate(h_BDC + w["mlp_tokens.fc1.bias"][:, None])
        x_BSC = x_BSC + torch.einsum("bdc,sd->bsc", h_BDC, w["mlp_tokens.fc2.weight"])
        x_BSC = x_BSC + w["mlp_tokens.fc2.bias"][:, None]
        h_BSD = torch.einsum(
            "bsc,dc->bsd",
            norm(x_BSC, f"blocks.{i}.norm2"),
            w["mlp_channels.fc1.weight"],
        )
        h_BSD = activate(h_BSD + w["mlp_channels.fc1.bias"])
        x_BSC = (
            x_BSC
            + torch.einsum("bsd,cd->bsc", h_BSD, w["mlp_channels.fc2.weight"])
            + w["mlp_channels.fc2.bias"]
        )
    pooled_BC = (norm(x_BSC, "norm") if final_norm else x_BSC).mean(1)
    return pooled_BC @ weights["head.weight"].T + weights["head.bias"]


@pytest.mark.parametrize("gelu", ["tanh", "erf"])
@pytest.mark.parametrize("final_norm", [True, False])
@pytest.mark.parametrize("norm_eps", [1e-6, 1e-3])
@pytest.mark.parametrize("in_channels", [1, 3, 4, 5])
def test_equals_listing_1(gelu, final_norm, norm_eps, in_channels):
    fields = {"gelu": gelu, "final_norm": final_norm, "norm_eps": norm_eps}
    model = randomised(small(in_channels=in_channels, **fields).double())
    expected = listing_1(model, images_for(model), **fields)
    torch.testing.assert_close(model(images_for(model)), expected, rtol=0, atol=1e-10)


def test_defaults_are_the_paper_s():
    config = small().config
    assert (config.gelu, config.norm_eps, config.final_norm, config.drop_path_rule) == (
        "tanh",
        1e-6,
        True,
        "paper",
    )
    assert (config.dropout, config.drop_path) == (0, 0)


def golden(name: str) -> tuple[Path, MlpMixer, Tensor, Tensor]:
    """A checkpoint that its own project wrote: the folder, our empty model, its input
    and its logits.
    """
    folder = SHARED / "golden" / name
    if not folder.is_dir():
        pytest.skip(f"no golden checkpoints at {folder}; set MLP_MIXER_SHARED")
    meta = json.loads((folder / "meta.json").read_text("utf-8"))
    fields = {
        field.name: meta[field.name]
        for field in dataclasses.fields(MixerConfig)
        if field.name in meta
    }
    model = MlpMixer(
        MixerConfig(**fields | {"image_size": tuple(meta["image_size"])})
    ).eval()
    with np.load(folder / "io.npz") as io:
        return (
            folder,
            model,
            torch.from_numpy(io["input_nhwc"]).permute(0, 3, 1, 2),
            torch.from_numpy(io["logits"]),
        )


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
    state = {}
    with np.load(folder / "checkpoint.npz") as archive:
        for path, value in archive.items():
            parts = [
                ours.get(part, part.replace("MixerBlock_", "blocks."))
                for part in path.split("/")
            ]
            layout = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}[
                value.ndim
            ]  # HWIO -> OIHW, (in, out) -> (out, in)
            state[".".join(parts)] = torch.from_numpy(value.transpose(layout).copy())
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
        ({"image_size": (3, 5), "patch_size": 1, "in_channels": 5}, 15),
        ({"num_classes": 1}, 6),
        ({"num_classes": 0}, 6),
    ],
)
def test_shapes(fields, tokens, batch):
    model = small(**fields)
    C = model.config.hidden_dim
    x_BSC = model.forward_features(images_for(model, batch))
    assert x_BSC.shape == (batch, tokens, C)
    assert model.forward_head(x_BSC, pre_logits=True).shape == (batch, C)
    assert model(images_for(model, batch)).shape == (
        batch,
        fields.get("num_classes", 5) or C,
    )


def test_a_batch_is_its_images_one_by_one():
    model = randomised(small())
    images = images_for(model, 3)
    one_by_one = torch.cat([model(image[None]) for image in images])
    torch.testing.assert_close(model(images), one_by_one, rtol=0, atol=1e-4)


@pytest.mark.parametrize("num_classes", [5, 0])
@pytest.mark.parametrize("final_norm", [True, False])
def test_features_by_name_in_order(num_classes, final_norm):
    model = randomised(small(num_classes=num_classes, final_norm=final_norm))
    out = model.features(images_for(model))
    blocks = [
        f"blocks.{i}{part}"
        for i in range(2)
        for part in (".mlp_tokens", ".mlp_channels", "")
    ]
    assert list(out) == ["stem", *blocks, "norm", "pre_logits", "logits"]
    assert {out[name].shape for name in ("stem", *blocks, "norm")} == {(3, 6, 20)}
    assert out["pre_logits"].shape == (3, 20)
    assert torch.equal(out["logits"], model(images_for(model)))
    assert torch.equal(out["norm"], model.forward_features(images_for(model)))
    assert torch.equal(
        out["pre_logits"], model.forward_head(out["norm"], pre_logits=True)
    )
    assert torch.equal(out["logits"], model.forward_head(out["norm"]))
    before = out["stem"]
    for i in range(2):
        before = (
            before + out[f"blocks.{i}.mlp_tokens"] + out[f"blocks.{i}.mlp_channels"]
        )
        torch.testing.assert_close(out[f"blocks.{i}"], before)


# Classifier


def test_new_classifier_is_zero_and_lives_where_the_model_does():
    model = randomised(small()).to(torch.bfloat16)
    pre_logits = model.features(images_for(model))["pre_logits"]
    model.reset_classifier(7)
    assert (model.num_classes, model.num_features) == (7, model.config.hidden_dim)
    head = model.get_classifier()
    assert head is model.head
    assert isinstance(head, nn.Linear)
    assert (head.weight.dtype, head.weight.shape, model.config.num_classes) == (
        torch.bfloat16,
        (7, 20),
        7,
    )
    assert not head.weight.any()
    assert not head.bias.any()
    assert torch.equal(model.features(images_for(model))["pre_logits"], pre_logits)
    assert torch.equal(model(images_for(model)), torch.zeros(3, 7))


def test_classifier_can_go_and_come_back():
    model = randomised(small())
    model.reset_classifier(0)
    assert isinstance(model.get_classifier(), nn.Identity)
    assert model.config.num_classes == 0
    assert torch.equal(
        model(images_for(model)), model.features(images_for(model))["pre_logits"]
    )
    model.reset_classifier(2)
    assert model(images_for(model)).shape == (3, 2)


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


@pytest.mark.parametrize(
    "shape", [(2, 3, 12, 8), (2, 1, 8, 12), (3, 8, 12), (2, 3, 8, 12, 1), (2, 8, 12, 3)]
)
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
            "drop_path_rule must be one of paper, timm, got 'mine'",
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
    assert (config.grid, config.num_patches, config.hidden_dim) == ((2, 4), 8, 128)
    assert model_config("mixer_b16").image_size == (224, 224)


# Dropout and stochastic depth


@pytest.mark.parametrize(
    ("rule", "blocks", "rates"),
    [
        ("paper", 5, [0, 0.1, 0.2, 0.3, 0.4]),
        ("paper", 1, [0]),
        ("timm", 3, [0.4, 0.4, 0.4]),
    ],
)
def test_drop_path_rates(rule, blocks, rates):
    assert drop_path_rates(rule, 0.4, blocks) == pytest.approx(rates)
    model = small(num_blocks=blocks, drop_path=0.4, drop_path_rule=rule)
    assert [block.drop_path.rate for block in model.blocks] == pytest.approx(rates)
    assert {block.drop_path.rescale for block in model.blocks} == {rule == "timm"}


@pytest.mark.parametrize(("rescale", "kept"), [(False, 1.0), (True, 4 / 3)])
def test_drop_path_drops_whole_samples_at_its_rate(rescale, kept):
    torch.manual_seed(0)
    out = DropPath(0.25, rescale=rescale)(torch.ones(10_000, 2, 3))
    assert (out == out[:, :1, :1]).all()
    values, counts = out[:, 0, 0].unique(return_counts=True)
    assert values.tolist() == pytest.approx([0, kept])
    assert counts[0].item() == pytest.approx(
        2500, abs=4 * math.sqrt(10_000 * 0.25 * 0.75)
    )


@pytest.mark.parametrize("rescale", [False, True])
def test_drop_path_does_nothing_in_evaluation_or_at_rate_zero(rescale):
    branch = torch.randn(4, 2, 3)
    assert torch.equal(DropPath(0.9, rescale=rescale).eval()(branch), branch)
    assert torch.equal(DropPath(0.0, rescale=rescale)(branch), branch)


@pytest.mark.parametrize("method", ["forward_features", "features"])
def test_drop_path_drops_both_branches_and_never_the_skip(method):
    model = randomised(small(drop_path=1 - 1e-7, drop_path_rule="timm"))
    images = images_for(model)
    skipped = model.norm(model.stem(images))
    assert not torch.allclose(model.forward_features(images), skipped)
    model.train()
    out = getattr(model, method)(images)
    assert torch.equal(out if method == "forward_features" else out["norm"], skipped)


def test_the_two_branches_are_dropped_independently():
    torch.manual_seed(0)
    model = randomised(
        small(num_blocks=1, drop_path=0.5, drop_path_rule="timm")
    ).train()
    images = images_for(model, 1).expand(200, -1, -1, -1)
    outcomes = model.forward_features(images).detach().flatten(1).unique(dim=0)
    assert len(outcomes) == 4


def test_dropout_is_for_training_only():
    plain = randomised(small())
    model = randomised(small(dropout=0.5))
    images = images_for(model)
    assert torch.equal(model(images), plain(images))
    assert torch.equal(plain.train()(images), plain.eval()(images))
    model.train()
    assert not torch.equal(model(images), model(images))


def test_dropout_follows_each_dense_layer():
    model = small(dropout=0.75)
    inputs = []
    with torch.no_grad():
        for mlp in (model.blocks[0].mlp_tokens, model.blocks[0].mlp_channels):
            nn.init.ones_(mlp.fc2.bias)
            mlp.fc2.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
        out = model.features(images_for(model, 8))
    for x in (*inputs, out["blocks.0.mlp_tokens"], out["blocks.0.mlp_channels"]):
        assert (x == 0).float().mean().item() == pytest.approx(0.75, abs=0.06)


# As a module


def test_names_of_the_parameters():
    block = [
        f"{part}.{kind}"
        for part in (
            "norm1",
            "mlp_tokens.fc1",
            "mlp_tokens.fc2",
            "norm2",
            "mlp_channels.fc1",
            "mlp_channels.fc2",
        )
        for kind in ("weight", "bias")
    ]
    ends = ["norm.weight", "norm.bias", "head.weight", "head.bias"]
    names = [
        "stem.proj.weight",
        "stem.proj.bias",
        *(f"blocks.{i}.{name}" for i in range(2) for name in block),
        *ends,
    ]
    assert list(small().state_dict()) == names


def test_state_dict_round_trip():
    model = randomised(small())
    other = small().eval()
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(images_for(model)), model(images_for(model)))


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
    torch.testing.assert_close(
        actual.float(), expected, rtol=0.1, atol=0.1 * expected.abs().max().item()
    )


def test_grad_checkpointing_keeps_less_and_computes_the_same():
    model = randomised(small(dropout=0.5, drop_path=0.5)).train()
    images = images_for(model)

    def gradients_and_kept(enable: bool) -> tuple[list[Tensor], int]:
        kept = []
        model.set_grad_checkpointing(enable)
        model.zero_grad()
        torch.manual_seed(1)
        with torch.autograd.graph.saved_tensors_hooks(
            lambda tensor: kept.append(tensor) or tensor, lambda x: x
        ):
            loss = model(images).square().sum()
        loss.backward()
        return [parameter.grad.clone() for parameter in model.parameters()], len(kept)

    (plain, kept) = gradients_and_kept(False)
    (recomputed, kept_less) = gradients_and_kept(True)
    assert kept_less < kept / 2
    assert all(map(torch.equal, plain, recomputed))
    assert all(gradient.any() for gradient in plain)


def test_compiles_as_one_graph():
    model = randomised(small(num_blocks=1))
    compiled = torch.compile(model, fullgraph=True)
    torch.testing.assert_close(
        compiled(images_for(model)), model(images_for(model)), rtol=1e-5, atol=1e-5
    )


def test_exports_with_any_batch_size():
    model = randomised(small())
    batch = {"image": {0: torch.export.Dim("batch")}}
    exported = torch.export.export(
        model, (images_for(model, 3),), dynamic_shapes=batch
    ).module()
    for size in (1, 3, 8):
        torch.testing.assert_close(
            exported(images_for(model, size)),
            model(images_for(model, size)),
            rtol=0,
            atol=1e-5,
        )
