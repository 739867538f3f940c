"""Mixers over n axes: beside the plain Mixer, and beside lucidrains' for videos."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlp_mixer_pytorch
import pytest
import torch
from torch import Tensor

from mlp_mixer import UserError, load, save
from mlp_mixer.models import MixerConfig, MlpMixer
from mlp_mixer.models.nd import NdMixer, cut_patches

SIZES: dict[str, Any] = {
    "num_blocks": 2,
    "hidden_dim": 10,
    "tokens_mlp_dim": 7,
    "channels_mlp_dim": 9,
}


Axes = tuple[int, ...]


def nd(size: Axes, patch: Axes, **fields: Any) -> NdMixer:
    """Every parameter random, in double precision."""
    fields = {"num_classes": 5, **SIZES, **fields}
    model = NdMixer(size, patch, in_channels=2, **fields).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            generator = torch.Generator().manual_seed(parameter.numel())
            parameter.normal_(std=0.4, generator=generator)
    return model.double()


def random(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64)


def assert_same(actual: Tensor, expected: Tensor) -> None:
    """In double precision: what is the same in exact numbers."""
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-11)


def test_patches_of_an_image() -> None:
    image = torch.arange(2 * 4 * 6).view(1, 2, 4, 6)
    patches = cut_patches(image, (2, 3))
    assert patches.shape == (1, 2, 2, 12)
    # By row, column, channel.
    expected = image[0, :, 2:, 3:].permute(1, 2, 0).flatten()
    assert torch.equal(patches[0, 1, 1], expected)


def test_two_axes_are_the_plain_mixer() -> None:
    ours = nd((8, 12), (4, 4))
    of_images = {"image_size": (8, 12), "in_channels": 2, "num_classes": 5}
    plain = MlpMixer(MixerConfig(4, **of_images, **SIZES)).double().eval()
    state = dict(ours.mixer.state_dict())
    kernel = state["stem.proj.weight"].view(10, 4, 4, 2)
    state["stem.proj.weight"] = kernel.permute(0, 3, 1, 2)
    plain.load_state_dict(state)
    image = random(3, 2, 8, 12)
    assert_same(ours(image), plain(image))


def test_one_axis_is_an_image_one_pixel_wide() -> None:
    series = nd((20,), (4,))
    image = nd((20, 1), (4, 1))
    image.load_state_dict(series.state_dict())
    x = random(3, 2, 20)
    assert series(x).shape == (3, 5)
    assert_same(series(x), image(x[..., None]))


def test_three_axes_are_lucidrains_mixer_for_videos() -> None:
    sizes = {
        "image_size": (8, 12),
        "time_size": 6,
        "channels": 2,
        "patch_size": 4,
        "time_patch_size": 3,
        "dim": 10,
    }
    factors = {"expansion_factor": 0.7, "expansion_factor_token": 0.9}
    depth = {"depth": 2, "num_classes": 5}
    theirs = mlp_mixer_pytorch.MLPMixer3D(**sizes, **depth, **factors)
    theirs = theirs.double().eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.normal_(std=0.4)
    ours = nd((8, 12, 6), (4, 4, 3), gelu="erf", norm_eps=1e-5)
    # Theirs come by stem; per block fn.0, fn.3, norm, twice; norm; head.
    order = ["stem.proj"]
    for i in range(2):
        for mlp, norm in (("mlp_tokens", "norm1"), ("mlp_channels", "norm2")):
            for part in (f"{mlp}.fc1", f"{mlp}.fc2", norm):
                order.append(f"blocks.{i}.{part}")
    order += ["norm", "head"]
    state = ours.mixer.state_dict()
    values = iter(theirs.state_dict().values())
    for part in order:
        for name in (f"{part}.weight", f"{part}.bias"):
            state[name] = next(values).view(state[name].shape)
    assert not list(values)
    ours.mixer.load_state_dict(state)
    video = random(3, 2, 6, 8, 12)
    assert_same(ours(video.movedim(2, -1)), theirs(video))


def test_its_mixer_can_be_saved_trained_and_exported(tmp_path: Path) -> None:
    model = NdMixer((8, 8, 4), (4, 4, 2), 2, num_classes=5, **SIZES)
    video = torch.randn(6, 2, 8, 8, 4)
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.01)
    losses = []
    labels = torch.arange(6) % 5
    for _ in range(10):
        loss = torch.nn.functional.cross_entropy(model(video), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    other = nd((8, 8, 4), (4, 4, 2)).float()
    loaded = load(save(tmp_path / "m.safetensors", model.mixer)).model
    other.mixer.load_state_dict(loaded.state_dict())
    model.eval()
    assert torch.equal(other(video), model(video))
    batch = {"x": {0: torch.export.Dim("batch")}}
    exported = torch.export.export(model, (video,), dynamic_shapes=batch).module()
    fewer = video[:2]
    torch.testing.assert_close(exported(fewer), model(fewer), rtol=1e-5, atol=1e-5)


MISFITS = [
    ((8, 9), (4, 4)),
    ((8,), (4, 4)),
    ((), ()),
    ((8,), (0,)),
    ((0,), (1,)),
]


@pytest.mark.parametrize(("size", "patch"), MISFITS)
def test_patches_must_fit(size: Axes, patch: Axes) -> None:
    message = "each axis of the size .* must be a multiple of its side of the patch"
    with pytest.raises(UserError, match=message):
        nd(size, patch)


OTHER_SHAPES = [(2, 2, 8, 12), (2, 3, 8, 8), (2, 2, 8), (2, 2, 8, 8, 1), (2, 2, 9, 8)]


@pytest.mark.parametrize("shape", OTHER_SHAPES, ids=str)
def test_another_size_is_refused(shape: Axes) -> None:
    message = r"inputs of shape \(batch, \*\(2, 8, 8\)\), got"
    with pytest.raises(UserError, match=message):
        nd((8, 8), (4, 4))(random(*shape))
