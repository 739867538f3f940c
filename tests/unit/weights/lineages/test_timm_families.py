"""timm's gMixer, ResMLP and gMLP files: timm's logits, and every misfit in a sentence."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mlp_mixer import UserError, create_model, load, save
from mlp_mixer.models import ALL_VARIANTS, FAMILIES, MlpMixer
from mlp_mixer.weights.convert import convert
from mlp_mixer.weights.lineages import timm_families

from ..closeness import assert_same_function, assert_same_weights

timm = pytest.importorskip("timm")

FAMILY = {
    name: family
    for family in ("gmixer", "resmlp", "gmlp")
    for name in FAMILIES[family][1]
}


def theirs(name: str, blocks: int = 2, **fields: Any) -> nn.Module:
    """timm's network of that width and depth with random parameters, logits around 1."""
    model = timm.create_model(f"{name}_224", **{"num_classes": 7, **fields}).eval()
    model.blocks = model.blocks[:blocks]
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            is_scale = key.endswith(
                ("norm.weight", "norm1.weight", "norm2.weight", "alpha", "ls1", "ls2")
            )
            parameter.normal_(
                float(is_scale),
                0.3 if parameter.ndim == 1 else 1 / parameter[0].numel() ** 0.5,
            )
    return model


def written(path: Path, tensors: dict[str, Tensor]) -> Path:
    save_file(tensors, path) if path.suffix == ".safetensors" else torch.save(
        tensors, path
    )
    return path


@pytest.mark.parametrize("name", FAMILY)
@torch.inference_mode()
def test_files_of_timm_give_timms_logits(name: str, tmp_path: Path) -> None:
    model = theirs(name)
    image = torch.randn(2, 3, 224, 224)
    assert 0.05 < model(image).std() < 20
    for ending in (".safetensors", ".pth"):
        checkpoint = load(written(tmp_path / f"{name}{ending}", model.state_dict()))
        assert_same_weights(checkpoint.model.state_dict(), model.state_dict())
    assert_same_function(checkpoint.model, model, image)
    row = dataclasses.replace(ALL_VARIANTS[name], num_blocks=2, num_classes=7)
    scale = (
        {"layer_scale": 1e-4} if FAMILY[name] == "resmlp" else {}
    )  # of another depth than any variant's
    assert checkpoint.model.config == dataclasses.replace(row, **scale)
    cfg = timm.get_pretrained_cfg(f"{name}_224")  # nothing beside the tensors says this
    assert (checkpoint.preprocess.mean, checkpoint.preprocess.std) == (
        cfg.mean,
        cfg.std,
    )
    assert (checkpoint.preprocess.crop_pct, checkpoint.preprocess.interpolation) == (
        cfg.crop_pct,
        cfg.interpolation,
    )


@pytest.mark.parametrize("name", FAMILY)
def test_a_file_of_full_depth_is_the_variant(name: str) -> None:
    with torch.device("meta"):
        shapes = {
            key: tensor.shape
            for key, tensor in timm.create_model(f"{name}_224").state_dict().items()
        }
    tensors = {
        key: torch.zeros(1, dtype=torch.half).expand(shape)
        for key, shape in shapes.items()
    }
    assert timm_families.family_of(tensors) == FAMILY[name]
    config, ours = timm_families.to_ours(tensors, FAMILY[name], "it")
    assert config == ALL_VARIANTS[name]
    assert {tensor.dtype for tensor in ours.values()} == {torch.half}


@pytest.mark.parametrize("name", ["gmixer_12", "resmlp_12", "gmlp_ti16"])
@torch.inference_mode()
def test_rectangles_gray_no_head_and_wrappers(name: str, tmp_path: Path) -> None:
    model = theirs(name, 1, img_size=(48, 32), in_chans=1, num_classes=0)
    path = written(
        tmp_path / "m.pth",
        {f"module.{key}": tensor for key, tensor in model.state_dict().items()},
    )
    image = torch.randn(1, 1, 48, 32)
    checkpoint = load(path, image_size=(48, 32))
    assert_same_weights(checkpoint.model.state_dict(), model.state_dict())
    assert_same_function(checkpoint.model, model, image)
    assert len(checkpoint.preprocess.mean) == 1
    for size, message in (
        (None, "6 patches of 16 pixels, which form no square"),
        (32, "gives 2 x 2"),
    ):
        with pytest.raises(UserError, match=message):
            load(path, image_size=size)


@pytest.mark.parametrize("name", ["gmixer_24", "resmlp_24", "gmlp_s16"])
@torch.inference_mode()
def test_a_folder_that_timm_writes_for_the_hub(name: str, tmp_path: Path) -> None:
    model = theirs(name, 1, img_size=(32, 64))
    image = torch.randn(1, 3, 32, 64)
    given = {
        "input_size": (3, 32, 64),
        "mean": (0.1, 0.2, 0.3),
        "std": (0.4, 0.5, 0.6),
        "crop_pct": 0.9,
    }
    model.pretrained_cfg = model.pretrained_cfg | given
    model_args = {"img_size": [32, 64]}
    timm.models.save_for_hf(
        model,
        tmp_path,
        {"label_names": list("abcdefg")},
        model_args,
        safe_serialization=True,
    )
    assert (
        json.loads((tmp_path / "config.json").read_text())["architecture"]
        == f"{name}_224"
    )
    checkpoint = load(tmp_path)
    assert_same_weights(checkpoint.model.state_dict(), model.state_dict())
    assert_same_function(checkpoint.model, model, image)
    assert (checkpoint.preprocess.mean, checkpoint.preprocess.std) == (
        given["mean"],
        given["std"],
    )
    assert (checkpoint.preprocess.crop_pct, checkpoint.preprocess.image_size) == (
        0.9,
        (32, 64),
    )
    assert checkpoint.labels == tuple("abcdefg")


