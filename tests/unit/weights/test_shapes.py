"""Tensors that do not fit an architecture are listed, in the words of their file."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from mlp_mixer.models import MixerConfig, build_network, model_config
from mlp_mixer.weights.shapes import misfits, shown

CONFIG = MixerConfig(2, 2, 6, 5, 7, image_size=(8, 8), num_classes=4)
FC1 = "blocks.1.mlp_tokens.fc1.weight"


def tensors() -> dict[str, Tensor]:
    return dict(build_network(CONFIG).state_dict())


def test_what_fits_gives_no_words() -> None:
    assert misfits(CONFIG, tensors()) == []
    gmlp = model_config("gmlp_ti16", image_size=32)
    assert misfits(gmlp, build_network(gmlp).state_dict()) == []


def test_missing_and_unexpected_stand_before_shapes() -> None:
    found = tensors() | {"more": torch.ones(1), "norm.bias": torch.ones(7)}
    del found["head.bias"]
    assert misfits(CONFIG, found) == [
        "missing head.bias",
        "unexpected more",
        "norm.bias is (7,), expected (6,)",
    ]


def test_transposed_and_swapped_are_guessed() -> None:
    found = tensors()
    found[FC1] = found[FC1].T
    assert misfits(CONFIG, found) == [
        f"{FC1} is (16, 5), expected (5, 16) (transposed?)"
    ]
    found = tensors()
    found["norm.bias"] = found["head.bias"]
    found["head.bias"] = torch.ones(6)
    assert misfits(CONFIG, found) == [
        "norm.bias is (4,), expected (6,) (swapped with head.bias?)",
        "head.bias is (6,), expected (4,) (swapped with norm.bias?)",
    ]


def test_a_file_is_told_in_its_own_names_and_layout() -> None:
    found = tensors() | {FC1: torch.ones(5, 17)}

    def in_the_file(name: str, tensor: Tensor) -> tuple[str, Tensor]:
        return f"theirs/{name}", tensor.T

    message = f"theirs/{FC1} is (17, 5), expected (16, 5)"
    assert misfits(CONFIG, found, in_the_file) == [message]


def test_a_billion_blocks_are_counted_not_built() -> None:
    deep = dataclasses.replace(CONFIG, num_blocks=10**9)
    assert misfits(deep, {"a": torch.ones(1)}) == ["1000000000 blocks in 1 tensors"]


def test_eight_problems_are_shown_and_the_others_counted() -> None:
    assert shown(["a"] * 8) == "; ".join("a" * 8)
    assert shown(["a"] * 10) == "; ".join("a" * 8) + "; and 2 more"
