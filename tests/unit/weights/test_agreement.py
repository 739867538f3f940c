"""A preprocessing that makes other images than its network takes is refused."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from mlp_mixer import Checkpoint, MixerConfig, Preprocess, load, save
from mlp_mixer.data.seen import SeenImages
from mlp_mixer.errors import UserError
from mlp_mixer.models.families import build_network
from mlp_mixer.training.model import Built
from mlp_mixer.weights.checkpoint import KEY

CONFIG = MixerConfig(
    patch_size=4,
    num_blocks=1,
    hidden_dim=8,
    tokens_mlp_dim=4,
    channels_mlp_dim=8,
    num_classes=2,
    image_size=(8, 12),
    in_channels=3,
    gelu="erf",
)
FITTING = Preprocess((8, 12))

OTHERS: dict[str, tuple[dict[str, Any], str]] = {
    "a huge size": ({"image_size": [60000, 60000]}, "60000 x 60000 pixels .* 8 x 12"),
    "sides exchanged": ({"image_size": [12, 8]}, "12 x 8 pixels .* takes 8 x 12"),
    "one side": ({"image_size": [8, 8]}, "8 x 8 pixels"),
    "gray": ({"channels": 1, "mean": [0.5], "std": [0.5]}, "1 channels, .* 3 channels"),
    "five bands": (
        {"channels": 5, "mean": [0.5] * 5, "std": [0.5] * 5},
        "5 channels, .* 3 channels",
    ),
    "a tiny crop": ({"crop_pct": 1e-5}, "crop_pct is 1e-05: expected a part from 0.1"),
    "less than nothing": ({"crop_pct": -0.5}, "crop_pct is -0.5"),
    "no number": ({"crop_pct": float("nan")}, "crop_pct.* nan"),
    "2**63": (
        {"image_size": [2**63, 2**63]},
        "the network takes 8 x 12|expected a height",
    ),
    "yes": ({"image_size": [True, 12]}, "image_size"),
}


@pytest.fixture
def model() -> Any:
    torch.manual_seed(0)
    return build_network(CONFIG).eval()


def changed(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the description in one of our files; its check sum is left out."""
    with safetensors.safe_open(path, "pt") as file:
        described = json.loads(file.metadata()[KEY])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    change(described)
    safetensors.torch.save_file(tensors, path, {KEY: json.dumps(described)})


@pytest.mark.parametrize("name", OTHERS)
def test_a_file_of_ours_that_a_stranger_changed(
    tmp_path: Path, model: Any, name: str
) -> None:
    fields, match = OTHERS[name]
    path = save(tmp_path / "m.safetensors", model, preprocess=FITTING)
    assert load(path).preprocess == FITTING
    changed(path, lambda described: described["preprocess"].update(fields))
    with pytest.raises(UserError, match=f"has a broken description: .*{match}"):
        load(path)


@pytest.mark.parametrize("name", OTHERS)
def test_a_folder_whose_description_a_stranger_changed(
    tmp_path: Path, model: Any, name: str
) -> None:
    import mlp_mixer as mm

    fields, match = OTHERS[name]
    mm.save_pretrained(Checkpoint(model, FITTING, ("a", "b")), tmp_path)
    path = tmp_path / "config.json"
    described = json.loads(path.read_text())
    assert mm.load(tmp_path).preprocess == FITTING
    described[KEY]["preprocess"].update(fields)
    path.write_text(json.dumps(described))
    with pytest.raises(UserError, match=match):
        load(tmp_path)


@pytest.mark.parametrize(
    ("stated", "match"),
    [
        ({"input_size": [3, 60000, 60000]}, "60000|does not fit|grid"),
        ({"input_size": [3, 8, 16]}, "8|does not fit|grid"),
        ({"crop_pct": 1e-12}, "crop_pct is 1e-12"),
        ({"crop_pct": 0.05}, "crop_pct is 0.05"),
        ({"mean": [0.5] * 4}, None),
    ],
)
def test_the_folder_of_another_program(
    tmp_path: Path, model: Any, stated: dict[str, Any], match: str | None
) -> None:
    """timm's record has no word of ours; whatever it says, both agree or it is refused."""
    tensors = dict(model.state_dict())
    safetensors.torch.save_file(tensors, tmp_path / "model.safetensors")
    described = {"architecture": "mixer", "pretrained_cfg": {"input_size": [3, 8, 12]}}
    described["pretrained_cfg"].update(stated)
    (tmp_path / "config.json").write_text(json.dumps(described))
    if match is None:
        found = load(tmp_path)
        assert found.preprocess.image_size == found.model.config.image_size
        assert found.preprocess.channels == found.model.config.in_channels
        return
    with pytest.raises(UserError, match=match):
        load(tmp_path)


def test_what_would_be_refused_is_not_made(tmp_path: Path, model: Any) -> None:
    checkpoint = Checkpoint(model, FITTING)
    for other in (
        Preprocess((8, 8)),
        Preprocess((12, 8)),
        Preprocess((8, 12), channels=1),
    ):
        for act in (
            lambda other=other: Checkpoint(model, other),
            lambda other=other: dataclasses.replace(checkpoint, preprocess=other),
            lambda other=other: save(
                tmp_path / "m.safetensors", model, preprocess=other
            ),
        ):
            with pytest.raises(UserError, match="the preprocessing makes images of"):
                act()
    assert list(tmp_path.iterdir()) == []


def test_a_saved_state_of_a_stranger(model: Any) -> None:
    record = Built(model, FITTING, (), SeenImages.unknown()).to_json()
    assert Built.from_json(record).preprocess == FITTING
    record["preprocess"]["image_size"] = [60000, 60000]
    with pytest.raises(UserError, match="60000 x 60000"):
        Built.from_json(record)


@pytest.mark.parametrize(
    "fields",
    [
        {"image_size": (8.0, 12.0)},
        {"image_size": ("8", "12")},
        {"image_size": (8, float("inf"))},
        {"image_size": 8},
        {"image_size": (8, 12, 3)},
        {"channels": "3"},
        {"channels": 2.5},
        {"channels": True},
        {"crop_pct": "1"},
        {"crop_pct": True},
    ],
)
def test_fields_of_another_type(fields: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(fields))):
        Preprocess(**({"image_size": (8, 12)} | fields))
