"""Another image or patch size: exact identities, others' arithmetic, and by hand."""

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
from mlp_mixer.models import VARIANTS, MixerConfig, MlpMixer, cost, resolution
from mlp_mixer.models.resolution import interpolate, resized, resized_stem

# A grid of 3 x 2.
SMALL = MixerConfig(
    patch_size=2,
    num_blocks=2,
    hidden_dim=6,
    tokens_mlp_dim=3,
    channels_mlp_dim=8,
    image_size=(6, 4),
    num_classes=3,
)
Size = tuple[int, int]


def network(config: MixerConfig, dtype: torch.dtype = torch.float64) -> MlpMixer:
    """A network with no parameter at its initial value."""
    model = MlpMixer(config).to(dtype).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def grown(model: MlpMixer, size: Size, **how: Any) -> MlpMixer:
    """The network that `resized` describes.

    Loading is strict, so every shape is checked against the configuration.
    """
    config, tensors = resized(model.config, model.state_dict(), size, **how)
    other = MlpMixer(config).to(model.stem.proj.weight.dtype).eval()
    other.load_state_dict(tensors)
    return other


def of_tiles(model: MlpMixer, image: Tensor) -> Tensor:
    """The head applied to the mean of the pooled features of the image's tiles."""
    height, width = model.config.image_size
    pooled = []
    for row in image.split(height, dim=2):
        for tile in row.split(width, dim=3):
            tokens = model.forward_features(tile)
            pooled.append(model.forward_head(tokens, pre_logits=True))
    return model.head(torch.stack(pooled).mean(dim=0))


def assert_same(actual: Tensor, expected: Tensor) -> None:
    """In double precision: what is the same in exact numbers."""
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-11)


def numbers_of(model: MlpMixer) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


sides = st.integers(1, 4)
counts = st.integers(1, 3)
configs = st.builds(
    MixerConfig,
    patch_size=st.just(2),
    num_blocks=st.just(2),
    hidden_dim=st.integers(2, 7),
    tokens_mlp_dim=st.integers(1, 5),
    channels_mlp_dim=st.just(9),
    image_size=st.tuples(sides, sides).map(lambda grid: (2 * grid[0], 2 * grid[1])),
    in_channels=st.integers(1, 3),
    num_classes=st.sampled_from([0, 1, 5]),
    final_norm=st.booleans(),
)


@settings(max_examples=40, deadline=None)
@given(config=configs, rows=counts, columns=counts, patch=sides)
def test_block_diagonal_growth_gives_the_mean_over_the_tiles(
    config: MixerConfig, rows: int, columns: int, patch: int
) -> None:
    """App. C for any grid (one token too), gray images and no head.

    The counts of tiles may differ by direction.
    """
    height, width = config.grid
    size = (height * patch, width * patch)
    config = dataclasses.replace(config, patch_size=patch, image_size=size)
    model = network(config)
    large = grown(model, (size[0] * rows, size[1] * columns))
    shape = (2, config.in_channels, *large.config.image_size)
    image = torch.randn(shape, dtype=torch.float64)
    with torch.inference_mode():
        assert_same(large(image), of_tiles(model, image))
    assert large.config.tokens_mlp_dim == config.tokens_mlp_dim * rows * columns
    assert numbers_of(large) == cost(large).params


def test_every_token_is_that_of_its_tile() -> None:
    """Logits cannot see where b2 lies.

    It moves all channels of a token alike, which the next norm takes back.
    """
    config = dataclasses.replace(SMALL, final_norm=False, in_channels=1)
    model = network(config)
    large = grown(model, (12, 12))
    image = torch.randn(2, 1, 12, 12, dtype=torch.float64)
    with torch.inference_mode():
        # By row and column, of the grid of 6 x 6.
        tokens = large.forward_features(image).unflatten(1, large.config.grid)
        for top, left in ((0, 0), (0, 2), (0, 4), (3, 0), (3, 2), (3, 4)):
            tile = image[:, :, 2 * top :, 2 * left :][:, :, :6, :4]
            expected = model.forward_features(tile).unflatten(1, (3, 2))
            found = tokens[:, top:, left:][:, :3, :2]
            assert_same(found, expected)


