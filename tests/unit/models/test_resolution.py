"""Another image size or patch size: exact identities, somebody else's arithmetic, and
by hand.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mlp_mixer import UserError
from mlp_mixer.models import MixerConfig, MlpMixer, cost
from mlp_mixer.models.resolution import interpolate, resized, resized_stem

SMALL = MixerConfig(2, 2, 6, 3, 8, image_size=(6, 4), num_classes=3)  # a grid of 3 x 2


def network(config: MixerConfig, dtype: torch.dtype = torch.float32) -> MlpMixer:
    """A network with no parameter at its initial value."""
    model = MlpMixer(config).to(dtype).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def grown(model: MlpMixer, size: tuple[int, int], **how: Any) -> MlpMixer:
    """The network that `resized` describes; loading is strict, so every shape is
    checked against the configuration.
    """
    config, tensors = resized(model.config, model.state_dict(), size, **how)
    other = MlpMixer(config).to(next(iter(tensors.values())).dtype).eval()
    other.load_state_dict(tensors)
    return other


def of_tiles(model: MlpMixer, image: Tensor) -> Tensor:
    """The head applied to the mean of the pooled features of the image's tiles."""
    height, width = model.config.image_size
    tiles = [
        tile for row in image.split(height, dim=2) for tile in row.split(width, dim=3)
    ]
    pooled = [
        model.forward_head(model.forward_features(tile), pre_logits=True)
        for tile in tiles
    ]
    return model.head(torch.stack(pooled).mean(dim=0))


@settings(max_examples=40, deadline=None)
@given(
    patch=st.integers(1, 4),
    grid=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    tiles=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    widths=st.tuples(st.integers(2, 7), st.integers(1, 5)),
    channels=st.integers(1, 3),
    classes=st.sampled_from([0, 1, 5]),
    final_norm=st.booleans(),
)
def test_block_diagonal_growth_gives_the_mean_over_the_tiles(
    patch: int,
    grid: tuple[int, int],
    tiles: tuple[int, int],
    widths: tuple[int, int],
    channels: int,
    classes: int,
    final_norm: bool,
) -> None:
    """App. C, for any grid (one token too), tile counts that differ by direction, gray
    images and no head.
    """
    size = (grid[0] * patch, grid[1] * patch)
    config = MixerConfig(
        patch,
        2,
        *widths,
        9,
        image_size=size,
        in_channels=channels,
        num_classes=classes,
        final_norm=final_norm,
    )
    model = network(config)
    large = grown(model, (size[0] * tiles[0], size[1] * tiles[1]))
    image = torch.randn(2, channels, *large.config.image_size)
    with torch.inference_mode():
        torch.testing.assert_close(
            large(image), of_tiles(model, image), atol=1e-6, rtol=1e-6
        )
    assert large.config.tokens_mlp_dim == widths[1] * tiles[0] * tiles[1]
    assert sum(p.numel() for p in large.parameters()) == cost(large).params


def test_every_token_is_that_of_its_tile() -> None:
    """Logits cannot see where b2 lies: it moves all channels of a token alike, which
    the next norm takes back.
    """
    model = network(
        dataclasses.replace(SMALL, final_norm=False, in_channels=1), torch.float64
    )
    large = grown(model, (12, 12))
    image = torch.randn(2, 1, 12, 12, dtype=torch.float64)
    rows, columns = large.config.grid
    with torch.inference_mode():
        tokens = large.forward_features(image).view(2, rows, columns, -1)
        for top in range(0, rows, 3):
            for left in range(0, columns, 2):
                tile = image[:, :, 2 * top : 2 * top + 6, 2 * left : 2 * left + 4]
                expected = model.forward_features(tile).view(2, 3, 2, -1)
                found = tokens[:, top : top + 3, left : left + 2]
                assert (found - expected).abs().max() < 1e-12


def test_l16_at_448_has_the_parameters_and_the_cost_of_its_dense_expansion() -> None:
    """Counted apart from this code: 279.5 million without the head, 237.4 GMACs (the
    model at 224: 207.2, 44.5).
    """
    config = MixerConfig(16, 24, 1024, 512, 4096)
    with torch.device("meta"):  # shapes without memory
        large, tensors = resized(config, MlpMixer(config).state_dict(), 448)
    params = sum(
        tensor.numel()
        for name, tensor in tensors.items()
        if not name.startswith("head")
    )
    assert (f"{params / 1e6:.1f}", f"{cost(large).gmacs:.1f}") == ("279.5", "237.4")
    assert params == cost(large).params_without_head


