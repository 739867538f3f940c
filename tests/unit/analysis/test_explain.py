"""Maps against their definitions, neighbours against brute force, and the picture."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mlp_mixer import Checkpoint, Preprocess, UserError, create_model
from mlp_mixer.analysis.explain import (
    METHODS,
    Method,
    draw,
    maps,
    nearest,
    overlay,
    seen_part,
    unsure,
    veil,
)
from mlp_mixer.data.image_set import ArraySet
from mlp_mixer.models import IsotropicMlp

SMALL = {
    "num_blocks": 2,
    "hidden_dim": 8,
    "channels_mlp_dim": 16,
    "patch_size": 4,
    "num_classes": 3,
}


def network(
    name: str = "mixer_nano4", *, std: float = 0.4, **fields: object
) -> IsotropicMlp:
    settings = {**SMALL, "image_size": (16, 16), **fields}
    model = create_model(name, **settings).eval()  # type: ignore[arg-type]
    for key, parameter in model.named_parameters():
        is_scale = "norm" in key and key.endswith(("weight", "alpha"))
        nn.init.normal_(parameter, float(is_scale), std)
    return model


def linear(patch_size: int = 4) -> IsotropicMlp:
    """Return a network that is linear in the image.

    Its blocks add nothing, and there is no norm before pooling.
    """
    model = network(patch_size=patch_size, final_norm=False)
    for name, parameter in model.named_parameters():
        if ".fc2." in name:
            nn.init.zeros_(parameter)
    return model


def mean_colour(x: Tensor) -> Tensor:
    return x.mean(dim=(2, 3), keepdim=True).expand_as(x)


FAMILIES = ["mixer_nano4", "grouped_nano4", "gmixer_12", "resmlp_12", "gmlp_ti16"]
SIZES = [((16, 16), 3, 4), ((8, 12), 1, 2), ((9, 6), 2, 3)]


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize(("size", "channels", "P"), SIZES)
def test_gradients_sum_to_the_difference_in_the_logit(
    name: str, size: tuple[int, int], channels: int, P: int
) -> None:
    """The completeness axiom holds as far as promised, and rounding."""
    model = network(name, std=0.2, image_size=size, in_channels=channels, patch_size=P)
    for _ in range(3):
        x = torch.randn(1, channels, *size)
        with torch.inference_mode():
            change = (model(x) - model(mean_colour(x)))[0]
        for label in range(3):
            heat = maps(model, x, label, "gradient")
            assert (heat.shape, heat.dtype) == (size, np.float32)
            gained = change[label].item()
            assert abs(heat.sum() - gained) < 0.0011 + 0.0101 * abs(gained)
        assert change.abs().max() > 0.005


@pytest.mark.parametrize("P", [1, 4])
def test_gradients_of_a_linear_network_are_its_weights(P: int) -> None:
    """Pixel times weight for single pixels, their mean in squares of half a patch."""
    model = linear(P)
    x = torch.randn(1, 3, 16, 16)
    head = model.head.weight[2]  # type: ignore[index]
    stem = model.stem.proj.weight
    patches = (16 // P) ** 2
    kernel = torch.einsum("c,cihw->ihw", head, stem).detach() / patches
    change = (x - mean_colour(x))[0]
    by_pixel = (change * kernel.tile(1, 16 // P, 16 // P)).sum(dim=0).numpy()
    if P == 4:
        squares = by_pixel.reshape(8, 2, 8, 2).mean(axis=(1, 3))
        by_pixel = squares.repeat(2, axis=0).repeat(2, axis=1)
    heat = maps(model, x, 2, "gradient")
    np.testing.assert_allclose(heat, by_pixel, atol=1e-6)


@pytest.mark.parametrize(
    ("size", "P", "window"),
    [
        ((16, 16), 4, (1, 1)),
        ((13, 12), 1, (2, 2)),
        ((36, 12), 4, (2, 1)),
        ((18, 34), 2, (2, 3)),
    ],
)
@torch.inference_mode()
def test_occlusion_is_what_a_loop_over_windows_finds(
    size: tuple[int, int], P: int, window: tuple[int, int]
) -> None:
    model = network(image_size=size, patch_size=P)
    x = torch.randn(1, 3, *size)
    h, w = model.config.grid
    high, wide = window
    whole = model(x).log_softmax(1)[0, 1]
    fall = np.zeros((h, w))
    windows = np.zeros((h, w))
    for i in range(h - high + 1):
        for j in range(w - wide + 1):
            rows = slice(i * P, (i + high) * P)
            columns = slice(j * P, (j + wide) * P)
            covered = x.clone()
            covered[..., rows, columns] = mean_colour(x)[..., rows, columns]
            left = model(covered).log_softmax(1)[0, 1]
            fall[i : i + high, j : j + wide] += (whole - left).item()
            windows[i : i + high, j : j + wide] += 1
    expected = (fall / windows).repeat(P, axis=0).repeat(P, axis=1)
    assert np.abs(expected).max() > 0.01
    heat = maps(model, x, 1, "occlusion")
    np.testing.assert_allclose(heat, expected, atol=2e-6)


@pytest.mark.parametrize("method", METHODS)
def test_a_flat_image_has_nothing_to_show(method: Method) -> None:
    x = torch.full((1, 3, 16, 16), 0.25)
    np.testing.assert_allclose(maps(network(), x, 0, method), 0, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_maps_leave_no_trace(method: Method) -> None:
    """Neither weights nor image change, also in inference mode, as a server runs."""
    model = network()
    x = torch.randn(1, 3, 16, 16)
    before = x.clone()
    outside = maps(model, x, 0, method)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(x, before)
    with torch.inference_mode():
        inside = maps(model, x * 1, 0, method)
    np.testing.assert_allclose(inside, outside, rtol=1e-5, atol=1e-6)


def test_what_cannot_be_mapped_is_said() -> None:
    model = network()
    x = torch.randn(1, 3, 16, 16)
    expected = "unknown method 'occlude'; did you mean 'occlusion'"
    with pytest.raises(UserError, match=expected):
        maps(model, x, 0, "occlude")  # type: ignore[arg-type]
    for label, images in ((3, x), (-1, x), (0, torch.cat([x, x]))):
        expected = f"one of 3 classes, got {len(images)} and {label}"
        with pytest.raises(UserError, match=expected):
            maps(model, images, label, "gradient")
    with pytest.raises(UserError, match="one of 0 classes"):
        maps(network(num_classes=0), x, 0, "occlusion")
    for method in METHODS:
        with pytest.raises(UserError, match="takes images of shape"):
            maps(model, torch.randn(1, 3, 8, 8), 0, method)


def checkpoint(**fields: object) -> Checkpoint:
    preprocess = Preprocess((16, 16), crop_pct=1.0)
    return Checkpoint(network(**fields), preprocess, ("x", "y", "z"))  # type: ignore[arg-type]


def test_neighbours_are_those_of_brute_force() -> None:
    # It needs no head.
    known = checkpoint(num_classes=0)
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (40, 20, 18, 3), dtype=np.uint8)
    images = ArraySet(pixels, np.arange(40) % 4, ["a", "b", "c", "d"])
    inputs = torch.stack([known.preprocess(each) for each in pixels])
    with torch.inference_mode():
        features = known.model(inputs).double().numpy()
    # What all images share says nothing about any of them.
    centred = features - features.mean(axis=0)
    unit = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    cosines = unit @ unit[7]
    order = np.argsort(-cosines)[:5]
    x = inputs[7:8]
    found = nearest(known, x, images)
    assert order[0] == 7
    for (label, cosine, shown), index in zip(found, order, strict=True):
        assert label == "abcd"[index % 4]
        assert cosine == pytest.approx(cosines[index], abs=1e-5)
        assert np.array_equal(shown, seen_part(pixels[index], known.preprocess))
    assert len(nearest(known, x, images.subset([3, 4]))) == 2


def test_red_speaks_for_and_blue_against_and_nothing_stays_gray() -> None:
    pixels = np.full((2, 2, 3), (10, 110, 210), np.uint8)
    heat = np.array([[2, -2], [0.02, 0]], np.float32)
    (plus, minus), (little, nothing) = overlay(pixels, heat).astype(int)
    pale = 127 + 110 / 2
    assert plus[0] > plus[2] + 50
    assert minus[2] > minus[0] + 50
    assert nothing.tolist() == [pale] * 3
    assert np.abs(little - nothing).max() < 12
    assert (overlay(pixels, np.zeros((2, 2))) == pale).all()


# Where `draw` puts images of 16 x 16 pixels, each of which becomes a square of 18.
IMAGE = (slice(44, 332), slice(20, 308))
FIRST_MAP = (slice(44, 332), slice(328, 616))
CENTRES = (slice(9, None, 18), slice(9, None, 18))


def test_the_picture() -> None:
    rng = np.random.default_rng(0)
    heat: dict[Method, np.ndarray] = {}
    for method in METHODS:
        heat[method] = rng.normal(size=(16, 16))
    neighbour = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
    pixels = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
    odd = (
        "a name\nof \udcff two lines and \U0001f40c more letters than there is room "
        * 3
    )
    near = [(odd, 1.0, pixels), *[("a", 0.5, neighbour)] * 4]
    whole = draw(pixels, heat, odd, [(odd, 1.0), ("b", 0.0)], near)
    assert (whole.dtype, whole.shape[1:]) == (np.uint8, (944, 3))
    # Nothing runs over the edge.
    assert (whole[:, -19:] == (250, 250, 248)).all()
    one = draw(pixels, {"occlusion": heat["occlusion"]}, "a", [("a", 1.0)], [])
    assert one.shape[1] == 636
    assert one.shape[0] < whole.shape[0]
    assert np.array_equal(whole[IMAGE][CENTRES], pixels)
    first_map = overlay(pixels, heat["occlusion"])
    assert np.array_equal(whole[FIRST_MAP][CENTRES], first_map)
    # A score of 1 is as wide as an image.
    bars = (whole == (103, 132, 168)).all(axis=2).sum(axis=1)
    assert bars.max() == 289


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_images_that_are_no_rgb(channels: int) -> None:
    model = network(in_channels=channels)
    preprocess = dataclasses.replace(
        Preprocess((16, 12)), channels=channels, mean=(0.5,), std=(0.5,)
    )
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (30, 30, channels), dtype=np.uint8)
    pixels = preprocess.fit(noise)
    heat = maps(model, torch.randn(1, channels, 16, 16), 0, "occlusion")[:, :12]
    near = [("b", 0.1, pixels)]
    sheet = draw(pixels, {"occlusion": heat}, "a", [("a", 0.5)], near)
    shown = sheet[44:332, 20:236][CENTRES]
    assert np.array_equal(shown[:, :, 0], pixels.mean(axis=2).round())


@pytest.mark.parametrize("resize", ["resmall", "resize"])
@pytest.mark.parametrize("shape", [(300, 200), (128, 256), (77, 91)])
def test_the_seen_part_is_what_the_network_gets_but_finer(
    shape: tuple[int, int], resize: str
) -> None:
    """Shrunk to the network's size it is the network's input, but for the rounding of
    its edges to whole pixels.
    """
    preprocess = Preprocess((16, 12), crop_pct=0.875, resize=resize)  # type: ignore[arg-type]
    ramp = np.linspace(0, 255, shape[0] * shape[1]).reshape(*shape, 1)
    across = np.broadcast_to(np.linspace(0, 255, shape[1])[None, :, None], ramp.shape)
    photo = np.concatenate([ramp, across, 255 - across], axis=2).astype(np.uint8)
    part = seen_part(photo, preprocess)
    top, left, bottom, right = preprocess.seen(*shape)
    assert part.shape[0] == pytest.approx((bottom - top) * shape[0], abs=2)
    assert part.shape[1] == pytest.approx((right - left) * shape[1], abs=2)
    squashed = dataclasses.replace(preprocess, resize="resize", crop_pct=1.0)
    network = preprocess.fit(photo).astype(float)
    assert np.abs(squashed.fit(part) - network).max() < 255 * 1.5 / min(shape) + 3


def test_the_seen_part_of_large_and_of_small_photos() -> None:
    preprocess = Preprocess((16, 16), crop_pct=1.0)
    large = np.zeros((1500, 3000, 3), np.uint8)
    assert seen_part(large, preprocess).shape == (1024, 1024, 3)
    small = np.random.default_rng(0).integers(0, 256, (8, 9, 3), dtype=np.uint8)
    assert np.array_equal(seen_part(small, preprocess), preprocess.fit(small))


def test_a_map_is_enlarged_to_its_photo() -> None:
    photo = np.full((40, 20, 3), 100, np.uint8)
    heat = np.array([[1.0], [-1.0]], np.float32)
    drawn = overlay(photo, heat).astype(int)
    assert drawn.shape == (40, 20, 3)
    assert (drawn[:8, :, 0] > drawn[:8, :, 2]).all()
    assert (drawn[-8:, :, 2] > drawn[-8:, :, 0]).all()


def test_a_veil_is_clear_where_nothing_speaks() -> None:
    """Over white it is what `overlay` draws over white."""
    heat = np.array([[2, -2], [0.02, 0]], np.float32)
    drawn = veil(heat).astype(float)
    assert drawn[1, 1, 3] == 0
    alpha = drawn[..., 3:] / 255
    white = np.full((2, 2, 3), 255, np.uint8)
    expected = overlay(white, heat).astype(float)
    pale = 127 + 255 / 2
    laid = drawn[..., :3] * alpha + pale * (1 - alpha)
    np.testing.assert_allclose(laid, expected, atol=2)


def test_a_weak_answer_is_called_so() -> None:
    assert unsure([("a", 0.5), ("b", 0.5)]) == ""
    assert unsure([]) == ""
    assert unsure([("a", 0.33)]).startswith("The network is unsure (33 %)")
    pixels = np.zeros((16, 16, 3), np.uint8)
    heat: dict[Method, np.ndarray] = {"occlusion": np.ones((16, 16))}
    sure = draw(pixels, heat, "a", [("a", 0.9)], [])
    weak = draw(pixels, heat, "a", [("a", 0.3)], [])
    # The sentence has a line of its own.
    assert len(weak) == len(sure) + 24
