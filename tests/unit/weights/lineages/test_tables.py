"""Every lineage's table is invertible, recognised, and means what its lineage computes."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mlp_mixer import MixerConfig, MlpMixer
from mlp_mixer.weights.formats import containers
from mlp_mixer.weights.lineages import translate
from mlp_mixer.weights.lineages.lineage import PARTS, Lineage
from mlp_mixer.weights.lineages.recognise import recognise
from mlp_mixer.weights.lineages.tables import LINEAGES

from ..closeness import assert_same_weights
from ..networks import SQUARE, random_tensors


@st.composite
def configs(draw: st.DrawFn, lineage: Lineage) -> MixerConfig:
    """A small architecture that the lineage can express."""
    rows = draw(st.integers(1, 4))
    columns = rows if lineage.name == "lavish619" else draw(st.integers(1, 4))
    patch = draw(st.integers(1, 4))
    tokens = draw(st.integers(1, 9))
    channels = draw(st.integers(1, 9))
    if lineage.name == "keras":
        tokens = channels = rows * columns
    return MixerConfig(
        patch_size=patch,
        num_blocks=draw(st.integers(1, 12)),
        hidden_dim=draw(st.integers(1, 8)),
        tokens_mlp_dim=tokens,
        channels_mlp_dim=channels,
        image_size=(rows * patch, columns * patch),
        in_channels=draw(st.sampled_from([1, 2, 3, 4])),
        num_classes=draw(st.integers(0, 5)),
        gelu=lineage.gelu,
        norm_eps=lineage.norm_eps,
        final_norm=lineage.final_norm,
    )


@pytest.mark.parametrize("lineage", LINEAGES.values(), ids=lambda lineage: lineage.name)
@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64], ids=str
)
def test_out_and_in_again_is_the_identity(
    lineage: Lineage, dtype: torch.dtype, tmp_path: Path
) -> None:
    """Names, shapes and bytes survive the file, for whatever the lineage can express."""

    wrap = "state_dict" if lineage.name == "mmpretrain" else None
    # Names and shapes are the same for every dtype.
    examples = 8 if dtype == torch.float32 else 3

    @settings(max_examples=examples, deadline=None)
    @given(configs(lineage))
    def check(config: MixerConfig) -> None:
        assert not translate.obstacles(config, lineage)
        ours = random_tensors(config, dtype, shared_norm=lineage.name == "keras")
        theirs = translate.to_theirs(config, ours, lineage)
        for suffix in lineage.suffixes:
            path = tmp_path / f"weights{suffix}"
            path.write_bytes(containers.to_bytes(suffix, theirs, wrap=wrap))
            read = containers.read(path).tensors
            assert list(read) == list(theirs) or suffix in (".safetensors", ".h5")
            assert_same_weights(read, theirs)
            recognised, prefix = recognise(read, "it")
            assert recognised is lineage
            got, again = translate.to_ours(
                read, recognised, prefix, "it", config.image_size
            )
            assert got == config
            assert_same_weights(again, ours)
            assert_same_weights(translate.to_theirs(got, again, lineage), theirs)

    check()


@pytest.mark.parametrize("lineage", LINEAGES.values(), ids=lambda lineage: lineage.name)
def test_no_two_names_collide(lineage: Lineage) -> None:
    """Each of our tensors comes from exactly one of theirs."""
    table = lineage.table(12)
    assert len({entry.theirs for entry in table}) == len(table)
    with torch.device("meta"):
        deep = dataclasses.replace(SQUARE, num_blocks=12, final_norm=lineage.final_norm)
        expected = MlpMixer(deep).state_dict()
    ours = [name for entry in table for name in entry.ours]
    assert sorted(ours) == sorted(expected)


def test_a_google_file_means_what_flax_computes() -> None:
    """The paper's code as a formula in NumPy: NHWC, kernels from the right, tanh GELU."""
    lineage = LINEAGES["google"]
    config = MixerConfig(2, 2, 6, 5, 7, image_size=(4, 6), num_classes=3)
    ours = random_tensors(config)
    theirs = translate.to_theirs(config, ours, lineage)
    p = {name: tensor.double().numpy() for name, tensor in theirs.items()}

    def norm(x: np.ndarray[Any, Any], name: str) -> Any:
        mean = x.mean(-1, keepdims=True)
        var = x.var(-1, keepdims=True)
        return (x - mean) / np.sqrt(var + 1e-6) * p[f"{name}/scale"] + p[f"{name}/bias"]

    def dense(x: np.ndarray[Any, Any], name: str) -> Any:
        return x @ p[f"{name}/kernel"] + p[f"{name}/bias"]

    def mlp(x: np.ndarray[Any, Any], name: str) -> Any:
        h = dense(x, f"{name}/Dense_0")
        cubic = h + 0.044715 * h**3
        gelu = 0.5 * h * (1 + np.tanh(np.sqrt(2 / np.pi) * cubic))
        return dense(gelu, f"{name}/Dense_1")

    image = np.random.default_rng(0).standard_normal((3, 4, 6, 3))
    grid = image.reshape(3, 2, 2, 3, 2, 3).transpose(0, 1, 3, 2, 4, 5)
    patches = grid.reshape(3, 6, 12)
    x = patches @ p["stem/kernel"].reshape(12, 6) + p["stem/bias"]
    for i in range(2):
        block = f"MixerBlock_{i}"
        tokens_last = norm(x, f"{block}/LayerNorm_0").swapaxes(1, 2)
        x = x + mlp(tokens_last, f"{block}/token_mixing").swapaxes(1, 2)
        x = x + mlp(norm(x, f"{block}/LayerNorm_1"), f"{block}/channel_mixing")
    expected = dense(norm(x, "pre_head_layer_norm").mean(1), "head")
    got, tensors = translate.to_ours(theirs, lineage, "", "it", (4, 6))
    model = MlpMixer(got)
    model.load_state_dict(tensors)
    logits = model.double()(torch.from_numpy(image).permute(0, 3, 1, 2))
    assert np.abs(logits.detach().numpy() - expected).max() < 1e-12


