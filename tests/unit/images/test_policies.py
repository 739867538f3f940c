"""Policies: torchvision's by its own classes, big_vision's by its formulas and arrays."""

from __future__ import annotations

import builtins
import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import v2

from mlp_mixer.data.image_set import ArraySet
from mlp_mixer.data.loader import TrainBatches, stream
from mlp_mixer.errors import UserError
from mlp_mixer.images import policies
from mlp_mixer.images.operations import Step, operate
from mlp_mixer.images.policies import apply_policy, policy_draws
from mlp_mixer.images.preprocess import Preprocess
from mlp_mixer.images.randaugment import BIG_VISION, SLOT, big_vision_plan
from mlp_mixer.images.settings import Augment

TORCHVISION = {
    "randaugment": v2.RandAugment(num_ops=2, magnitude=9),
    "autoaugment_cifar10": v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10),
    "autoaugment_imagenet": v2.AutoAugment(v2.AutoAugmentPolicy.IMAGENET),
    "autoaugment_svhn": v2.AutoAugment(v2.AutoAugmentPolicy.SVHN),
    "trivialaugment": v2.TrivialAugmentWide(),
}
ALL = ["randaugment_bv", "randaugment_timm", *TORCHVISION]
ALMOST_ONE = 1 - 2**-53
SIZES = [(32, 32), (19, 26), (224, 224), (5, 3), (1, 1)]


def picture(height: int = 19, width: int = 26, channels: int = 3) -> np.ndarray:
    """Noise over a slope, in [20, 219]: nothing stretches to the ends by accident."""
    rng = np.random.default_rng(height * width * channels)
    slope = np.linspace(20, 150, width)[None, :, None]
    noise = rng.integers(0, 70, (height, width, channels))
    return (slope + noise).astype(np.uint8)


def to_pillow(image: np.ndarray) -> Image.Image:
    return Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)


def operated(image: np.ndarray, name: str, *values: float) -> np.ndarray:
    result = operate(to_pillow(image), Step(name, values))
    return np.asarray(result).reshape(image.shape)


def draws_of(policy: str, layers: int = 2, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(policy_draws(policy, layers))


# All policies


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("policy", ALL)
def test_equal_draws_equal_bytes_and_nothing_else_changes(policy, size, channels):
    image = picture(*size, channels)
    before = image.copy()
    for seed in range(8):
        draws = draws_of(policy, seed=seed)
        first = apply_policy(image, draws, policy, magnitude=9)
        assert (first.dtype, first.shape) == (np.uint8, image.shape)
        more = np.append(draws, 0.7)
        again = apply_policy(image, more, policy, magnitude=9)
        np.testing.assert_array_equal(first, again)
        assert (draws == draws_of(policy, seed=seed)).all()
    assert (image == before).all()


@pytest.mark.parametrize("policy", ALL)
def test_most_images_change_and_differ_from_each_other(policy):
    image = picture()
    results = {
        apply_policy(image, draws_of(policy, seed=seed), policy).tobytes()
        for seed in range(40)
    }
    assert len(results) > 10


def test_views_are_as_good_as_arrays():
    image = picture()
    turned = np.ascontiguousarray(image.transpose(2, 0, 1)).transpose(1, 2, 0)
    for policy in ALL:
        draws = draws_of(policy)
        expected = apply_policy(image, draws, policy)
        np.testing.assert_array_equal(apply_policy(turned, draws, policy), expected)


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(ALL),
    st.lists(st.sampled_from([0.0, 0.5, ALMOST_ONE]), min_size=12, max_size=12),
)
def test_extreme_draws_are_legal(policy, draws):
    apply_policy(picture(7, 5), np.array(draws), policy, layers=3, magnitude=30)


def test_none_does_nothing():
    assert policy_draws("none", 2) == 0
    image = picture()
    np.testing.assert_array_equal(apply_policy(image, np.zeros(0), "none"), image)


@pytest.mark.parametrize("policy", ALL)
def test_other_numbers_of_channels_are_refused(policy):
    message = "images of 1 or 3 channels, got 5; set augment.policy=none"
    with pytest.raises(UserError, match=message):
        apply_policy(picture(channels=5), draws_of(policy), policy)


