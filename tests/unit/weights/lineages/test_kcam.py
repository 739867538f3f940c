"""Mixers of keras_cv_attention_models: Google's names in Keras's old kind of .h5."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from mlp_mixer import load
from mlp_mixer.weights.convert import convert

from ..small_files import CONFIG, arrays, refused, same


def write_layers(root: h5py.Group, tensors: dict[str, Any]) -> None:
    """As `model.save_weights("w.h5")` of Keras 2 wrote them."""
    layers: dict[str, dict[str, Any]] = {}
    for name, array in tensors.items():
        layer, _, leaf = name.rpartition("/")
        is_norm = "norm" in layer.lower()
        theirs = {"scale": "gamma", "bias": "beta"}[leaf] if is_norm else leaf
        layers.setdefault(layer, {})[f"{layer}/{theirs}:0"] = array
    # Layers without weights have groups as well.
    layers["input_1"] = {}
    layers["MixerBlock_0/permute_0"] = {}
    root.attrs["layer_names"] = [layer.encode() for layer in layers]
    root.attrs["backend"] = b"tensorflow"
    root.attrs["keras_version"] = b"2.7.0"
    for layer, weights in layers.items():
        group = root.create_group(layer)
        group.attrs["weight_names"] = [name.encode() for name in weights]
        for name, array in weights.items():
            group.create_dataset(name, data=array)


def written(path: Path, *, whole: bool = False, head: bool = True) -> Path:
    tensors = {name: a for name, a in arrays().items() if head or "head/" not in name}
    with h5py.File(path, "w") as root:
        if whole:
            write_layers(root.create_group("model_weights"), tensors)
            root.create_group("optimizer_weights")["Adam/head/kernel/m:0"] = np.ones(3)
        else:
            write_layers(root, tensors)
    return path


@pytest.mark.parametrize("whole", [False, True], ids=["weights", "model"])
def test_its_files_are_read(tmp_path: Path, whole: bool) -> None:
    checkpoint = load(written(tmp_path / "mlp_mixer_b16_imagenet.h5", whole=whole))
    same(checkpoint, load(arrays()).model.state_dict())
    assert checkpoint.provenance["lineage"] == "kcam"
    config = checkpoint.model.config
    assert (config.gelu, config.norm_eps, config.final_norm) == ("erf", 1e-5, True)
    assert (config.image_size, config.num_classes) == ((8, 8), CONFIG.num_classes)


def test_without_a_head(tmp_path: Path) -> None:
    checkpoint = load(written(tmp_path / "w.h5", head=False))
    assert checkpoint.model.config.num_classes == 0
    x_BCHW = torch.randn(2, 3, 8, 8)
    assert checkpoint.model(x_BCHW).shape == (2, CONFIG.hidden_dim)


def test_it_is_written_back_in_its_own_layout(tmp_path: Path) -> None:
    theirs = written(tmp_path / "w.h5")
    convert(theirs, tmp_path / "again.h5", "kcam")
    found: list[dict[str, Any]] = []
    for path in (theirs, tmp_path / "again.h5"):
        with h5py.File(path) as root:
            names = {}
            for layer in root.attrs["layer_names"]:
                group = root[layer]
                for name in group.attrs["weight_names"]:
                    names[name] = np.asarray(group[name])
            found.append(names)
    assert found[0].keys() == found[1].keys()
    for name, array in found[0].items():
        np.testing.assert_array_equal(found[1][name], array)


def renamed(kinds: dict[str, int]) -> dict[str, Any]:
    """Layers of Keras 3 under the names of their kinds."""
    layers = {}
    for kind, count in kinds.items():
        for number in range(count):
            layer = f"layers/{kind}_{number}" if number else f"layers/{kind}"
            layers[f"{layer}/vars/0"] = np.ones((2, 2), np.float32)
            layers[f"{layer}/vars/1"] = np.ones(2, np.float32)
    return layers


def test_a_mixer_is_asked_for_before_a_resnet_is_named(tmp_path: Path) -> None:
    path = tmp_path / "w.weights.h5"
    mixers = [
        {"conv2d": 1, "dense": 9, "layer_normalization": 5},
        {"conv2d": 1, "dense": 48, "layer_normalization": 25},
    ]
    for kinds in mixers:
        with h5py.File(path, "w") as root:
            for name, array in renamed(kinds).items():
                root[name] = array
        refused(
            path, "if it is a Mixer of keras_cv_attention_models, give the .h5 file"
        )
    with h5py.File(path, "w") as root:
        for name, array in renamed({"conv2d": 5, "dense": 1}).items():
            root[name] = array
    refused(path, "a convolutional network of Keras, such as a ResNet")