@pytest.mark.parametrize(
    "name", ["google_prelinen", "bigvision", "keras", "lucidrains"]
)
def test_lineages_of_other_layouts_agree_with_google(name: str) -> None:
    """The same numbers, laid out by hand as that lineage documents it."""
    lineage = LINEAGES[name]
    config = dataclasses.replace(
        SQUARE,
        tokens_mlp_dim=16,
        channels_mlp_dim=16,
        gelu=lineage.gelu,
        norm_eps=lineage.norm_eps,
        final_norm=lineage.final_norm,
    )
    ours = random_tensors(config, shared_norm=True)
    theirs = translate.to_theirs(config, ours, lineage)
    stem = ours["stem.proj.weight"]
    token = ours["blocks.1.mlp_tokens.fc1.weight"]
    flat = stem.permute(0, 2, 3, 1).reshape(
        6, -1
    )  # (p p c), as einops' "(p1 p2 c)" and tf.image.extract_patches
    expected = {
        "google_prelinen": {
            "embedding/kernel": stem.permute(2, 3, 1, 0),
            "Mixer/encoderblock_1/token_mixing_phase_0/kernel1": token.T[None],
        },
        "bigvision": {"params/MixerBlock_1/token_mixing/Dense_0/kernel": token.T},
        "keras": {
            "layers/dense/vars/0": flat.T,
            "layers/sequential/layers/mlp_mixer_layer_1/mlp1/layers/dense/vars/0": token.T,
            "layers/sequential/layers/mlp_mixer_layer/normalize/vars/0": ours[
                "blocks.0.norm1.weight"
            ],
        },
        "lucidrains": {
            "1.weight": flat,
            "3.0.fn.0.weight": token[:, :, None],
            "6.weight": ours["head.weight"],
        },
    }[name]
    for key, tensor in expected.items():
        assert torch.equal(theirs[key], tensor), key


def test_parts_are_the_native_modules() -> None:
    with torch.device("meta"):
        names = {name.rpartition(".")[0] for name in MlpMixer(SQUARE).state_dict()}
    assert {part.format(i=i) for part in PARTS for i in range(2)} == names