def test_big_vision_owns_four_draws_a_layer_and_torchvision_one():
    assert [policy_draws(policy, 3) for policy in ALL] == [
        *(2 * [3 * SLOT]),
        *(5 * [1]),
    ]


def test_every_operation_of_big_vision_is_equally_likely():
    draws = np.full((16 * 10, SLOT), 0.5)
    draws[:, 0] = (np.arange(len(draws)) + 0.5) / len(draws)
    counts = Counter(big_vision_plan(own, (32, 32), layers=1)[0].name for own in draws)
    assert len(counts) == 16
    assert set(counts.values()) == {10}


def test_layers_follow_each_other_with_draws_of_their_own():
    draws = draws_of("randaugment_bv", layers=5)
    singly = [
        big_vision_plan(own, (32, 32), layers=1)[0] for own in draws.reshape(5, SLOT)
    ]
    assert big_vision_plan(draws, (32, 32), layers=5) == singly
    image = expected = picture()
    for start in range(0, 20, SLOT):
        own = draws[start : start + SLOT]
        expected = apply_policy(expected, own, "randaugment_bv", layers=1)
    result = apply_policy(image, draws, "randaugment_bv", layers=5)
    np.testing.assert_array_equal(result, expected)


# torchvision's policies


@pytest.mark.parametrize("policy", TORCHVISION)
@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_are_those_of_torchvision_s_class(policy, channels):
    """The class itself, on a generator that the first draw seeds."""
    image = picture(24, 33, channels)
    for seed in range(60):
        draws = draws_of(policy, seed=seed)
        torch.default_generator.manual_seed(int(draws[0] * 2**53))
        expected = np.asarray(TORCHVISION[policy](to_pillow(image)))
        result = apply_policy(image, draws, policy, layers=2, magnitude=9)
        np.testing.assert_array_equal(result, expected.reshape(image.shape))


def test_layers_and_magnitude_of_torchvision_s_randaugment_count():
    image = picture()
    draws = np.array([0.3])
    torch.default_generator.manual_seed(int(0.3 * 2**53))
    expected = v2.RandAugment(num_ops=4, magnitude=30)(to_pillow(image))
    result = apply_policy(image, draws, "randaugment", layers=4, magnitude=30.0)
    np.testing.assert_array_equal(result, expected)
    fewer = apply_policy(image, draws, "randaugment", layers=1, magnitude=30.0)
    assert not np.array_equal(result, fewer)


@pytest.mark.parametrize("policy", TORCHVISION)
def test_a_policy_neither_reads_nor_moves_torch_s_generator(policy):
    image = picture()
    draws = draws_of(policy)
    torch.manual_seed(1)
    first = apply_policy(image, draws, policy)
    after = torch.rand(3)
    torch.manual_seed(1)
    torch.testing.assert_close(after, torch.rand(3), rtol=0, atol=0)
    np.testing.assert_array_equal(apply_policy(image, draws, policy), first)


def test_draws_that_differ_in_the_last_bit_are_different_seeds():
    image = picture()
    draws = [0.5 + number * 2**-53 for number in range(0, 40, 2)]
    results = {
        apply_policy(image, np.array([draw]), "trivialaugment").tobytes()
        for draw in draws
    }
    assert len(results) > 5


@pytest.mark.parametrize("policy", ALL)
def test_batches_are_the_same_with_workers_and_after_a_restart(policy):
    """A resumed run asks for later steps only."""
    pixels = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)
    images = ArraySet(pixels, np.arange(12) % 3)
    preprocess = Preprocess((8, 8), resize="none")
    augment = Augment(policy=policy)
    batches = TrainBatches(images, preprocess, augment, batch_size=4, seed=5)
    torch.manual_seed(0)
    straight = [batch.images for batch in stream(batches, range(6), workers=0)]
    torch.manual_seed(1)
    with_workers = [batch.images for batch in stream(batches, range(6), workers=2)]
    resumed = [batch.images for batch in stream(batches, range(3, 6), workers=1)]
    for one, other in zip(straight, with_workers, strict=True):
        assert torch.equal(one, other)
    for one, other in zip(straight[3:], resumed, strict=True):
        assert torch.equal(one, other)