@pytest.mark.parametrize("name", ["gmixer_12", "resmlp_12", "gmlp_ti16"])
def test_conversions_keep_every_bit(name: str, tmp_path: Path) -> None:
    tensors = {
        key: tensor.bfloat16()
        for key, tensor in theirs(name, 1, img_size=32).state_dict().items()
    }
    source = written(tmp_path / "timm.safetensors", tensors)
    native = tmp_path / "native.safetensors"
    back = tmp_path / "back.safetensors"
    assert convert(source, native, "native").lineage == "timm"
    convert(native, back, "timm")
    for path in (native, back):
        found = load_file(path)
        assert found.keys() == tensors.keys()
        assert all(
            found[key].dtype == torch.bfloat16 and torch.equal(found[key], t)
            for key, t in tensors.items()
        )
    assert load(native).model.config == load(source).model.config
    with pytest.raises(UserError, match="google knows Mixers only, got "):
        convert(source, tmp_path / "m.npz", "google")


def test_what_timm_would_compute_otherwise_is_not_written_for_it(
    tmp_path: Path,
) -> None:
    source = save(
        tmp_path / "m.safetensors",
        create_model("gmlp_ti16", num_blocks=1, image_size=32, gelu="tanh"),
    )
    with pytest.raises(
        UserError,
        match="would not give the same results: the weights use the tanh form of GELU",
    ):
        convert(source, tmp_path / "m.pth", "timm")
    convert(source, tmp_path / "m.pth", "timm", force=True)
    source = save(
        tmp_path / "m.safetensors",
        create_model("gmixer_12", num_blocks=1, image_size=32, gelu="tanh"),
    )
    convert(source, tmp_path / "gmixer.pth", "timm")  # it has no GELU
    source = save(
        tmp_path / "m.safetensors", create_model("untied_nano4", num_blocks=1)
    )
    with pytest.raises(UserError, match="timm knows Mixers only, got TokenMixing"):
        convert(source, tmp_path / "m.pth", "timm", overwrite=True)


def state(name: str) -> dict[str, Tensor]:
    tiny = create_model(
        name,
        num_blocks=3,
        hidden_dim=6,
        channels_mlp_dim=7,
        patch_size=4,
        image_size=8,
        num_classes=2,
    )
    return {key: torch.randn_like(tensor) for key, tensor in tiny.state_dict().items()}


MISFITS: dict[str, tuple[str, Callable[[dict[str, Tensor]], Any], str]] = {
    "missing": (
        "gmlp_ti16",
        lambda t: t.pop("blocks.1.norm.bias"),
        "but does not fit: missing blocks.1.norm.bias$",
    ),
    "unexpected": (
        "resmlp_12",
        lambda t: t.update(more=torch.ones(1)),
        "unexpected more$",
    ),
    "one wrong width of three": (
        "gmixer_12",
        lambda t: t.update({"blocks.2.mlp_channels.fc2.weight": torch.ones(6, 5)}),
        r"fit: blocks.2.mlp_channels.fc2.weight is \(6, 5\), expected \(6, 7\)$",
    ),
    "one ungated MLP of three": (
        "gmixer_12",
        lambda t: t.update({"blocks.0.mlp_tokens.fc1.bias": torch.ones(192)}),
        r"fit: blocks.0.mlp_tokens.fc1.bias is \(192,\), expected \(384,\)$",
    ),
    "no stem": (
        "gmlp_ti16",
        lambda t: t.pop("stem.proj.weight"),
        "a gmlp has stem.proj.weight of 4 axes",
    ),
    "a flat stem": (
        "resmlp_12",
        lambda t: t.update({"stem.proj.weight": torch.ones(6, 48)}),
        "of 4 axes",
    ),
    "far blocks": (
        "resmlp_12",
        lambda t: t.update({"blocks.99999.linear_tokens.bias": torch.ones(4)}),
        "fit: 100000 blocks in 43 tensors$",
    ),
    "a number": (
        "resmlp_12",
        lambda t: t.update({"blocks.0.ls1": torch.tensor(1.0)}),
        r"ls1 is \(\), expected \(6,\)",
    ),
    "NaN": (
        "gmlp_ti16",
        lambda t: t["head.weight"].fill_(torch.nan),
        "NaN or infinite values in 1 of",
    ),
    "no MLP": (
        "gmlp_ti16",
        lambda t: [t.pop(f"blocks.{i}.mlp_channels.fc2.weight") for i in range(3)],
        "and blocks.0.mlp_channels.fc2.weight$",
    ),
}


@pytest.mark.parametrize("case", MISFITS)
def test_misfits_are_named(case: str, tmp_path: Path) -> None:
    name, damage, message = MISFITS[case]
    tensors = state(name)
    assert load(written(tmp_path / "m.pth", tensors)).model.config.num_blocks == 3
    damage(tensors)
    with pytest.raises(UserError, match=message):
        load(written(tmp_path / "m.pth", tensors))


def test_a_mixer_is_no_gmixer_and_a_stated_lineage_wins(tmp_path: Path) -> None:
    mixer = create_model("mixer_nano4", num_blocks=1, tokens_mlp_dim=5).state_dict()
    assert timm_families.family_of(mixer) is None
    path = written(
        tmp_path / "m.safetensors", MlpMixer(ALL_VARIANTS["mixer_pico2"]).state_dict()
    )
    assert type(load(path).model.config).__name__ == "MixerConfig"
    with pytest.raises(UserError, match="is no google checkpoint"):
        load(written(tmp_path / "g.pth", state("gmlp_ti16")), lineage="google")
    assert load(tmp_path / "g.pth", lineage="timm").provenance["lineage"] == "timm"