def test_l16_at_448_has_the_parameters_and_the_cost_of_its_dense_expansion() -> None:
    """Counted apart from this code: 279.5 million without the head, 237.4 GMACs.

    The model at 224 has 207.2 and 44.5.
    """
    config = VARIANTS["mixer_l16"]
    # Shapes without memory.
    with torch.device("meta"):
        large, tensors = resized(config, MlpMixer(config).state_dict(), 448)
    del tensors["head.weight"], tensors["head.bias"]
    params = sum(tensor.numel() for tensor in tensors.values())
    assert f"{params / 1e6:.1f}" == "279.5"
    assert f"{cost(large).gmacs:.1f}" == "237.4"
    assert params == cost(large).params_without_head


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("method", ["block_diagonal", "interpolate"])
def test_weights_keep_their_precision(method: Any, dtype: torch.dtype) -> None:
    tensors = network(SMALL, dtype).state_dict()
    _, out = resized(SMALL, tensors, (12, 8), method=method)
    assert {tensor.dtype for tensor in out.values()} == {dtype}


def test_what_no_memory_holds_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*some: object) -> None:
        raise RuntimeError("not enough\n    memory: you tried")

    monkeypatch.setattr(resolution, "block_diagonal", fails)
    said = r"^12x8 is too large \(not enough memory: you tried\); choose less$"
    with pytest.raises(UserError, match=said):
        resized(SMALL, network(SMALL).state_dict(), (12, 8), method="block_diagonal")


@pytest.mark.parametrize("method", ["block_diagonal", "interpolate"])
def test_the_same_size_is_the_same_network_in_other_memory(method: Any) -> None:
    model = network(SMALL, torch.bfloat16)
    before = model.state_dict()
    config, tensors = resized(SMALL, before, (6, 4), method=method)
    assert config == SMALL
    for name, tensor in before.items():
        assert torch.equal(tensors[name], tensor)
        assert tensors[name].dtype == torch.bfloat16
        assert tensors[name].data_ptr() != tensor.data_ptr()


grids = st.tuples(st.integers(1, 9), st.integers(1, 9))


@settings(max_examples=40, deadline=None)
@given(old=grids, new=grids, patch=counts, channels=counts)
def test_interpolation_fits_any_grid_and_keeps_what_a_constant_excites(
    old: Size, new: Size, patch: int, channels: int
) -> None:
    """An image of equal patches has tokens without a grid.

    So has the answer, if the token mixing answers without one.
    """
    config = dataclasses.replace(
        SMALL,
        patch_size=patch,
        image_size=(old[0] * patch, old[1] * patch),
        in_channels=channels,
    )
    model = network(config)
    for name, tensor in model.state_dict().items():
        if "mlp_tokens.fc2" in name:
            # The same answer for every token.
            tensor.copy_(tensor[:1].expand_as(tensor).clone())
    size = (new[0] * patch, new[1] * patch)
    other = grown(model, size, method="interpolate")
    assert other.config.grid == new
    assert other.config.tokens_mlp_dim == config.tokens_mlp_dim
    assert numbers_of(other) == cost(other).params
    tile = torch.randn(2, channels, patch, patch, dtype=torch.float64)
    with torch.inference_mode():
        assert_same(other(tile.tile(*new)), model(tile.tile(*old)))


def resize(x_CS: Tensor, old: Size, new: Size) -> Tensor:
    """torch's own, of maps over a grid."""
    maps = x_CS.view(1, -1, *old)
    resized_maps = F.interpolate(maps, new, mode="bilinear", antialias=True)
    return resized_maps.flatten(2)[0]


