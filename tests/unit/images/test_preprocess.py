"""Preprocessing against torchvision, and what a record promises."""

from __future__ import annotations

import dataclasses
import tracemalloc

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import functional as tv
from torchvision.transforms.v2 import InterpolationMode

from mlp_mixer import config
from mlp_mixer.errors import UserError
from mlp_mixer.images.decode import decode_image
from mlp_mixer.images.preprocess import Preprocess


def random_image(height: int, width: int, channels: int = 3) -> np.ndarray:
    rng = np.random.default_rng(height * width)
    return rng.integers(0, 256, (height, width, channels), dtype=np.uint8)


SHAPES = [
    (31, 47),
    (47, 31),
    (33, 33),
    (100, 17),
    (9, 8),
    (1, 1),
    (1, 40),
    (37, 36),
]
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
OBLONG = [(5, 50), (50, 5), (24, 48), (13, 27), (300, 200)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("crop_pct", [0.875, 0.9, 0.95, 1.0])
@pytest.mark.parametrize("size", [16, 21])
def test_resmall_equals_torchvision(shape, crop_pct, size):
    image = random_image(*shape)
    least = [int(size / crop_pct)]
    resized = tv.resize(Image.fromarray(image), least, InterpolationMode.BICUBIC)
    expected = np.asarray(tv.center_crop(resized, [size, size]))
    actual = Preprocess((size, size), crop_pct=crop_pct).fit(image)
    np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "area"])
@pytest.mark.parametrize("resize", ["resmall", "resize"])
@pytest.mark.parametrize("shape", OBLONG)
def test_rectangles_are_covered(shape, resize, interpolation):
    white = np.full((*shape, 3), 255, dtype=np.uint8)
    how = {"resize": resize, "interpolation": interpolation}
    fitted = Preprocess((24, 40), crop_pct=0.9, **how).fit(white)
    assert fitted.shape == (24, 40, 3)
    assert (fitted == 255).all()


def test_resmall_keeps_the_shape_of_things_and_resize_squashes():
    image = np.zeros((20, 40, 3), dtype=np.uint8)
    image[:, :10] = 255  # the left quarter
    cropped = Preprocess((20, 20), crop_pct=1).fit(image)
    assert (cropped == 0).all()
    squash = Preprocess((20, 20), resize="resize", interpolation="area", crop_pct=1)
    squashed = squash.fit(image)
    assert (squashed[:, :5] == 255).all()
    assert (squashed[:, 5:] == 0).all()


@pytest.mark.parametrize("resize", ["resmall", "resize", "none"])
@pytest.mark.parametrize("resampler", ["pillow", "vit_jax", "big_vision", "opencv"])
def test_the_right_size_is_not_touched(resize, resampler):
    image = random_image(12, 20)
    preprocess = Preprocess(
        (12, 20),
        resize=resize,
        crop_pct=1.0,
        interpolation="bilinear",
        resampler=resampler,
    )
    np.testing.assert_array_equal(preprocess.fit(image), image)
    x_CHW = torch.from_numpy(image).permute(2, 0, 1)
    assert torch.equal(preprocess(image), preprocess.normalize(x_CHW))


def test_none_refuses_another_size():
    with pytest.raises(UserError, match=r"13 x 20 .* must be 12 x 20"):
        Preprocess((12, 20), resize="none").fit(random_image(13, 20))


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_any_number_of_channels_is_scaled_like_rgb(channels):
    image = random_image(30, 41, 3)
    repeated = np.arange(channels) % 3
    expected = Preprocess((16, 16)).fit(image)[..., repeated]
    fitted = Preprocess((16, 16), channels=channels).fit(image[..., repeated])
    np.testing.assert_array_equal(fitted, expected)


def test_normalize_in_numbers():
    preprocess = Preprocess((1, 1), mean=(0.5, 0.25, 0.0), std=(0.5, 0.5, 1.0))
    levels = torch.tensor([0, 255, 51], dtype=torch.uint8)
    x = preprocess.normalize(levels.view(1, 3, 1, 1))
    assert x.dtype == torch.float32
    torch.testing.assert_close(x.flatten(), torch.tensor([-1.0, 1.5, 0.2]))


