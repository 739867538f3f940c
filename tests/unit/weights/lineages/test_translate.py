"""Tensors that do not fit a lineage or each other are named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ..small_files import refused, saved, state


def without(*starts: str) -> dict[str, Tensor]:
    return {
        name: tensor for name, tensor in state().items() if not name.startswith(starts)
    }


def swapped(one: str, other: str) -> dict[str, Tensor]:
    """With everything under one name in the place of the other."""
    places = {
        name: name.replace(one, "#").replace(other, one).replace("#", other)
        for name in state()
    }
    return {places[name]: tensor for name, tensor in state().items()}


FC1 = "blocks.1.mlp_channels.fc1.weight"


LIES: dict[str, tuple[Callable[[], dict[str, Tensor]], str]] = {
    "transposed": (
        lambda: state() | {FC1: state()[FC1].T},
        rf"{FC1} is \(6, 7\), expected \(7, 6\) \(transposed\?\)",
    ),
    "two MLPs swapped": (
        lambda: swapped("blocks.1.mlp_tokens", "blocks.1.mlp_channels"),
        r"blocks.1.mlp_tokens.fc1.weight is \(7, 6\), expected \(5, 16\) "
        r"\(swapped with blocks.1.mlp_channels.fc1.weight\?\)",
    ),
    "two tensors swapped": (
        lambda: swapped("blocks.1.mlp_tokens.fc1.bias", "blocks.1.norm1.bias"),
        r"blocks.1.mlp_tokens.fc1.bias is \(6,\), expected \(5,\) "
        r"\(swapped with blocks.1.norm1.bias\?\)",
    ),
    "a block lost": (
        lambda: without("blocks.1."),
        "missing blocks.1.norm1.weight; .*; and 4 more",
    ),
    "the last block cut": (
        lambda: without("blocks.2.mlp_ch"),
        "missing blocks.2.mlp_channels.fc1.weight; .*fc2.bias$",
    ),
    "no stem": (
        lambda: without("stem."),
        "missing stem.proj.weight; missing stem.proj.bias",
    ),
    "half a head": (lambda: without("head.bias"), "missing head.bias"),
    "a key more": (
        lambda: state() | {"head.scale": torch.ones(1)},
        "unexpected head.scale",
    ),
    "gated": (
        lambda: state() | {FC1: torch.ones(14, 6)},
        rf"{FC1} is \(14, 6\), expected \(7, 6\)$",
    ),
    "block 999999": (
        lambda: state() | {"blocks.999999.norm1.bias": torch.ones(6)},
        "unexpected blocks.999999.norm1.bi",
    ),
    "block 99999": (
        lambda: state() | {"blocks.99999.mlp_tokens.fc1.bias": torch.ones(6)},
        "numbers its blocks up to 100,000, but holds only 43 tensors: refused",
    ),
    "block -1": (
        lambda: state() | {"blocks.-1.mlp_tokens.fc1.bias": torch.ones(6)},
        "unexpected blocks.-1",
    ),
    "block ٣": (
        lambda: state() | {"blocks.٣.mlp_tokens.fc1.bias": torch.ones(6)},
        "missing blocks.3.norm1.weight",
    ),
    "wrapped and not": (
        lambda: state() | {"module.head.bias": torch.ones(4)},
        "holds a tensor twice, with and without 'module.' in its name",
    ),
    "compiled and not": (
        lambda: state() | {"_orig_mod.head.bias": torch.ones(4)},
        "holds a tensor twice, with and without '_orig_mod.' in its name",
    ),
    "oblong patches": (
        lambda: state() | {"stem.proj.weight": torch.ones(6, 3, 2, 3)},
        "patches of 2x3 pixels, expected",
    ),
    "a flat stem": (
        lambda: state() | {"stem.proj.weight": torch.ones(6, 12)},
        r"is \(6, 12\), expected 4 axes",
    ),
    "an oblong grid": (
        lambda: {
            n: torch.ones(*(15 if size == 16 else size for size in t.shape))
            for n, t in state().items()
        },
        "was made for 15 patches of 2 pixels, which form no square; state the image size",
    ),
    "two axes in one": (
        lambda: state("lucidrains") | {"3.0.fn.0.weight": torch.ones(5, 16, 3)},
        r"3.0.fn.0.weight is \(5, 16, 3\), expected 3 axes, axis 2 of length 1",
    ),
    "several kernels": (
        lambda: (
            state("google_prelinen")
            | {
                "Mixer/encoderblock_1/token_mixing_phase_0/kernel1": torch.ones(
                    2, 16, 5
                )
            }
        ),
        r"kernel1 is \(2, 16, 5\), expected 3 axes, axis 0 of length 1",
    ),
    "several biases": (
        lambda: (
            state("google_prelinen")
            | {"Mixer/encoderblock_1/token_mixing_phase_0/bias1": torch.ones(2, 5)}
        ),
        r"bias1 is \(2, 5\), expected 2 axes, axis 0 of length 1",
    ),
    "a ragged stem": (
        lambda: state("lucidrains") | {"1.weight": torch.ones(6, 7)},
        "flattens each patch to 7 values, which does not tell its side and channels",
    ),
    "an odd width": (
        lambda: state() | {"norm.weight": torch.ones(7)},
        r"norm.weight is \(7,\), expected \(6,\)",
    ),
}


@pytest.mark.parametrize("name", LIES)
def test_tensors_that_do_not_fit_are_named(tmp_path: Path, name: str) -> None:
    build, message = LIES[name]
    (tmp_path / "m.pth").write_bytes(
        saved({n: tensor.clone() for n, tensor in build().items()})
    )
    refused(tmp_path / "m.pth", message)
