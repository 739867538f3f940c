"""Small checkpoints and their folders, which several tests share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from mlp_mixer import Checkpoint, Preprocess, create_model, save_pretrained

LABELS = ("cat", "dög|fish", "<b>owl</b>")


THREE = ["README.md", "config.json", "model.safetensors"]


def mixer(provenance: dict[str, Any] | None = None, **fields: Any) -> Checkpoint:
    """A small one with erf GELU and no parameter at its initial value."""
    model = create_model(
        "mixer_pico2", **({"num_classes": 3, "gelu": "erf"} | fields)
    ).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    config = model.config
    preprocess = Preprocess(
        config.image_size, config.in_channels, resampler="opencv", crop_pct=0.9
    )
    return Checkpoint(
        model, preprocess, LABELS if config.num_classes == 3 else None, provenance or {}
    )


def same(ours: Checkpoint, theirs: Checkpoint) -> bool:
    """Bit-equal tensors, and equal in everything that describes them."""
    left = ours.model.state_dict()
    right = theirs.model.state_dict()
    tensors = list(left) == list(right) and all(
        torch.equal(left[name], right[name]) for name in left
    )
    words = ("preprocess", "labels", "provenance")
    return (
        tensors
        and ours.model.config == theirs.model.config
        and all(getattr(ours, word) == getattr(theirs, word) for word in words)
    )


def shards(checkpoint: Checkpoint, folder: Path, suffix: str) -> dict[str, str]:
    """Split the single file of a folder in two; returns which file each tensor is in."""
    save_pretrained(checkpoint, folder)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    stem = {".safetensors": "model", ".bin": "pytorch_model"}[suffix]
    places = {
        name: f"{stem}-0000{1 + number % 2}-of-00002{suffix}"
        for number, name in enumerate(tensors)
    }
    for place in set(places.values()):
        part = {
            name: tensor for name, tensor in tensors.items() if places[name] == place
        }
        save_file(part, folder / place) if suffix == ".safetensors" else torch.save(
            part, folder / place
        )
    (folder / f"{stem}{suffix}.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": places})
    )
    return places


TRAINED = {
    "recipe": "digits",
    "model": "mixer_pico2",
    "data": {
        "source": "digits",
        "fingerprint": "abc",
        "n_train": 1200,
        "val_fraction": 0.1,
    },
    "seed": 3,
    "measured": {
        "split": "val",
        "epoch": 30.0,
        "top1": 0.9321,
        "top5": 1.0,
        "loss": 0.25,
        "n": 144,
    },
}
