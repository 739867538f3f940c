"""Mixers over one, two and three axes: beside the plain Mixer, and beside lucidrains'
for videos.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlp_mixer_pytorch
import pytest
import torch

from mlp_mixer import UserError, load, save
from mlp_mixer.models import MixerConfig, MlpMixer
from mlp_mixer.models.nd import NdMixer, cut_patches

SIZES: dict[str, Any] = {
    "num_blocks": 2,
    "hidden_dim": 10,
    "tokens_mlp_dim": 7,
    "channels_mlp_dim": 9,
}


def nd(
    size: tuple[int, ...], patch: tuple[int, ...], channels: int = 2, **fields: Any
) -> NdMixer:
    model = NdMixer(size, patch, channels, **SIZES | {"num_classes": 5} | fields).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(
                std=0.4, generator=torch.Generator().manual_seed(parameter.numel())
            )
    return model


def test_patches_of_an_image() -> None:
    image = torch.arange(2 * 4 * 6).view(1, 2, 4, 6)
    patches = cut_patches(image, (2, 3))
    assert patches.shape == (1, 2, 2, 12)
    expected = image[0, :, 2:, 3:].permute(1, 2, 0).flatten()  # by row, column, channel
    assert torch.equal(patches[0, 1, 1], expected)


def test_two_axes_are_the_plain_mixer() -> None:
    ours = nd((8, 12), (4, 4))
    plain = MlpMixer(
        MixerConfig(4, image_size=(8, 12), in_channels=2, num_classes=5, **SIZES)
    ).eval()
    state = dict(ours.mixer.state_dict())
    state["stem.proj.weight"] = (
        state["stem.proj.weight"].view(10, 4, 4, 2).permute(0, 3, 1, 2)
    )
    plain.load_state_dict(state)
    image = torch.randn(3, 2, 8, 12)
    torch.testing.assert_close(ours(image), plain(image), rtol=0, atol=1e-5)


def test_one_axis_is_an_image_one_pixel_wide() -> None:
    series = nd((20,), (4,))
    image = nd((20, 1), (4, 1))
    image.load_state_dict(series.state_dict())
    x = torch.randn(3, 2, 20)
    assert series(x).shape == (3, 5)
    torch.testing.assert_close(series(x), image(x[..., None]), rtol=0, atol=1e-6)


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
    theirs = mlp_mixer_pytorch.MLPMixer3D(
        **sizes, depth=2, num_classes=5, **factors
    ).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.normal_(std=0.4)
    ours = nd((8, 12, 6), (4, 4, 3), gelu="erf", norm_eps=1e-5)
    values = list(
        theirs.state_dict().values()
    )  # stem; per block fn.0, fn.3, norm, twice; norm; head
    order = ["stem.proj"]
    for i in range(2):
        order += [
            f"blocks.{i}.{part}"
            for part in ("mlp_tokens.fc1", "mlp_tokens.fc2", "norm1")
        ]
        order += [
            f"blocks.{i}.{part}"
            for part in ("mlp_channels.fc1", "mlp_channels.fc2", "norm2")
        ]
    names = [
        f"{part}.{leaf}"
        for part in (*order, "norm", "head")
        for leaf in ("weight", "bias")
    ]
    shapes = ours.mixer.state_dict()
    ours.mixer.load_state_dict(
        {n: v.view(shapes[n].shape) for n, v in zip(names, values, strict=True)}
    )
    video = torch.randn(3, 2, 6, 8, 12)
    torch.testing.assert_close(
        ours(video.movedim(2, -1)), theirs(video), rtol=0, atol=1e-5
    )


def test_its_mixer_can_be_saved_trained_and_exported(tmp_path: Path) -> None:
    model = NdMixer((8, 8, 4), (4, 4, 2), 2, num_classes=5, **SIZES)
    video = torch.randn(6, 2, 8, 8, 4)
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.01)
    losses = []
    for _ in range(10):
        loss = torch.nn.functional.cross_entropy(model(video), torch.arange(6) % 5)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    other = nd((8, 8, 4), (4, 4, 2))
    other.mixer.load_state_dict(
        load(save(tmp_path / "m.safetensors", model.mixer)).model.state_dict()
    )
    assert torch.equal(other(video), model.eval()(video))
    batch = {"x": {0: torch.export.Dim("batch")}}
    exported = torch.export.export(model, (video,), dynamic_shapes=batch).module()
    torch.testing.assert_close(exported(video[:2]), model(video[:2]), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("size", "patch"),
    [((8, 9), (4, 4)), ((8,), (4, 4)), ((), ()), ((8,), (0,)), ((0,), (1,))],
)
def test_patches_must_fit(size: tuple[int, ...], patch: tuple[int, ...]) -> None:
    with pytest.raises(
        UserError,
        match="each axis of the size .* must be a multiple of its side of the patch",
    ):
        nd(size, patch)


def test_another_size_is_refused() -> None:
    model = nd((8, 8), (4, 4))
    for shape in [
        (2, 2, 8, 12),
        (2, 3, 8, 8),
        (2, 2, 8),
        (2, 2, 8, 8, 1),
        (2, 2, 9, 8),
    ]:
        with pytest.raises(
            UserError, match=r"inputs of shape \(batch, \*\(2, 8, 8\)\), got"
        ):
            model(torch.zeros(shape))
