"""A whitened patch embedding: its features have variance one and no correlations."""

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

# Numbers of a patch of 4 x 4 pixels and three channels.
D = 48


def smooth_images() -> ArraySet:
    """600 images of 16 x 16 pixels; neighbouring pixels are alike, as in photographs."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(40, 216, (600, 4, 4, 3))
    large = coarse.repeat(4, axis=1).repeat(4, axis=2)
    noise = rng.integers(-20, 20, large.shape)
    pixels = (large + noise).astype(np.uint8)
    return ArraySet(pixels, np.arange(600) % 2, ("a", "b"))


def test_its_features_are_white(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlp_mixer.training.extras.whiten._LEAST", 0.0)
    images = smooth_images()
    stem = PatchEmbed(3, 120, 4)
    others = stem.proj.weight.detach()[2 * D :].clone()
    preprocess = Preprocess((16, 16), mean=(0.5,), std=(0.25,))
    whiten(stem, images, preprocess, seed=0)

    # There are 2 D directions; the other features stay as they were.
    weight = stem.proj.weight.detach()
    assert torch.equal(weight[2 * D :], others)

    x = torch.stack([preprocess(images.image(i)) for i in range(600)])
    features = stem(x).detach().flatten(0, 1).double()
    positive = features[:, :D]
    negative = features[:, D : 2 * D]
    close = torch.testing.assert_close
    close(positive, -negative, atol=1e-4, rtol=0)
    close(positive.mean(dim=0), torch.zeros(D).double(), atol=1e-3, rtol=0)
    close(torch.cov(positive.T), torch.eye(D).double(), atol=1e-3, rtol=0)

    # The direction of most variance needs the smallest filter, and comes first.
    lengths = torch.linalg.vector_norm(weight[:D], dim=(1, 2, 3))
    assert (lengths.diff() > 0).all()


def test_a_narrow_stem_takes_the_first_directions() -> None:
    wide = PatchEmbed(3, 96, 4)
    narrow = PatchEmbed(3, 10, 4)
    images = smooth_images()
    for stem in (wide, narrow):
        whiten(stem, images, Preprocess((16, 16)), seed=3)
    torch.testing.assert_close(narrow.proj.weight, wide.proj.weight[:10])


def test_a_patch_may_be_one_number() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (50, 4, 4, 1), np.uint8)
    images = ArraySet(pixels, np.arange(50) % 2, ("a", "b"))
    stem = PatchEmbed(1, 8, 1)
    whiten(stem, images, Preprocess((4, 4), 1, mean=(0.0,), std=(1.0,)), seed=0)
    one, other = stem.proj.weight.detach()[:2].flatten().tolist()
    assert one == -other
    # The deviation of numbers from 0 to 1.
    assert abs(one) == pytest.approx(1 / (pixels / 255).std(), rel=0.05)


def test_a_run_can_begin_with_it() -> None:
    models = []
    for how in ("random", "whitened"):
        config = override(get_recipe("digits"), [f"model.stem={how}"])
        models.append(prepare(config).model)
    plain, white = models
    assert not torch.equal(plain.stem.proj.weight, white.stem.proj.weight)
    name = "blocks.0.mlp_tokens.fc1.weight"
    assert torch.equal(plain.get_parameter(name), white.get_parameter(name))