def test_normalize_equals_torchvision_and_leaves_its_input():
    preprocess = Preprocess((8, 8), **IMAGENET)
    x_BCHW = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    before = x_BCHW.clone()
    expected = tv.normalize(x_BCHW.float() / 255, preprocess.mean, preprocess.std)
    # Values are at most 3: a few roundings of fp32.
    torch.testing.assert_close(
        preprocess.normalize(x_BCHW), expected, rtol=0, atol=1e-6
    )
    assert torch.equal(x_BCHW, before)


def test_call_is_fit_and_normalize():
    preprocess = Preprocess((16, 12))
    image = decode_image(random_image(40, 30))
    x_CHW = preprocess(image)
    assert x_CHW.shape == (3, 16, 12)
    assert x_CHW.is_contiguous()
    fitted = torch.from_numpy(preprocess.fit(image).copy())
    assert torch.equal(x_CHW, preprocess.normalize(fitted.permute(2, 0, 1)))


def test_normalize_takes_float_and_leaves_it_too():
    preprocess = Preprocess((8, 8), **IMAGENET)
    levels = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    x_BCHW = levels.float()
    assert torch.equal(preprocess.normalize(x_BCHW), preprocess.normalize(levels))
    assert torch.equal(x_BCHW, levels.float())


@pytest.mark.parametrize("resampler", ["pillow", "vit_jax", "big_vision", "opencv"])
def test_fit_is_always_uint8_and_only_vit_jax_keeps_more_for_the_network(resampler):
    how = {"interpolation": "bilinear", "resampler": resampler}
    preprocess = Preprocess((16, 12), mean=(0.0,), std=(1.0,), **how)
    image = random_image(40, 30)
    fitted = preprocess.fit(image)
    levels = preprocess(image).permute(1, 2, 0).numpy() * 255
    assert fitted.dtype == np.uint8
    np.testing.assert_array_equal(fitted, np.rint(levels))
    rounded = np.abs(fitted - levels).max() > 0.1
    assert rounded == (resampler == "vit_jax")


@pytest.mark.parametrize("resize", ["resmall", "resize"])
@pytest.mark.parametrize(
    ("resampler", "interpolation"),
    [
        ("vit_jax", "bilinear"),
        ("big_vision", "bilinear"),
        ("opencv", "bicubic"),
        ("opencv", "bilinear"),
    ],
)
@pytest.mark.parametrize("shape", OBLONG)
def test_rectangles_are_covered_by_all(shape, resampler, interpolation, resize):
    white = np.full((*shape, 3), 255, dtype=np.uint8)
    how = {"resize": resize, "interpolation": interpolation, "resampler": resampler}
    fitted = Preprocess((24, 40), crop_pct=0.9, **how).fit(white)
    assert fitted.shape == (24, 40, 3)
    assert (fitted == 255).all()


def test_a_record_without_a_resampler_is_pillows():
    old = {
        "image_size": [8, 8],
        "channels": 3,
        "resize": "resmall",
        "crop_pct": 0.875,
        "interpolation": "area",
    }
    read = config.from_dict(Preprocess, old)
    assert read == Preprocess((8, 8), interpolation="area", resampler="pillow")


@pytest.mark.parametrize(
    ("resampler", "interpolation", "legal"),
    [
        ("vit_jax", "bicubic", "'bilinear'"),
        ("big_vision", "bicubic", "'area' or 'bilinear'"),
        ("opencv", "area", "'bicubic' or 'bilinear'"),
        ("opencv", "nearest", "'bicubic' or 'bilinear'"),
    ],
)
def test_filters_that_a_resampler_does_not_have_are_refused(
    resampler, interpolation, legal
):
    message = f"'{resampler}' has no interpolation '{interpolation}': expected {legal}$"
    with pytest.raises(UserError, match=message):
        Preprocess((8, 8), interpolation=interpolation, resampler=resampler)