@pytest.mark.parametrize(("old", "new"), [((3, 5), (7, 4)), ((6, 4), (2, 9))])
def test_interpolation_is_torchs_resize_before_and_after_the_mixing(
    old: Size, new: Size
) -> None:
    """Rows and columns are not confused, up and down."""
    S = old[0] * old[1]
    W1 = torch.randn(2, S, dtype=torch.float64)
    b1 = torch.randn(2, dtype=torch.float64)
    W2 = torch.randn(S, 2, dtype=torch.float64)
    b2 = torch.randn(S, dtype=torch.float64)
    x_CN = torch.randn(8, new[0] * new[1], dtype=torch.float64)
    hidden = F.gelu(F.linear(resize(x_CN, new, old), W1, b1))
    expected = resize(F.linear(hidden, W2, b2), old, new)
    V1, c1, V2, c2 = interpolate(old, new, W1, b1, W2, b2)
    assert_same(F.linear(F.gelu(F.linear(x_CN, V1, c1)), V2, c2), expected)


def test_up_and_down_again_is_nearly_the_same_for_smooth_weights() -> None:
    """Twice the grid and back loses the highest frequencies only."""
    axis = torch.linspace(0, 3, 8)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    waves = [torch.cos(a * y + b * x) for a in range(2) for b in range(2)]
    maps = torch.stack(waves).flatten(1)  # (4, 64)
    small = (8, 8)
    large = (16, 16)
    token_mlp = (maps, torch.ones(4), maps.T, maps[1])
    there = interpolate(small, large, *token_mlp)
    back = interpolate(large, small, *there)
    for after, before in zip(back, token_mlp, strict=True):
        assert after.shape == before.shape
        largest = before.abs().max()
        assert (after - before).abs().max() < 0.15 * largest
    # The maps that are read get the shares of four tokens each, those that are written
    # stay as high.
    assert there[0].sum() == pytest.approx(maps.sum().item(), rel=1e-4)
    assert there[2].mean() == pytest.approx(maps.mean().item(), rel=1e-4)


@pytest.mark.parametrize("old", [1, 4, 7, 16])
@pytest.mark.parametrize("new", [1, 3, 8, 32])
def test_the_stem_is_resized_as_timm_does(old: int, new: int) -> None:
    resample = pytest.importorskip("timm.layers.patch_embed").resample_patch_embed
    kernel = torch.randn(6, 3, old, old)
    how = {"interpolation": "bilinear", "antialias": True}
    expected = resample(kernel, [new, new], **how)
    # timm inverts in fp32.
    close = {"rtol": 1e-4, "atol": 1e-5 * expected.abs().max().item()}
    torch.testing.assert_close(resized_stem(kernel, new), expected, **close)


@pytest.mark.parametrize("channels", [1, 3])
def test_patches_that_are_scaled_up_are_embedded_exactly_as_before(
    channels: int,
) -> None:
    """FlexiViT's aim, for a whole network.

    Patches, not the image, are scaled; at their borders it matters.
    """
    config = dataclasses.replace(SMALL, in_channels=channels)
    model = network(config)
    larger = grown(model, (15, 10), patch_size=5)
    assert (larger.config.grid, larger.config.patch_size) == (config.grid, 5)
    image = torch.randn(4, channels, 6, 4, dtype=torch.float64)
    # (B, channels, rows, columns, P, P), each patch scaled by itself.
    patches = image.unfold(2, 2, 2).unfold(3, 2, 2)
    flat = patches.flatten(0, 3)[:, None]
    scaled = F.interpolate(flat, (5, 5), mode="bilinear", antialias=True)
    scaled = scaled.view(4, channels, 3, 2, 5, 5).transpose(3, 4)
    with torch.inference_mode():
        assert_same(larger(scaled.reshape(4, channels, 15, 10)), model(image))


def test_patch_and_grid_change_together() -> None:
    """Twice the image with patches half as long again needs a grid of 4 x 8/3.

    With the old patches it needs 2 x 2 tiles.
    """
    model = network(SMALL)
    with pytest.raises(UserError, match="not divisible by the patch size 3"):
        grown(model, (12, 8), patch_size=3)
    message = "whole multiples of 9x6, such as 9x12, got 12x9"
    with pytest.raises(UserError, match=message):
        grown(model, (12, 9), patch_size=3)
    other = grown(model, (12, 9), patch_size=3, method="interpolate")
    assert other.config.grid == (4, 3)
    halved = grown(model, (6, 4), patch_size=1)
    assert halved.config.grid == (6, 4)
    assert halved.config.tokens_mlp_dim == 12


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
