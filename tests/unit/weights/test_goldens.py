"""Checkpoints that the lineages' own code wrote, with the logits it computed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mlp_mixer import load
from mlp_mixer.weights.convert import convert
from mlp_mixer.weights.formats import containers

from . import closeness
from .closeness import ROUNDING_32, assert_same_weights, in_float64

# Parts of the largest logit. Ours computes in float64 here, so what is left is the
# rounding of the originals' own float32, which no other machine changes: up to 2.9e-7.
# A wrong epsilon shows as 6e-7 to 4e-6 (in timm's small networks as 2e-7, but its value
# is compared as well), a wrong GELU as 2e-5 to 2e-4.
NOISE = 5e-7
GOLDENS = [
    f"{name}_{letter}"
    for letter in "ab"
    for name in (
        "google_npz",
        "google_prelinen_npz",
        "bigvision_npz",
        "timm",
        "mmpretrain",
        "lavish619_default",
        "lavish619_paper",
        "lucidrains",
        "keras",
    )
]


def files(folder: Path) -> list[Path]:
    """The checkpoints of a golden."""
    found = [
        path
        for path in sorted(folder.iterdir())
        if path.name not in ("io.npz", "meta.json")
    ]
    assert found
    return found


def difference(folder: Path, checkpoint: Any) -> float:
    """Largest difference from the original's logits."""
    io = np.load(folder / "io.npz")
    images = torch.from_numpy(io["input_nhwc"]).permute(0, 3, 1, 2)
    with torch.inference_mode():
        logits = in_float64(checkpoint.model)(images)
        assert closeness.difference(checkpoint.model(images), logits) < ROUNDING_32
    return closeness.difference(logits, torch.from_numpy(io["logits"]))


@pytest.mark.parametrize("golden", GOLDENS)
def test_the_logits_are_the_originals(shared: Path, golden: str) -> None:
    folder = shared / "golden" / golden
    meta = json.loads((folder / "meta.json").read_text())
    for file in files(folder):
        checkpoint = load(file)
        assert difference(folder, checkpoint) <= NOISE
        assert not checkpoint.model.training
        config = checkpoint.model.config
        for field in (
            "patch_size",
            "num_blocks",
            "hidden_dim",
            "tokens_mlp_dim",
            "channels_mlp_dim",
            "num_classes",
        ):
            assert getattr(config, field) == meta[field], field
        assert config.image_size == tuple(meta["image_size"])
        assert config.gelu == meta["gelu"].split()[0]
        assert (config.norm_eps, config.final_norm) == (
            meta["norm_eps"],
            meta.get("final_norm", True),
        )


@pytest.mark.parametrize("golden", GOLDENS)
def test_it_goes_home_as_it_came(shared: Path, golden: str, tmp_path: Path) -> None:
    """Through our native file and back: names, shapes, bytes, and logits on the way."""
    folder = shared / "golden" / golden
    for file in files(folder):
        native = convert(file, tmp_path / f"{file.name}.safetensors", "native")
        assert difference(folder, load(native.path)) <= NOISE
        suffix = "".join(file.suffixes[-1:])
        home = convert(
            native.path, tmp_path / f"home{suffix}", native.lineage, overwrite=True
        )
        came = containers.read(file)
        went = containers.read(home.path)
        assert came.container == went.container
        assert_same_weights(came.tensors, went.tensors)
        assert came.metadata.get("CLASSES") == went.metadata.get("CLASSES")


def test_every_golden_is_tested(shared: Path) -> None:
    assert set(json.loads((shared / "golden" / "manifest.json").read_text())) == set(
        GOLDENS
    )