def test_a_broken_torchvision_harms_only_those_who_need_it(monkeypatch):
    load = builtins.__import__

    def broken(name: str, *rest: Any, **options: Any) -> Any:
        if name.startswith("torchvision"):
            raise RuntimeError("operator torchvision::nms does not exist")
        return load(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", broken)
    policies._torchvision_transform.cache_clear()
    image = picture()
    apply_policy(image, draws_of("randaugment_bv"), "randaugment_bv")
    message = (
        "augment.policy=trivialaugment is torchvision's, which cannot be imported "
        ".*nms.*install the one made for your torch"
    )
    with pytest.raises(UserError, match=message):
        apply_policy(image, np.array([0.5]), "trivialaugment")


# big_vision's RandAugment: numbers from its formulas


def big_vision(
    name: str, magnitude: float, size=(224, 224), sign: float = 0.7, place=(0.5, 0.25)
) -> Step:
    number = BIG_VISION.index(name)
    draws = np.array([(number + 0.5) / 16, sign, *place])
    return big_vision_plan(draws, size, layers=1, magnitude=magnitude)[0]


def test_operations_are_in_big_vision_s_order():
    order = "AutoContrast Equalize Invert Rotate Posterize Solarize Color Contrast Brightness Sharpness "
    order += "ShearX ShearY TranslateX TranslateY Cutout SolarizeAdd"
    assert " ".join(BIG_VISION) == order


@pytest.mark.parametrize(
    ("name", "at"),
    [
        ("Rotate", {0: 0, 10: 30, 15: 45, 20: 60}),
        ("ShearX", {0: 0, 10: 0.3, 15: 0.45, 20: 0.6}),
        ("ShearY", {0: 0, 10: 0.3, 15: 0.45, 20: 0.6}),
        ("TranslateX", {0: 0, 10: 100, 15: 150, 20: 200}),
        ("TranslateY", {0: 0, 10: 100, 15: 150, 20: 200}),
        ("Color", {0: 0.1, 5: 1.0, 10: 1.9, 15: 2.8, 20: 3.7}),
        ("Contrast", {0: 0.1, 5: 1.0, 10: 1.9, 15: 2.8, 20: 3.7}),
        ("Brightness", {0: 0.1, 5: 1.0, 10: 1.9, 15: 2.8, 20: 3.7}),
        ("Sharpness", {0: 0.1, 5: 1.0, 10: 1.9, 15: 2.8, 20: 3.7}),
        (
            "Posterize",
            {0: 1, 2.5: 1, 5: 2, 9: 3, 10: 4, 15: 6, 20: 8, 22.5: 1, 30: 1},
        ),  # bits that are kept
        (
            "Solarize",
            {0: 0, 5: 128, 9: 230, 10: 0, 15: 128, 20: 0, 25: 128},
        ),  # int(m / 10 * 256) modulo 256
        ("SolarizeAdd", {0: 0, 5: 55, 10: 110, 15: 165, 20: 220}),
        ("Cutout", {0: 0, 10: 40, 15: 60, 20: 80}),  # half the side of the square
    ],
)
def test_magnitudes_are_big_vision_s(name, at):
    found = {magnitude: big_vision(name, magnitude).values[0] for magnitude in at}
    assert found == pytest.approx(at)


def test_operations_without_a_magnitude_have_no_numbers():
    for name in ("AutoContrast", "Equalize", "Invert"):
        assert big_vision(name, 15) == Step(name)


@pytest.mark.parametrize(
    "name", ["Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY"]
)
def test_a_sign_below_one_half_turns_the_direction_around(name):
    forward, backward = (
        np.array(big_vision(name, 15, sign=sign).values) for sign in (0.5, 0.5 - 2**-53)
    )
    np.testing.assert_array_equal(forward, -backward)
    assert forward[0] > 0


def test_pixels_scale_with_the_image_and_the_rest_does_not():
    for name in BIG_VISION:
        large = big_vision(name, 15)
        small = big_vision(name, 15, size=(32, 64))
        expected = {
            "TranslateX": 150 * 64 / 224,
            "TranslateY": 150 * 32 / 224,
            "Cutout": 8,
        }
        if name in expected:
            assert small.values[0] == pytest.approx(expected[name])
        else:
            assert large == small
    assert big_vision("Cutout", 15, size=(32, 64)).values[1:] == (16, 16)


# Pixels of big_vision's operations, against arrays


def blended(degenerate: np.ndarray, image: np.ndarray, factor: float) -> np.ndarray:
    """From the degenerate image to the real one and beyond, in float32, cut off towards
    zero: TensorFlow and Pillow.
    """
    degenerate = degenerate.astype(np.float32)
    image = image.astype(np.float32)
    return (
        (degenerate + np.float32(factor) * (image - degenerate))
        .clip(0, 255)
        .astype(np.uint8)
    )


def luma(image: np.ndarray) -> np.ndarray:
    return image @ np.array([0.299, 0.587, 0.114])


def smoothed(image: np.ndarray) -> np.ndarray:
    """The mean of 3 x 3 with a centre five times as heavy, unrounded; borders stay."""
    padded = np.pad(image.astype(np.float64), ((1, 1), (1, 1), (0, 0)))
    height, width = image.shape[:2]
    total = 4 * image.astype(np.float64)
    for row in range(3):
        for column in range(3):
            total += padded[row : row + height, column : column + width]
    result = image.astype(np.float64)
    result[1:-1, 1:-1] = total[1:-1, 1:-1] / 13
    return result


@pytest.mark.parametrize("factor", [0.1, 0.64, 1.0, 1.9, 2.8])
def test_enhancements(factor):
    """Exact where the degenerate image is; one level of it is |1 - factor| levels of
    the result.
    """
    image = picture()
    slack = math.ceil(abs(1 - factor))
    gray = np.repeat(luma(image)[..., None], 3, axis=2)
    np.testing.assert_array_equal(
        operated(image, "Brightness", factor),
        blended(np.zeros_like(image), image, factor),
    )
    for name, degenerate in {
        "Color": gray,
        "Contrast": np.full(image.shape, luma(image).mean()),
        "Sharpness": smoothed(image),
    }.items():
        difference = operated(image, name, factor).astype(int) - blended(
            degenerate, image, factor
        )
        assert np.abs(difference).max() <= slack, name
        if factor != 1.0:
            assert not np.array_equal(operated(image, name, factor), image)
    np.testing.assert_array_equal(
        operated(image, "Sharpness", factor)[0], blended(image[0], image[0], factor)
    )


@pytest.mark.parametrize("channels", [1, 3])
def test_point_operations(channels):
    image = picture(channels=channels)
    np.testing.assert_array_equal(operated(image, "Invert"), 255 - image)
    for bits in range(1, 9):
        np.testing.assert_array_equal(
            operated(image, "Posterize", bits), image >> (8 - bits) << (8 - bits)
        )
    for least in (0, 100, 127.5, 128, 255):
        expected = np.where(image < least, image, 255 - image)
        np.testing.assert_array_equal(operated(image, "Solarize", least), expected)
    for more in (0, 110, 165, 220):
        expected = np.where(image < 128, (image.astype(int) + more).clip(0, 255), image)
        np.testing.assert_array_equal(operated(image, "SolarizeAdd", more), expected)


def test_auto_contrast_stretches_each_channel():
    image = picture()
    low = image.min((0, 1)).astype(float)
    high = image.max((0, 1)).astype(float)
    difference = operated(image, "AutoContrast") - (
        (image - low) * 255 / (high - low)
    ).astype(int)
    assert np.abs(difference).max() <= 1
    flat = np.full((4, 4, 3), 77, np.uint8)
    np.testing.assert_array_equal(operated(flat, "AutoContrast"), flat)


def test_equalize_by_the_cumulated_histogram():
    image = picture(60, 60)
    for channel in range(3):
        values = image[..., channel]
        counts = np.bincount(values.ravel(), minlength=256)
        step = (counts.sum() - counts[counts > 0][-1]) // 255
        table = ((np.cumsum(counts) - counts + step // 2) // step).clip(0, 255)
        np.testing.assert_array_equal(
            operated(image, "Equalize")[..., channel], table[values]
        )


def sampled(image: np.ndarray, source) -> np.ndarray:
    """Nearest neighbours of `source(row, column)`, and gray where they are outside.

    Places are those of the centres of pixels.
    """
    height, width = image.shape[:2]
    result = np.full_like(image, 128)
    for row in range(height):
        for column in range(width):
            y, x = (math.floor(place + 0.5) for place in source(row, column))
            if 0 <= y < height and 0 <= x < width:
                result[row, column] = image[y, x]
    return result


# Far from ties, where TensorFlow and Pillow may differ.
@pytest.mark.parametrize("level", [0.23, -0.451])
@pytest.mark.parametrize("channels", [1, 3])
def test_shears_leave_the_first_line_in_place(level, channels):
    image = picture(channels=channels)
    expected = sampled(image, lambda row, column: (row, column + level * row))
    result = operated(image, "ShearX", level, -level / 2)
    np.testing.assert_array_equal(result, expected)
    expected = sampled(image, lambda row, column: (row + level * column, column))
    result = operated(image, "ShearY", level, -level / 2)
    np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("sign", [0.2, 0.7])
def test_shears_of_the_policy_do_too(sign):
    for name in ("ShearX", "ShearY"):
        level, shift = big_vision(name, 15, sign=sign).values
        assert shift == -level / 2


@pytest.mark.parametrize("pixels", [3, -5, 40, 0])
def test_translations_move_right_and_down(pixels):
    image = picture()
    right = sampled(image, lambda row, column: (row, column - pixels))
    np.testing.assert_array_equal(operated(image, "TranslateX", pixels), right)
    down = sampled(image, lambda row, column: (row - pixels, column))
    np.testing.assert_array_equal(operated(image, "TranslateY", pixels), down)


def test_rotations():
    square = picture(12, 12)
    for degrees, turns in ((90, 1), (-90, -1), (180, 2)):
        np.testing.assert_array_equal(
            operated(square, "Rotate", degrees), np.rot90(square, turns)
        )
    image = picture()
    cos = math.cos(math.radians(33))
    sin = math.sin(math.radians(33))

    def source(row, column):
        y = row - 9
        x = column - 12.5
        return 9 + sin * x + cos * y, 12.5 + cos * x - sin * y

    different = operated(image, "Rotate", 33) != sampled(image, source)
    assert different.any(axis=2).mean() < 0.005


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("place", "rows", "columns"),
    [
        ((9, 13), (5, 13), (9, 17)),
        ((0, 0), (0, 4), (0, 4)),
        ((18, 25), (14, 19), (21, 26)),
        ((2, 25), (0, 6), (21, 26)),
    ],
)
def test_cutout_is_a_square_about_its_place(place, rows, columns, channels):
    image = picture(channels=channels)
    expected = image.copy()
    expected[rows[0] : rows[1], columns[0] : columns[1]] = 128
    np.testing.assert_array_equal(operated(image, "Cutout", 4, *place), expected)
    np.testing.assert_array_equal(operated(image, "Cutout", 0, *place), image)


def test_operations_leave_their_picture_as_it_was():
    image = picture()
    pillow = Image.new("RGB", (26, 19))
    pillow.paste(Image.fromarray(image))
    for name in BIG_VISION:
        operate(pillow, big_vision(name, 15, size=(19, 26)))
        np.testing.assert_array_equal(pillow, image)


def test_what_moves_in_is_gray_with_big_vision_and_black_with_torchvision():
    image = np.full((20, 20, 3), 255, np.uint8)
    number = BIG_VISION.index("TranslateX")
    draws = np.array([(number + 0.5) / 16, 0.7, 0, 0])
    gray = apply_policy(image, draws, "randaugment_bv", layers=1, magnitude=10)
    assert set(np.unique(gray)) == {128, 255}
    seen = set()
    for draw in np.linspace(0, ALMOST_ONE, 60):
        # At magnitude 0 only translations, shears and turns of nothing are left.
        moved = apply_policy(image, np.array([draw]), "randaugment", 1, 5)
        seen |= set(np.unique(moved[:, [0, -1]]))
    assert 0 in seen
    assert 128 not in seen