@pytest.mark.parametrize("method", ["block_diagonal", "interpolate"])
def test_the_same_size_is_the_same_network_in_other_memory(method: Any) -> None:
    model = network(SMALL, torch.bfloat16)
    config, tensors = resized(SMALL, model.state_dict(), (6, 4), method=method)
    assert config == SMALL
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensors[name], tensor)
        assert tensors[name].dtype == torch.bfloat16
        assert tensors[name].data_ptr() != tensor.data_ptr()


sides = st.integers(1, 9)


@settings(max_examples=40, deadline=None)
@given(
    old=st.tuples(sides, sides),
    new=st.tuples(sides, sides),
    patch=st.integers(1, 3),
    channels=st.integers(1, 3),
)
def test_interpolation_fits_any_grid_and_keeps_what_a_constant_excites(
    old: tuple[int, int], new: tuple[int, int], patch: int, channels: int
) -> None:
    """An image of equal patches has tokens without a grid, if the token mixing answers
    without one.
    """
    size = (old[0] * patch, old[1] * patch)
    config = MixerConfig(
        patch, 2, 5, 3, 7, image_size=size, in_channels=channels, num_classes=4
    )
    model = network(config, torch.float64)
    for name, tensor in model.state_dict().items():
        if "mlp_tokens.fc2" in name:  # the same answer for every token
            tensor.copy_(tensor[:1].expand_as(tensor).clone())
    other = grown(model, (new[0] * patch, new[1] * patch), method="interpolate")
    assert (other.config.grid, other.config.tokens_mlp_dim) == (new, 3)
    assert sum(p.numel() for p in other.parameters()) == cost(other).params
    tile = torch.randn(2, channels, patch, patch, dtype=torch.float64)
    with torch.inference_mode():
        torch.testing.assert_close(
            other(tile.tile(1, 1, *new)),
            model(tile.tile(1, 1, *old)),
            atol=1e-12,
            rtol=1e-9,
        )


def test_interpolation_is_torchs_resize_before_and_after_the_mixing() -> None:
    """Maps over the grid, resized by `interpolate` itself: rows and columns are not
    confused, up and down.
    """
    for old, new in (((3, 5), (7, 4)), ((6, 4), (2, 9))):
        S = old[0] * old[1]
        W1 = torch.randn(2, S)
        b1 = torch.randn(2)
        W2 = torch.randn(S, 2)
        b2 = torch.randn(S)
        V1, c1, V2, c2 = interpolate(old, new, W1, b1, W2, b2)

        def resize(x_CS: Tensor, come: tuple[int, int], go: tuple[int, int]) -> Tensor:
            return F.interpolate(
                x_CS.view(1, -1, *come), go, mode="bilinear", antialias=True
            ).flatten(2)[0]

        x_CN = torch.randn(8, new[0] * new[1])
        hidden = F.gelu(F.linear(resize(x_CN, new, old), W1, b1))
        expected = resize(F.linear(hidden, W2, b2), old, new)
        torch.testing.assert_close(
            F.linear(F.gelu(F.linear(x_CN, V1, c1)), V2, c2),
            expected,
            atol=1e-5,
            rtol=1e-5,
        )


def test_up_and_down_again_is_nearly_the_same_for_smooth_weights() -> None:
    """Twice the grid and back loses the highest frequencies only."""
    y, x = torch.meshgrid(
        torch.linspace(0, 3, 8), torch.linspace(0, 3, 8), indexing="ij"
    )
    maps = torch.stack(
        [torch.cos(a * y + b * x) for a in range(2) for b in range(2)]
    ).flatten(1)  # (4, 64)
    there = interpolate((8, 8), (16, 16), maps, torch.ones(4), maps.T, maps[1])
    back = interpolate((16, 16), (8, 8), *there)
    for after, before in zip(back, (maps, torch.ones(4), maps.T, maps[1]), strict=True):
        assert after.shape == before.shape
        assert (after - before).abs().max() < 0.15 * before.abs().max()
    # the maps that are read get the shares of four tokens each, those that are written
    # stay as high
    assert there[0].sum() == pytest.approx(maps.sum().item(), rel=1e-4)
    assert there[2].mean() == pytest.approx(maps.mean().item(), rel=1e-4)


