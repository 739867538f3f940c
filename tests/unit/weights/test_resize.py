"""Resizing: what changes, what is kept, and what is left alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import torch

from mlp_mixer import (
    Checkpoint,
    MlpMixer,
    Preprocess,
    UserError,
    create_model,
    load,
    save,
)
from mlp_mixer.weights.resize import resize, resize_file

from .closeness import assert_same_network, in_float64

SMALL = {
    "num_blocks": 2,
    "hidden_dim": 8,
    "tokens_mlp_dim": 4,
    "channels_mlp_dim": 16,
    "image_size": 16,
}


def checkpoint(**fields: Any) -> Checkpoint:
    """A small one (a grid of 4 x 4) with no parameter at its initial value."""
    model = create_model("mixer_nano4", **{"num_classes": 3, **SMALL, **fields}).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    channels = model.config.in_channels
    preprocess = Preprocess(
        model.config.image_size,
        channels,
        crop_pct=0.5,
        mean=(0.1, 0.2, 0.3)[:channels],
    )
    return Checkpoint(
        model,
        preprocess,
        ("cat", "dög", "owl"),
        {"data": {"fingerprint": "f"}, "head": "sigmoid"},
    )


@pytest.mark.parametrize(
    "golden",
    [
        "google_npz_a/checkpoint.npz",
        "google_npz_b/checkpoint.npz",
        "mmpretrain_a/checkpoint.pth",
        "timm_b/model.safetensors",
        "lavish619_default_a/state_dict.pth",
    ],
)
def test_a_large_image_gets_the_mean_of_the_originals_logits(
    shared: Path, golden: str
) -> None:
    """2 x 2 tiles, which are images whose logits the lineage's own code computed."""
    file = shared / "golden" / golden
    io = np.load(file.parent / "io.npz")
    tiles = torch.from_numpy(io["input_nhwc"]).permute(0, 3, 1, 2)
    logits = torch.from_numpy(io["logits"])
    four = torch.arange(4) % len(tiles)
    small = load(file)
    height, width = small.model.config.image_size
    large = resize(small, (2 * height, 2 * width)).model
    top, bottom = (
        torch.cat([tiles[four[i]], tiles[four[i + 1]]], dim=2) for i in (0, 2)
    )
    with torch.inference_mode():
        found = in_float64(large)(torch.cat([top, bottom], dim=1)[None])
    # The rounding of the originals themselves, as in test_goldens.py.
    assert (found - logits[four].mean(dim=0)).abs().max() <= 1e-6


def test_a_checkpoint_keeps_what_does_not_depend_on_the_size() -> None:
    old = checkpoint()
    new = resize(old, (32, 16))
    assert new.preprocess == Preprocess((32, 16), crop_pct=0.5, mean=(0.1, 0.2, 0.3))
    assert new.labels == old.labels
    step = {"image_size": [16, 16], "patch_size": 4, "method": "block_diagonal"}
    assert new.provenance == {**old.provenance, "resized": step}
    again = resize(new, 24, method="interpolate", patch_size=6)
    second = {
        "image_size": [32, 16],
        "patch_size": 4,
        "method": "interpolate",
        "earlier": step,
    }
    assert again.provenance == {**old.provenance, "resized": second}
    assert (again.model.config.grid, again.model.config.tokens_mlp_dim) == ((4, 4), 8)


@pytest.mark.parametrize("method", ["block_diagonal", "interpolate"])
def test_what_came_is_left_alone(method: Any) -> None:
    """Training the new model in place does not reach the old one."""
    old = checkpoint()
    before = {name: tensor.clone() for name, tensor in old.model.state_dict().items()}
    config = old.model.config
    provenance = dict(old.provenance)
    for size in (16, 32):
        model = resize(old, size, method=method).model
        assert all(
            parameter.requires_grad and parameter.is_leaf
            for parameter in model.parameters()
        )
        model(torch.randn(2, 3, size, size)).square().sum().backward()
        with torch.no_grad():
            for parameter in model.parameters():
                assert parameter.grad is not None
                parameter.zero_()
    assert (old.model.config, old.provenance) == (config, provenance)
    assert all(
        torch.equal(tensor, before[name])
        for name, tensor in old.model.state_dict().items()
    )
    assert all(parameter.grad is None for parameter in old.model.parameters())


def test_a_model_gives_a_model_of_its_dtype_and_mode() -> None:
    old = checkpoint(num_classes=0, in_channels=1).model.double()
    for training in (True, False):
        new = resize(old.train(training), 32)
        assert type(new) is MlpMixer
        assert new.training == training
        assert {module.training for module in new.modules()} == {training}
        assert new(torch.zeros(1, 1, 32, 32, dtype=torch.float64)).shape == (1, 8)


def test_off_diagonal_weights_are_trainable() -> None:
    """The paper's growth is exact only at first: weights between tiles get gradients too."""
    model = resize(checkpoint().model, 32)
    model(torch.randn(8, 3, 32, 32)).square().sum().backward()
    weight = model.get_submodule("blocks.0.mlp_tokens.fc1").weight
    between = weight == 0
    assert between.float().mean() == 0.75
    assert (weight.grad[between] != 0).float().mean() > 0.99


def test_a_file_keeps_its_dtype_and_its_answers(tmp_path: Path) -> None:
    old = checkpoint()
    half = old.model.to(torch.bfloat16)
    source = save(
        tmp_path / "in.safetensors",
        half,
        preprocess=old.preprocess,
        labels=old.labels,
        provenance={"a": 1},
    )
    out = tmp_path / "new" / "out.safetensors"
    config = resize_file(source, out, 32)
    found = load(out)
    expected = resize(load(source), 32)
    assert found.model.config == config
    assert (found.preprocess, found.labels, found.provenance) == (
        expected.preprocess,
        expected.labels,
        expected.provenance,
    )
    assert_same_network(found.model, expected.model)
    with safetensors.safe_open(out, framework="pt") as file:
        assert {file.get_tensor(name).dtype for name in file.keys()} == {torch.bfloat16}  # noqa: SIM118


def test_a_file_of_another_lineage_becomes_a_native_one(
    shared: Path, tmp_path: Path
) -> None:
    source = shared / "golden" / "google_npz_a" / "checkpoint.npz"
    config = resize_file(
        source, tmp_path / "out.safetensors", (24, 16), method="interpolate"
    )
    found = load(tmp_path / "out.safetensors")
    assert found.model.config == config
    assert found.preprocess.image_size == (24, 16)
    assert found.provenance["lineage"] == "google"
    assert found.provenance["resized"]["image_size"] == [16, 16]


def test_nothing_is_overwritten_unasked(tmp_path: Path) -> None:
    source = save(tmp_path / "in.safetensors", checkpoint().model)
    there = tmp_path / "there.safetensors"
    there.write_bytes(b"precious")
    with pytest.raises(
        UserError,
        match="there.safetensors' exists; choose another name, or use --overwrite",
    ):
        resize_file(source, there, 32)
    assert there.read_bytes() == b"precious"
    before = source.read_bytes()
    with pytest.raises(UserError, match="is the file to read"):
        resize_file(source, tmp_path / "." / "in.safetensors", 32, overwrite=True)
    with pytest.raises(UserError, match=r"is a .safetensors file, got '.*out.npz'"):
        resize_file(source, tmp_path / "out.npz", 32)
    assert source.read_bytes() == before
    resize_file(source, there, 32, overwrite=True)
    assert load(there).model.config.image_size == (32, 32)
