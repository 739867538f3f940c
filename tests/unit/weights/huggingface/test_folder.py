"""The folder for Hugging Face: what is written, and what is read back."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import safetensors
import torch
from safetensors.torch import load_file

from mlp_mixer import UserError, from_pretrained, load, save, save_pretrained
from mlp_mixer.weights import read_weights
from mlp_mixer.weights.convert import convert
from mlp_mixer.weights.huggingface import hub as module
from mlp_mixer.weights.seal import SUM

from .samples import LABELS, THREE, mixer, same, shards


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"gelu": "tanh", "norm_eps": 1e-5, "drop_path": 0.1, "drop_path_rule": "timm"},
        {"final_norm": False, "in_channels": 2, "image_size": (4, 10)},
        {"hidden_dim": 17, "num_classes": 0},
    ],
)
def test_a_folder_comes_back_as_it_was(fields: dict[str, Any], tmp_path: Path) -> None:
    checkpoint = mixer(
        {
            "measured": {"top1": 0.5, "n": None},
            "data": {"source": "dïgits"},
            "list": [1, "a"],
        },
        **fields,
    )
    folder = save_pretrained(checkpoint, tmp_path / "new" / "folder")
    assert sorted(path.name for path in folder.iterdir()) == THREE
    for back in (
        from_pretrained(folder),
        load(str(folder)),
        from_pretrained(str(folder)),
    ):
        assert same(checkpoint, back)


def test_its_bytes_depend_on_its_content_alone(tmp_path: Path) -> None:
    checkpoint = mixer({"b": 1, "a": 2})
    first, second = (
        save_pretrained(checkpoint, tmp_path / name) for name in ("first", "second")
    )
    for name in THREE:
        assert (first / name).read_bytes() == (second / name).read_bytes(), name
    with safetensors.safe_open(first / "model.safetensors", "pt") as file:
        metadata = file.metadata()
    # Others look for the format, and pass over the check sum.
    assert sorted(metadata) == ["format", SUM]
    assert metadata["format"] == "pt"


def test_other_files_of_the_folder_stay(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("precious")
    (tmp_path / "config.json").write_text("{}")
    checkpoint = mixer()
    save_pretrained(checkpoint, tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "precious"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [*THREE, "notes.txt"]
    )
    assert same(from_pretrained(tmp_path), checkpoint)


def test_what_cannot_be_described_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="2 labels for 3 classes"):
        save_pretrained(dataclasses.replace(mixer(), labels=("a", "b")), tmp_path)
    monkeypatch.setattr(module, "model_card", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save_pretrained(mixer(), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_stored_dtype_stays(dtype: torch.dtype, tmp_path: Path) -> None:
    checkpoint = mixer()
    checkpoint.model.to(dtype)
    folder = save_pretrained(checkpoint, tmp_path / "direct")
    native = save(tmp_path / "native.safetensors", checkpoint.model)
    converted = convert(native, tmp_path / "converted", "huggingface").path
    for place in (folder, converted):
        assert {
            tensor.dtype for tensor in load_file(place / "model.safetensors").values()
        } == {dtype}
        assert {tensor.dtype for tensor in read_weights(place).tensors.values()} == {
            dtype
        }
        assert {parameter.dtype for parameter in load(place).model.parameters()} == {
            torch.float32
        }
        assert f"stored as {str(dtype)[6:]}" in (place / "README.md").read_text()


def test_the_configuration_is_timms(tmp_path: Path) -> None:
    described = json.loads(
        (
            save_pretrained(mixer({"head": "sigmoid"}), tmp_path) / "config.json"
        ).read_text()
    )
    ours = described.pop("mlp_mixer")
    assert set(ours) == {
        "config",
        "preprocess",
        "labels",
        "provenance",
        "format_version",
    }
    assert ours["preprocess"]["resampler"] == "opencv"
    assert described == {
        "architecture": "mixer_pico2_8",
        "num_classes": 3,
        "num_features": 64,
        "global_pool": "avg",
        "label_names": list(LABELS),
        "problem_type": "multi_label_classification",
        "pretrained_cfg": {
            "input_size": [3, 8, 8],
            "fixed_input_size": True,
            "interpolation": "bicubic",
            "crop_pct": 0.9,
            "crop_mode": "center",
            "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5],
            "num_classes": 3,
            "first_conv": "stem.proj",
            "classifier": "head",
        },
    }


@pytest.mark.parametrize(
    "fields", [{"gelu": "tanh"}, {"hidden_dim": 17}, {"final_norm": False}]
)
def test_what_timm_computes_otherwise_is_closed_to_it(
    fields: dict[str, Any], tmp_path: Path
) -> None:
    folder = save_pretrained(mixer(**fields), tmp_path)
    assert list(json.loads((folder / "config.json").read_text())) == ["mlp_mixer"]
    card = (folder / "README.md").read_text()
    assert "timm and transformers would not give the same results: " in card
    assert "import timm" not in card


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_shards_are_one_model(suffix: str, tmp_path: Path) -> None:
    checkpoint = mixer()
    shards(checkpoint, tmp_path, suffix)
    assert same(load(tmp_path), checkpoint)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (
            {"weight_map": {"stem.proj.bias": "../secret.safetensors"}},
            "points to '../secret.safetensors', outside",
        ),
        (
            {"weight_map": {"stem.proj.bias": "third.safetensors"}},
            "lacks the shard 'third.safetensors'",
        ),
        (
            {"weight_map": {"more": "model-00001-of-00002.safetensors"}},
            "shards in .* lack more",
        ),
        ({"weight_map": {"stem.proj.bias": 3}}, "has no weight_map"),
        ([], "holds list, expected a JSON object"),
    ],
)
def test_a_wrong_index(index: Any, message: str, tmp_path: Path) -> None:
    shards(mixer(), tmp_path, ".safetensors")
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=message):
        load(tmp_path)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{", "'.*config.json' is damaged or no JSON"),
        ("[" * 100_000, "'.*config.json' is damaged or no JSON"),
        ("[]", "holds list, expected a JSON object"),
        ('{"mlp_mixer": "x"}', "damaged: its 'mlp_mixer' is no JSON object"),
    ],
)
def test_a_wrong_configuration(config: str, message: str, tmp_path: Path) -> None:
    (save_pretrained(mixer(), tmp_path) / "config.json").write_text(config)
    with pytest.raises(UserError, match=message):
        load(tmp_path)


def test_a_folder_without_weights(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match="holds no best.safetensors .*and no model.safetensors"
    ):
        from_pretrained(tmp_path)