@pytest.mark.parametrize(
    ("old", "new"), [(4, 7), (4, 8), (7, 3), (16, 32), (5, 1), (1, 5)]
)
def test_the_stem_is_resized_as_timm_does(old: int, new: int) -> None:
    resample = pytest.importorskip("timm.layers.patch_embed").resample_patch_embed
    kernel = torch.randn(6, 3, old, old)
    expected = resample(kernel, [new, new], interpolation="bilinear", antialias=True)
    torch.testing.assert_close(
        resized_stem(kernel, new), expected, atol=1e-5, rtol=1e-4
    )  # timm inverts in fp32


@pytest.mark.parametrize("channels", [1, 3])
def test_patches_that_are_scaled_up_are_embedded_exactly_as_before(
    channels: int,
) -> None:
    """FlexiViT's aim, for a whole network: patches, not the image, are scaled (at their
    borders it matters).
    """
    config = dataclasses.replace(SMALL, in_channels=channels)
    model = network(config)
    larger = grown(model, (15, 10), patch_size=5)
    assert (larger.config.grid, larger.config.patch_size) == (config.grid, 5)
    image = torch.randn(4, channels, 6, 4)
    patches = image.unfold(2, 2, 2).unfold(3, 2, 2)  # (B, channels, 3, 2, P, P)
    scaled = F.interpolate(
        patches.flatten(0, 3)[:, None], (5, 5), mode="bilinear", antialias=True
    )
    scaled = (
        scaled.view(4, channels, 3, 2, 5, 5)
        .transpose(3, 4)
        .reshape(4, channels, 15, 10)
    )
    with torch.inference_mode():
        torch.testing.assert_close(larger(scaled), model(image), atol=1e-6, rtol=1e-6)


def test_patch_and_grid_change_together() -> None:
    """Twice the image with patches half as long again needs a grid of 4 x 8/3; with the
    old patches 2 x 2 tiles.
    """
    model = network(SMALL)
    with pytest.raises(UserError, match="not divisible by the patch size 3"):
        grown(model, (12, 8), patch_size=3)
    with pytest.raises(
        UserError, match="whole multiples of 9x6, such as 9x12, got 12x9"
    ):
        grown(model, (12, 9), patch_size=3)
    assert grown(model, (12, 9), patch_size=3, method="interpolate").config.grid == (
        4,
        3,
    )
    halved = grown(model, (6, 4), patch_size=1)
    assert (halved.config.grid, halved.config.tokens_mlp_dim) == ((6, 4), 12)


@pytest.mark.parametrize(
    ("size", "how", "sentence"),
    [
        ((12, 6), {}, r"whole multiples of 6x4, such as 12x8, got 12x6; .*interpolate"),
        ((2, 4), {}, r"whole multiples of 6x4, such as 6x4, got 2x4"),
        (
            (7, 4),
            {"method": "interpolate"},
            r"7x4 is not divisible by the patch size 2; .* 8x4",
        ),
        ((0, 4), {}, r"image size 0x4"),
        ((6,), {}, r"must be \(height, width\)"),
        ((6, 4), {"patch_size": 0}, r"patch_size must be at least 1"),
        (
            (6, 4),
            {"method": "bicubic"},
            r"unknown method 'bicubic'; known are block_diagonal, interpolate",
        ),
        ((6, 4), {"method": "interpolated"}, r"did you mean 'interpolate'"),
        ((6 * 10**6, 4 * 10**6), {}, r"6000000x4000000 is too large"),
        (
            (6 * 10**6, 4 * 10**6),
            {"method": "interpolate"},
            r"6000000x4000000 is too large",
        ),
    ],
)
def test_what_cannot_be_is_one_sentence(
    size: Any, how: dict[str, Any], sentence: str
) -> None:
    model = network(SMALL)
    with pytest.raises(UserError, match=sentence):
        resized(SMALL, model.state_dict(), size, **how)
