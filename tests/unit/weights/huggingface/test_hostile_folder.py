"""Folders for Hugging Face with damaged or lying JSON are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch

from mlp_mixer import load

from ..small_files import refused, same, state


def sharded(folder: Path, weight_map: Any, **config: Any) -> Path:
    """A folder with two shards, this index and this `config.json`."""
    first = dict(list(state().items())[:9])
    second = dict(list(state().items())[9:])
    safetensors.torch.save_file(first, folder / "1.safetensors")
    safetensors.torch.save_file(second, folder / "2.safetensors")
    if weight_map == "true":
        weight_map = dict.fromkeys(first, "1.safetensors") | dict.fromkeys(
            second, "2.safetensors"
        )
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": weight_map})
    )
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("weight_map", "message"),
    [
        (None, "has no weight_map of tensor names to files"),
        ([], "has no weight_map of tensor names to files"),
        ({"a": 1}, "has no weight_map of tensor names to files"),
        ({"a": ["x"]}, "has no weight_map of tensor names to files"),
        ({}, "lacks|no tensors|known lineage"),
        ({"a": "../x"}, r"points to '\.\./x', outside its folder: refused"),
        ({"a": "/etc/passwd"}, "points to '/etc/passwd', outside its folder: refused"),
        ({"a": "b/x"}, "points to 'b/x', outside its folder: refused"),
        ({"a": ".."}, r"lacks the shard '\.\.' that its index names"),
        ({"a": ""}, "lacks the shard '' that its index names"),
        ({"a": "x" * 5000}, "lacks the shard 'x{60}"),
        ({"a": "\0"}, r"lacks the shard '\\x00' that its index names"),
        ({"a": "\ud800"}, "lacks the shard '.*' that its index names"),
        (
            {"a": "3.safetensors"},
            "lacks the shard '3.safetensors' that its index names",
        ),
        ({"a": "config.json"}, "is no file of weights"),
        ({"a": "1.safetensors"}, "the shards in .* lack a, which their index names"),
        (
            {"a\n": "1.safetensors"},
            r"the shards in .* lack a\\n, which their index names",
        ),
        ({"stem.proj.bias": "1.safetensors"}, "does not fit: missing"),
    ],
    ids=str,
)
def test_an_index_that_lies(tmp_path: Path, weight_map: Any, message: str) -> None:
    refused(sharded(tmp_path, weight_map), message)


def test_shards_may_be_links_as_in_the_cache_of_the_hub(tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshot").mkdir()
    folder = sharded(tmp_path / "snapshot", "true")
    for shard in ("1.safetensors", "2.safetensors"):
        (folder / shard).rename(tmp_path / "blobs" / shard)
        (folder / shard).symlink_to(tmp_path / "blobs" / shard)
    same(load(folder), state())
    (tmp_path / "blobs" / "1.safetensors").unlink()
    refused(folder, "no checkpoint at .*1.safetensors")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_args": {"img_size": -8}}, ""),
        ({"model_args": {"img_size": [8, "8"]}}, ""),
        ({"model_args": {"img_size": [8, -8]}}, ""),
        (
            {"model_args": {"img_size": 10**400}},
            "was made for 16 patches of 2 pixels, and 1000",
        ),
        ({"model_args": []}, ""),
        ({"pretrained_cfg": 3}, ""),
        ({"pretrained_cfg": {"input_size": 5}}, ""),
        ({"pretrained_cfg": {"input_size": [3, 8, None]}}, ""),
        ({"pretrained_cfg": {"crop_pct": 10**400}}, ""),
        ({"pretrained_cfg": {"crop_pct": float("nan")}}, ""),
        (
            {"pretrained_cfg": {"crop_pct": -1}},
            "crop_pct is -1.0: expected a part from 0.1 to 1",
        ),
        (
            {"pretrained_cfg": {"mean": [10**400]}},
            "mean in config.json is .*, expected a list of numbers",
        ),
        (
            {"pretrained_cfg": {"std": [[[[0]]]]}},
            "std in config.json is .*, expected a list of numbers",
        ),
        ({"pretrained_cfg": {"std": [0, 0, 0]}}, "std is .*: expected numbers above 0"),
        (
            {"pretrained_cfg": {"interpolation": ["bicubic"]}},
            "unknown interpolation in config.json .*bicubic",
        ),
        (
            {"pretrained_cfg": {"interpolation": "x" * 10**6}},
            "unknown interpolation in config.json 'xxx",
        ),
        (
            {"pretrained_cfg": {"interpolation": {"\n": 1}}},
            "unknown interpolation in config.json",
        ),
        ({"id2label": {"²": "a", "x": "b", "1" * 5000: "c"}}, ""),
        ({"id2label": 3}, ""),
        ({"label_names": [[["a"]], "b", "c", "d"]}, ""),
        ({"mlp_mixer": 3}, "its 'mlp_mixer' is no JSON object"),
        ({"mlp_mixer": {"a": 1}}, "has checkpoint format None"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_a_config_that_lies(
    tmp_path: Path, config: dict[str, Any], message: str
) -> None:
    """A key that states nothing is passed over; an impossible value is refused."""
    folder = sharded(tmp_path, "true", **config)
    if message:
        refused(folder, message)
    else:
        assert load(folder).labels is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "config.json' is damaged or no JSON"),
        ("{", "config.json' is damaged or no JSON"),
        ("[]", "config.json' holds list, expected a JSON object"),
        ("[" * 100_000, "config.json' is damaged or no JSON"),
        ('{"a": ' + "1" * 5000 + "}", "config.json' is damaged or no JSON"),
        ("\udcff", "config.json' is damaged or no JSON"),
        (
            " " * 17_000_000,
            "config.json' is damaged or no JSON .*at most 16,777,216 are read",
        ),
    ],
    ids=["empty", "cut off", "list", "deep", "digits", "no text", "long"],
)
def test_a_config_that_is_none(tmp_path: Path, content: str, message: str) -> None:
    folder = sharded(tmp_path, "true")
    (folder / "config.json").write_bytes(content.encode(errors="surrogateescape"))
    refused(folder, message)
