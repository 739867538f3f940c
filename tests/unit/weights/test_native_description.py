"""Native files whose description lies are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from mlp_mixer import create_model, save

from .small_files import refused

DESCRIPTIONS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "no JSON": (lambda d: "{", "damaged: its description is no JSON"),
    "a list": (lambda d: [d], "damaged: its description is .*, expected a JSON object"),
    "nothing": (
        lambda d: None,
        "damaged: its description is None, expected a JSON object",
    ),
    "a deep list": (lambda d: "[" * 100_000, "damaged"),
    "a number too long": (lambda d: '{"a": ' + "1" * 5000 + "}", "damaged"),
    "no version": (
        lambda d: d.pop("format_version") and d,
        "has checkpoint format None",
    ),
    "another version": (
        lambda d: d | {"format_version": [1]},
        r"has checkpoint format \[1\]",
    ),
    "many blocks": (
        lambda d: d["config"].update(num_blocks=10**9) or d,
        "does not fit its architecture: 1000000000 blocks",
    ),
    "wide": (
        lambda d: d["config"].update(hidden_dim=10**9) or d,
        r"does not fit .*expected \(1000000000,",
    ),
    "too wide": (
        lambda d: d["config"].update(hidden_dim=10**10) or d,
        "has a broken description|does not fit",
    ),
    "beyond numbers": (
        lambda d: d["config"].update(hidden_dim=10**30) or d,
        "has a broken description",
    ),
    "a large image": (
        lambda d: d["config"].update(image_size=[4 * 10**9] * 2) or d,
        "has a broken description|not fit",
    ),
    "a large patch": (
        lambda d: d["config"].update(patch_size=10**9, image_size=[10**9] * 2) or d,
        "has a broken description|does not fit",
    ),
    "many classes": (
        lambda d: d["config"].update(num_classes=10**12) or d,
        "does not fit its architecture: head",
    ),
    "endless epsilon": (
        lambda d: d["config"].update(norm_eps=10**400) or d,
        "has a broken description",
    ),
    "labels": (
        lambda d: d | {"labels": ["a"]},
        "has a broken description: 1 labels for 2 classes",
    ),
    "no labels": (lambda d: d | {"labels": 3}, "has a broken description"),
    "text as mean": (
        lambda d: d["preprocess"].update(mean=["a"]) or d,
        "has a broken description",
    ),
    "a mean beyond numbers": (
        lambda d: d["preprocess"].update(mean=[10**400]) or d,
        "has a broken description",
    ),
}


@pytest.mark.parametrize("name", DESCRIPTIONS)
def test_a_native_description_that_lies(tmp_path: Path, name: str) -> None:
    change, message = DESCRIPTIONS[name]
    path = save(
        tmp_path / "m.safetensors",
        create_model("mixer_nano4", num_classes=2, num_blocks=1),
    )
    with safetensors.safe_open(path, "pt") as file:
        described = change(json.loads(file.metadata()["mlp_mixer"]))
    tensors = safetensors.torch.load_file(path)
    text = described if isinstance(described, str) else json.dumps(described)
    path.write_bytes(safetensors.torch.save(tensors, {"mlp_mixer": text}))
    refused(path, message)


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (torch.tensor([1.0, torch.nan]), "NaN or infinite values in 1 of .* head.bias"),
        (
            torch.tensor([1.0, torch.inf], dtype=torch.float16),
            "NaN or infinite values in 1 of .* head.bias",
        ),
        (
            torch.ones(2, dtype=torch.int64),
            "stores head.bias as int64, expected fp32, fp16 or bf16",
        ),
    ],
    ids=["NaN", "inf", "int64"],
)
def test_native_numbers_are_checked_too(
    tmp_path: Path, tensor: Tensor, message: str
) -> None:
    path = save(
        tmp_path / "m.safetensors",
        create_model("mixer_nano4", num_classes=2, num_blocks=1),
    )
    with safetensors.safe_open(path, "pt") as file:
        metadata = file.metadata()
    path.write_bytes(
        safetensors.torch.save(
            safetensors.torch.load_file(path) | {"head.bias": tensor}, metadata
        )
    )
    refused(path, message)
