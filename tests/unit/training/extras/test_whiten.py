"""A whitened patch embedding: what comes out of it has no correlations and variance
one.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mlp_mixer.config import override
from mlp_mixer.data import ArraySet
from mlp_mixer.images.preprocess import Preprocess
from mlp_mixer.models.layers import PatchEmbed
from mlp_mixer.recipes import get_recipe
from mlp_mixer.training import prepare
from mlp_mixer.training.extras.whiten import whiten


def smooth_images() -> ArraySet:
    """Neighbouring pixels alike, as in photographs."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(40, 216, (600, 4, 4, 3)).repeat(4, axis=1).repeat(4, axis=2)
    return ArraySet(
        (coarse + rng.integers(-20, 20, coarse.shape)).astype(np.uint8),
        np.arange(600) % 2,
        ("a", "b"),
    )


def test_what_comes_out_is_white(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlp_mixer.training.extras.whiten._LEAST", 0.0)
    images = smooth_images()
    stem = PatchEmbed(3, 120, 4)
    kept = stem.proj.weight.detach()[96:].clone()
    preprocess = Preprocess((16, 16), mean=(0.5,), std=(0.25,))
    whiten(stem, images, preprocess, seed=0)
    x = torch.stack([preprocess(images.image(i)) for i in range(600)])
    out = stem(x).detach().flatten(0, 1).double()
    assert torch.equal(
        stem.proj.weight[96:], kept
    )  # 2 x 48 directions; the rest is as it was
    torch.testing.assert_close(out[:, :48], -out[:, 48:96], atol=1e-4, rtol=0)
    torch.testing.assert_close(
        out[:, :48].mean(dim=0), torch.zeros(48).double(), atol=1e-3, rtol=0
    )
    covariance = torch.cov(out[:, :48].T)
    torch.testing.assert_close(covariance, torch.eye(48).double(), atol=1e-3, rtol=0)
    powers = torch.linalg.vector_norm(stem.proj.weight[:48].detach(), dim=(1, 2, 3))
    assert (powers.diff() > 0).all(), (
        "the direction of most variance, which needs the smallest filter, comes first"
    )


def test_a_narrow_stem_takes_the_first_directions() -> None:
    wide = PatchEmbed(3, 96, 4)
    narrow = PatchEmbed(3, 10, 4)
    images = smooth_images()
    for stem in (wide, narrow):
        whiten(stem, images, Preprocess((16, 16)), seed=3)
    torch.testing.assert_close(narrow.proj.weight, wide.proj.weight[:10])


def test_a_run_can_begin_with_it() -> None:
    plain, white = (
        prepare(override(get_recipe("digits"), [f"model.stem={how}"]))
        for how in ("random", "whitened")
    )
    assert not torch.equal(plain.model.stem.proj.weight, white.model.stem.proj.weight)
    assert torch.equal(
        plain.model.blocks[0].mlp_tokens.fc1.weight,
        white.model.blocks[0].mlp_tokens.fc1.weight,
    )