def test_record_survives_json_and_one_number_stands_for_all():
    preprocess = Preprocess((32, 24), channels=4, mean=(0.3,), std=(0.2,))
    assert preprocess.mean == (0.3,) * 4
    thrice = (0.5, 0.5, 0.5)
    assert Preprocess((8, 8)) == Preprocess((8, 8), mean=thrice, std=thrice)
    plain = config.to_dict(preprocess)
    assert config.from_dict(Preprocess, plain) == preprocess
    # A list, as JSON has it.
    assert Preprocess([8, 8]).image_size == (8, 8)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("image_size", (0, 4), "image_size"),
        ("image_size", (4,), "image_size"),
        ("channels", 0, "channels is 0"),
        ("crop_pct", 0.0, "crop_pct is 0"),
        ("crop_pct", 1.1, "crop_pct is 1.1"),
        ("crop_pct", float("nan"), "crop_pct is nan"),
        ("resize", "resmal", "did you mean 'resmall'"),
        ("interpolation", "lanczos", "unknown interpolation"),
        ("resampler", "bigvision", "did you mean 'big_vision'"),
        ("mean", (0.1, 0.2), "mean is .* one finite number, or 3"),
        ("mean", (float("inf"),), "finite"),
        ("std", (0.5, 0.0, 0.5), "above 0"),
    ],
)
def test_senseless_fields_are_refused(field, value, message):
    with pytest.raises(UserError, match=message):
        dataclasses.replace(Preprocess((8, 8)), **{field: value})


OTHER_ARRAYS = {
    "two axes": np.zeros((4, 4), np.uint8),
    "one channel": np.zeros((4, 4, 1), np.uint8),
    "floats": np.zeros((4, 4, 3)),
}


@pytest.mark.parametrize("image", OTHER_ARRAYS.values(), ids=OTHER_ARRAYS)
def test_other_arrays_cannot_be_fitted(image):
    with pytest.raises(UserError, match=r"expected uint8 \(H, W, 3\)"):
        Preprocess((4, 4)).fit(image)


def in_both_ways(monkeypatch, image, preprocess):
    """Return what Pillow makes of an image, and what the way of long images does."""
    monkeypatch.setattr("mlp_mixer.images.preprocess._MOST_SCALED", 10**9)
    by_pillow = preprocess.fit(image)
    monkeypatch.setattr("mlp_mixer.images.preprocess._MOST_SCALED", 0)
    return by_pillow, preprocess.fit(image)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "area"])
@pytest.mark.parametrize("crop_pct", [0.875, 1.0])
@pytest.mark.parametrize("shape", [(9, 400), (31, 900), (1, 300), (300, 1), (50, 60)])
def test_long_images_get_the_bits_of_pillow(
    monkeypatch, shape, crop_pct, interpolation
):
    preprocess = Preprocess((20, 24), interpolation=interpolation, crop_pct=crop_pct)
    image = random_image(*shape)
    expected, actual = in_both_ways(monkeypatch, image, preprocess)
    np.testing.assert_array_equal(actual, expected)


def test_tall_images_that_shrink_differ_from_pillow_by_rounding(monkeypatch):
    """Pillow changes the order of its two passes there, from version to version."""
    preprocess = Preprocess((20, 24), crop_pct=1.0)
    image = random_image(1500, 40)
    expected, actual = in_both_ways(monkeypatch, image, preprocess)
    difference = np.abs(actual.astype(int) - expected)
    assert difference.mean() < 0.5
    # Another place or another filter would be far away: this is noise.
    assert np.abs(np.roll(actual, 1, axis=0).astype(int) - expected).mean() > 20


def test_nearest_takes_pixels_of_a_long_image_from_their_place(monkeypatch):
    """Pillow adds up its steps, and may take the neighbour at a tie."""
    preprocess = Preprocess((20, 24), interpolation="nearest")
    image = np.arange(400, dtype=np.uint16).astype(np.uint8)[None, :, None]
    image = image.repeat(9, axis=0).repeat(3, axis=2)
    expected, actual = in_both_ways(monkeypatch, image, preprocess)
    assert np.abs(actual.astype(int) - expected).max() <= 1


@pytest.mark.parametrize(
    "how",
    [
        ("pillow", "nearest"),
        ("pillow", "bicubic"),
        ("pillow", "area"),
        ("big_vision", "area"),
        ("opencv", "bicubic"),
        ("vit_jax", "bilinear"),
    ],
)
@pytest.mark.parametrize("shape", [(1, 1_000_000), (1_000_000, 1), (30_000, 10)])
def test_the_memory_of_a_long_image_is_that_of_its_crop(shape, how):
    resampler, interpolation = how
    preprocess = Preprocess((32, 32), interpolation=interpolation, resampler=resampler)
    image = np.full((*shape, 3), 100, dtype=np.uint8)
    tracemalloc.start()
    fitted = preprocess.fit(image)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # The float32 of big_vision cannot count so many pixels.
    assert resampler == "big_vision" or (fitted == 100).all()
    # Some copies of the crop, the largest of them of eight bytes a value.
    assert peak < 20 * 8 * fitted.size
