"""Augmentation against loops, torchvision's functions, and its own promises."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms.v2 import InterpolationMode, RandomErasing
from torchvision.transforms.v2 import functional as tv

from mlp_mixer.errors import UserError
from mlp_mixer.images.augment import (
    DRAWS,
    _crop_box,
    _erased_box,
    augment_batch,
    draws_needed,
    inception_crop,
)
from mlp_mixer.images.decode import Part, Pixels
from mlp_mixer.images.policies import SLOT, apply_policy
from mlp_mixer.images.settings import Augment

# Which of a sample's numbers does what.
POSITION = slice(20, 22)
PAD = slice(24, 26)
ROTATE = 26
SCALE = 27
SHIFT_X = 28
SHIFT_Y = 29
FLIP = 30
ERASE = 32
ERASE_BOX = slice(33, 55)
NOISE = 55
POLICY = 56

MOVED = Augment(shift=0.1, rotate=20, scale=0.2)
EVERYTHING = dataclasses.replace(MOVED, crop="pad", pad=2, flip=True)
AND_MORE = dataclasses.replace(EVERYTHING, policy="randaugment_bv", erase=0.5)
ALL_DRAWS = 56 + 4 * 2


def random_images(
    batch: int = 5, channels: int = 3, height: int = 9, width: int = 7
) -> Tensor:
    shape = (batch, channels, height, width)
    generator = torch.Generator().manual_seed(math.prod(shape))
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def random_draws(batch: int = 5, seed: int = 0) -> Tensor:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.random((batch, ALL_DRAWS)))


def middle(batch: int = 5) -> Tensor:
    """Draws that leave an image where it is: no rotation, scale or shift, and no flip."""
    return torch.full((batch, DRAWS), 0.5, dtype=torch.float64)


# Everything at once


NOTHING = [Augment(), Augment(crop="pad", pad=0), EVERYTHING]


@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("augment", NOTHING)
def test_nothing_to_do_is_bit_identical(channels, augment):
    images = random_images(channels=channels)
    assert torch.equal(augment_batch(images, middle(), augment), images)


@pytest.mark.parametrize(
    ("channels", "augment"),
    [(1, EVERYTHING), (5, EVERYTHING), (1, AND_MORE), (3, AND_MORE)],
)
def test_same_draws_same_bytes_whatever_the_company(channels, augment):
    images = random_images(channels=channels)
    draws = random_draws()
    before = images.clone(), draws.clone()
    whole = augment_batch(images, draws, augment)
    assert (whole.dtype, whole.shape) == (torch.uint8, images.shape)
    assert whole.is_contiguous()
    assert torch.equal(whole, augment_batch(images, draws, augment))
    for image, own, result in zip(images, draws, whole, strict=True):
        alone = augment_batch(image[None], own[None], augment)
        assert torch.equal(result, alone[0])
    others = augment_batch(images, random_draws(seed=1), augment)
    assert not torch.equal(whole, others)
    assert torch.equal(images, before[0])
    assert torch.equal(draws, before[1])


def test_order_is_crop_affine_flip_policy_erasing():
    images = random_images()
    draws = random_draws()
    expected = images
    for step in (
        Augment(crop="pad", pad=2),
        dataclasses.replace(EVERYTHING, crop="none", flip=False),
        Augment(flip=True),
        Augment(policy="randaugment_bv"),
        Augment(erase=0.5),
    ):
        expected = augment_batch(expected, draws, step)
    assert torch.equal(augment_batch(images, draws, AND_MORE), expected)


def test_draws_grow_only_when_needed():
    for augment in (Augment(), EVERYTHING, Augment(crop="inception")):
        assert draws_needed(augment) == DRAWS == 32
    assert draws_needed(Augment(erase=0.1)) == 56
    for erase in (0.0, 0.1):
        augment = Augment(policy="randaugment_bv", policy_layers=3, erase=erase)
        assert draws_needed(augment) == 56 + 3 * SLOT
        for policy in ("randaugment", "autoaugment_svhn", "trivialaugment"):
            augment = Augment(policy=policy, policy_layers=3, erase=erase)
            assert draws_needed(augment) == 56 + 1


def test_only_the_draws_that_are_asked_for_are_read():
    """Numbers beyond those needed, and those of what is off, may be NaN."""
    images = random_images()
    for augment in (
        EVERYTHING,
        AND_MORE,
        Augment(erase=0.5),
        Augment(policy="trivialaugment"),
    ):
        draws = random_draws()
        expected = augment_batch(images, draws, augment)
        needed = draws_needed(augment)
        draws[:, needed:] = torch.nan
        draws[:, :24] = torch.nan  # of the inception crop
        if not augment.erase:
            draws[:, ERASE:POLICY] = torch.nan
        assert torch.equal(augment_batch(images, draws, augment), expected)
        fewer = draws[:, :needed]
        assert torch.equal(augment_batch(images, fewer, augment), expected)


@pytest.mark.parametrize("augment", [EVERYTHING, AND_MORE])
def test_every_new_tensor_is_made_where_the_images_are(augment):
    """What is made without naming a device would come out on this default one.

    Mixing devices raises.
    """
    images = random_images()
    draws = random_draws()
    expected = augment_batch(images, draws, augment)
    with torch.device("meta"):
        assert torch.equal(augment_batch(images, draws, augment), expected)


# Policies


@pytest.mark.parametrize(
    "policy", ["randaugment_bv", "randaugment", "autoaugment_cifar10", "trivialaugment"]
)
@pytest.mark.parametrize("channels", [1, 3])
def test_policies_act_on_each_image_with_its_own_draws(policy, channels):
    images = random_images(20, channels)
    draws = random_draws(20)
    augment = Augment(policy=policy, policy_magnitude=15)
    changed = augment_batch(images, draws, augment)
    own_draws = draws[:, POLICY:].numpy()
    for image, own, result in zip(images, own_draws, changed, strict=True):
        picture = image.permute(1, 2, 0).numpy()
        expected = apply_policy(picture, own, policy, 2, 15)
        np.testing.assert_array_equal(result.permute(1, 2, 0), expected)
    assert not torch.equal(changed, images)


def test_layers_and_magnitude_arrive():
    images = random_images(20)
    draws = random_draws(20)

    def result(**fields: float) -> Tensor:
        augment = Augment(policy="randaugment_bv", **fields)
        return augment_batch(images, draws, augment)

    default = result()
    assert torch.equal(result(policy_layers=2, policy_magnitude=10), default)
    assert not torch.equal(result(policy_layers=1), default)
    assert not torch.equal(result(policy_magnitude=10.5), default)


# Erasing


def erasing(batch: int = 5, size: tuple[int, int] = (30, 20)) -> tuple[Tensor, Tensor]:
    """White images, and draws that erase them all."""
    draws = random_draws(batch)
    draws[:, ERASE] = 0.0
    return torch.full((batch, 3, *size), 255, dtype=torch.uint8), draws


JUST_BELOW_A_QUARTER = 0.25 - 2**-54


def test_exactly_those_below_the_probability_are_erased():
    images, draws = erasing()
    own = [0.0, 0.1, JUST_BELOW_A_QUARTER, 0.25, 1 - 2**-53]
    draws[:, ERASE] = torch.tensor(own, dtype=torch.float64)
    erased = augment_batch(images, draws, Augment(erase=0.25, erase_value="zero"))
    changed = (erased != images).flatten(1).any(dim=1)
    assert changed.tolist() == [True, True, True, False, False]
    always = augment_batch(images, draws, Augment(erase=1.0))
    assert not torch.equal(always[4], images[4])
    never = augment_batch(images, draws, Augment(erase=0.0))
    assert torch.equal(never, images)


def test_a_rectangle_and_nothing_else_becomes_black():
    images, draws = erasing(40)
    erased = augment_batch(images, draws, Augment(erase=1.0, erase_value="zero"))
    for image, own in zip(erased, draws.numpy(), strict=True):
        top, left, height, width = _erased_box(30, 20, own[ERASE_BOX])
        expected = torch.full_like(image, 255)
        expected[:, top : top + height, left : left + width] = 0
        assert torch.equal(image, expected)


def test_a_rectangle_of_the_mean_is_zero_for_the_network():
    images, draws = erasing()
    mean = (0.485, 0.456, 0.406)
    augment = Augment(erase=1.0, erase_value="mean")
    erased = augment_batch(images, draws, augment, mean=mean, std=(1, 1, 1))
    for channel, value in enumerate(mean):
        pixels = erased[:, channel]
        hidden = pixels[pixels != 255]
        assert set(hidden.tolist()) == {round(255 * value)}


def test_noise_has_the_data_s_mean_and_deviation_and_belongs_to_the_sample():
    images, draws = erasing(8, (200, 200))
    draws[:, ERASE_BOX] = 0.5
    augment = Augment(erase=1.0)
    assert augment.erase_value == "random"
    mean = (0.4, 0.5, 0.6)
    std = (0.05, 0.1, 0.15)
    erased = augment_batch(images, draws, augment, mean=mean, std=std)
    box = _erased_box(200, 200, draws[0, ERASE_BOX].numpy())
    noise = inside(erased, box)
    assert noise[0].numel() > 3 * 5000
    close = {"rtol": 0, "atol": 0.003}
    of_channels = (0, 2, 3)
    torch.testing.assert_close(noise.mean(of_channels), double(mean), **close)
    torch.testing.assert_close(noise.std(of_channels), double(std), **close)
    # Of images, channels and their pairs.
    correlations = torch.corrcoef(noise.reshape(24, -1)).fill_diagonal_(0)
    assert correlations.abs().max() < 0.08
    draws[1, NOISE] = draws[0, NOISE]
    again = augment_batch(images, draws, augment, mean=mean, std=std)
    assert torch.equal(again[0], again[1])
    assert torch.equal(again[0], erased[0])


def test_noise_is_half_gray_where_nothing_is_known_of_the_data():
    images, draws = erasing(1, (200, 200))
    draws[:, ERASE_BOX] = 0.5
    erased = augment_batch(images, draws, Augment(erase=1.0))
    noise = inside(erased, _erased_box(200, 200, draws[0, ERASE_BOX].numpy()))
    assert noise.mean().item() == pytest.approx(0.5, abs=0.01)


def inside(images: Tensor, box: tuple[int, int, int, int]) -> Tensor:
    """The pixels in a box, in [0, 1]."""
    top, left, height, width = box
    return images[:, :, top : top + height, left : left + width].double() / 255


def double(values: tuple[float, ...]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_erased_boxes_are_torchvision_s(monkeypatch):
    """Its own procedure with our numbers: the same box, and none where it finds none."""

    class Fed:
        def uniform_(self, low, high):
            low = float(low)
            self.value = low + queue.pop(0) * (float(high) - low)
            return self

        def item(self):
            return self.value

    def empty(*shape):
        return Fed()

    def exp(value):
        return torch.tensor(math.exp(value.value), dtype=torch.float64)

    def randint(low, high, size):
        return torch.tensor(int(position.pop(0) * high))

    module = "torchvision.transforms.v2._augment.torch"
    monkeypatch.setattr(f"{module}.exp", exp)
    monkeypatch.setattr(f"{module}.empty", empty)
    monkeypatch.setattr(f"{module}.randint", randint)
    transform = RandomErasing(p=1.0)
    fits = set()
    for shape in [(30, 20), (224, 224), (4, 4), (2, 60), (1, 9)]:
        for own in random_draws(30).numpy():
            queue = own[33:53].tolist()
            position = own[53:55].tolist()
            params = transform.make_params([torch.zeros(3, *shape)])
            expected = None
            if params["v"] is not None:
                expected = tuple(params[key] for key in "ijhw")
            box = _erased_box(*shape, own[ERASE_BOX])
            assert box == expected
            fits.add(box is not None)
    assert fits == {True, False}


unit = st.floats(0, 1, exclude_max=True)
sides = st.integers(1, 300)
draws_of_a_box = st.lists(unit, min_size=22, max_size=22)


@settings(max_examples=200, deadline=None)
@given(sides, sides, draws_of_a_box)
def test_erased_boxes_are_inside_and_smaller_than_the_image(height, width, draws):
    box = _erased_box(height, width, np.array(draws))
    if box is not None:
        top, left, box_height, box_width = box
        assert 0 <= top <= top + box_height <= height
        assert 0 <= left <= left + box_width <= width
        assert box_height < height
        assert box_width < width


def test_erased_area_is_2_to_33_percent():
    draws = random_draws(2000)[:, ERASE_BOX].numpy()
    boxes = np.array([_erased_box(1000, 1000, own) for own in draws])
    _, _, height, width = boxes.T
    area = height * width / 1e6
    ratio = height / width
    assert 0.0195 < area.min() < 0.022
    assert 0.325 < area.max() < 0.3305
    assert 0.299 < ratio.min() < 0.305
    assert 3.2 < ratio.max() < 3.305
    assert abs(area.mean() - 0.175) < 0.006


def test_images_too_small_to_erase_stay():
    images, draws = erasing(5, (1, 1))
    erased = augment_batch(images, draws, Augment(erase=1.0))
    assert torch.equal(erased, images)


# Flip and padded crop


def test_flip_exactly_those_below_one_half():
    images = random_images()
    draws = middle()
    own = [0.0, 0.25, 0.5 - 2**-53, 0.5, 1 - 2**-53]
    draws[:, FLIP] = torch.tensor(own, dtype=torch.float64)
    flipped = augment_batch(images, draws, Augment(flip=True))
    assert torch.equal(flipped[:3], images[:3].flip(3))
    assert torch.equal(flipped[3:], images[3:])


@pytest.mark.parametrize("pad", [1, 4, 20])
@pytest.mark.parametrize("channels", [1, 3])
def test_pad_crop_equals_a_loop(pad, channels):
    images = random_images(40, channels)
    draws = random_draws(40)
    # The extreme corners.
    draws[0, PAD] = 0.0
    draws[1, PAD] = 1 - 2**-53
    places = 2 * pad + 1
    offsets = (draws[:, PAD] * places).long().tolist()
    assert offsets[0] == [0, 0]
    assert offsets[1] == [2 * pad, 2 * pad]
    expected = torch.zeros_like(images)
    pixels = list(itertools.product(range(9), range(7)))
    for image, result, (down, right) in zip(images, expected, offsets, strict=True):
        for row, column in pixels:
            source = (row + down - pad, column + right - pad)
            if source in pixels:
                result[:, row, column] = image[:, source[0], source[1]]
    cropped = augment_batch(images, draws, Augment(crop="pad", pad=pad))
    assert torch.equal(cropped, expected)


# Affine map


@pytest.mark.parametrize(
    ("column", "draw", "rows", "columns"),
    [
        (SHIFT_X, 1.0, 0, 2),
        (SHIFT_X, 0.0, 0, -2),
        (SHIFT_X, 0.75, 0, 1),
        (SHIFT_Y, 1.0, 3, 0),
        (SHIFT_Y, 0.0, -3, 0),
    ],
)
def test_shift_by_whole_pixels_is_exact(column, draw, rows, columns):
    """A share of 1/4 of 12 rows and 8 columns; black moves in.

    That is at most 3 pixels down or up, 2 left or right.
    """
    images = random_images(height=12, width=8)
    draws = middle()
    draws[:, column] = draw
    moved = augment_batch(images, draws, Augment(shift=0.25))
    padded = torch.nn.functional.pad(images, (4, 4, 4, 4))
    expected = padded[:, :, 4 + rows :, 4 + columns :][:, :, :12, :8]
    assert torch.equal(moved, expected)


TURNS = [(1.0, 1), (0.0, -1)]


@pytest.mark.parametrize(("draw", "turns"), TURNS)
def test_quarter_turn_of_a_square_is_exact(draw, turns):
    images = random_images(height=8, width=8)
    draws = middle()
    draws[:, ROTATE] = draw
    quarter = augment_batch(images, draws, Augment(rotate=90))
    assert torch.equal(quarter, images.rot90(turns, (2, 3)))
    half = augment_batch(images, draws, Augment(rotate=180))
    assert torch.equal(half, images.rot90(2, (2, 3)))


def test_rectangles_turn_without_being_sheared():
    """A quarter turn of 4 x 8 pixels: the central square turns.

    What came from above and below is black.
    """
    images = random_images(height=4, width=8)
    draws = middle()
    draws[:, ROTATE] = 1.0
    turned = augment_batch(images, draws, Augment(rotate=90))
    square = images[..., 2:6]
    assert torch.equal(turned[..., 2:6], square.rot90(1, (2, 3)))
    assert not turned[..., :2].any()
    assert not turned[..., 6:].any()


SCALED = [(1.0, 12), (0.5, 8), (0.0, 4)]


@pytest.mark.parametrize(("draw", "side"), SCALED)
def test_scale_is_the_relative_size_of_things(draw, side):
    images = torch.zeros(1, 1, 32, 32, dtype=torch.uint8)
    draws = middle(1)
    images[..., 12:20, 12:20] = 255
    draws[:, SCALE] = draw
    scaled = augment_batch(images, draws, Augment(scale=0.5))
    bright = scaled >= 128
    assert bright.sum().item() == side**2
    middle_part = slice(16 - side // 2, 16 + side // 2)
    assert bright[..., middle_part, middle_part].all()


# Inception crop


def reader(image: Tensor) -> Callable[[Part], Pixels]:
    """How to read parts of an image (C, H, W)."""
    pixels = image.permute(1, 2, 0).numpy()
    return lambda part: part.of(pixels)


SHAPES = [(40, 61), (17, 9), (100, 100)]


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("shape", SHAPES)
def test_inception_crop_equals_torchvision_on_the_same_box(
    interpolation, channels, shape
):
    image = random_images(1, channels, *shape)[0]
    augment = Augment(crop="inception", interpolation=interpolation)
    for draws in random_draws(5).numpy():
        box = _crop_box(*shape, draws, augment)
        mode = InterpolationMode(interpolation)
        expected = tv.resized_crop(
            image, *box, size=[24, 20], interpolation=mode, antialias=True
        )
        actual = inception_crop(reader(image), draws, (24, 20), augment)
        assert actual.dtype == torch.uint8
        assert actual.shape == (channels, 24, 20)
        difference = actual.int() - expected.int()
        assert difference.abs().max() <= 1


def test_whole_image_at_its_own_size_is_untouched():
    image = random_images(1, 3, 16, 16)[0]
    augment = Augment(crop="inception", area=(1, 1), ratio=(1, 1))
    draws = random_draws(1)[0].numpy()
    crop = inception_crop(reader(image), draws, (16, 16), augment)
    assert torch.equal(crop, image)


@pytest.mark.parametrize("scaled", [True, False])
def test_a_coarser_decode_is_asked_for_if_allowed(scaled):
    image = random_images(1, 3, 40, 61)[0]
    asked = []

    def read(part: Part) -> Pixels:
        asked.append(part.size)
        return reader(image)(part)

    augment = Augment(crop="inception", scaled_decode=scaled)
    inception_crop(read, random_draws(1)[0].numpy(), (16, 12), augment)
    assert asked == [(16, 12) if scaled else None]


def intervals(low: float, high: float) -> st.SearchStrategy[tuple[float, ...]]:
    """Two numbers, the smaller first."""
    ends = st.tuples(st.floats(low, high), st.floats(low, high))
    return ends.map(sorted).map(tuple)


@settings(max_examples=300, deadline=None)
@given(sides, sides, draws_of_a_box, intervals(1e-6, 1), intervals(0.01, 100))
def test_box_is_never_empty_and_always_inside(height, width, draws, area, ratio):
    augment = Augment(crop="inception", area=area, ratio=ratio)
    box = _crop_box(height, width, np.array(draws), augment)
    top, left, crop_height, crop_width = box
    assert 0 <= top < top + crop_height <= height
    assert 0 <= left < left + crop_width <= width


def test_boxes_have_the_asked_area_and_ratio_and_reach_every_corner():
    """On a large square nearly every try fits, so that the first two draws decide."""
    augment = Augment(crop="inception", area=(0.1, 0.5), ratio=(0.5, 2))
    draws = random_draws(2000).numpy()
    boxes = np.array([_crop_box(1000, 1000, own, augment) for own in draws])
    top, left, height, width = boxes.T
    area = height * width / 1e6
    ratio = np.log2(width / height)
    np.testing.assert_allclose(area, 0.1 + draws[:, 0] * 0.4, rtol=0.01)
    np.testing.assert_allclose(ratio, 2 * draws[:, 1] - 1, atol=0.01)
    row_draw, column_draw = draws[:, POSITION].T
    np.testing.assert_allclose(top, row_draw * (1001 - height), atol=1)
    np.testing.assert_allclose(left, column_draw * (1001 - width), atol=1)
    draws[:, POSITION] = 1 - 2**-53
    for own in draws:
        top, left, height, width = _crop_box(1000, 1000, own, augment)
        assert top + height == left + width == 1000


def test_next_try_if_one_does_not_fit():
    """A try of the whole area at ratio 2 cannot fit a square.

    The tenth, of a quarter at ratio 1, does.
    """
    augment = Augment(crop="inception", area=(0.25, 1.0), ratio=(1, 2))
    draws = np.full(22, 1 - 2**-53)
    draws[18:] = [0.0, 0.0, 0.0, 0.5]
    assert _crop_box(100, 100, draws, augment) == (0, 25, 50, 50)


NO_TRY_FITS = [(10, 1000), (1000, 10), (1, 7), (7, 1), (1, 1), (50, 50), (30, 33)]


@pytest.mark.parametrize("shape", NO_TRY_FITS, ids=str)
def test_fallback_is_torchvision_s(shape):
    ratio = (0.75, 0.8) if shape == (30, 33) else (0.75, 4 / 3)
    augment = Augment(crop="inception", area=(1, 1), ratio=ratio)
    # The whole area at the largest ratio.
    draws = np.tile([0.5, 1 - 2**-53], 11)
    image = torch.zeros(1, *shape)
    expected = RandomResizedCrop.get_params(image, [50.0, 50.0], list(ratio))
    assert _crop_box(*shape, draws, augment) == tuple(map(int, expected))


# Refusals


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"area": (0.0, 1.0)}, "augment.area must be two shares .* got 0.0, 1.0"),
        ({"area": (0.5, 1.1)}, "augment.area .* got 0.5, 1.1"),
        ({"area": (0.5, 0.4)}, "augment.area"),
        ({"area": (float("nan"), 1.0)}, "augment.area"),
        ({"ratio": (0.0, 1.0)}, "augment.ratio must be 0 < low <= high, got 0.0, 1.0"),
        ({"ratio": (2.0, 1.0)}, "augment.ratio"),
        ({"pad": -1}, "augment.pad must not be negative, got -1"),
        ({"shift": -0.1}, "augment.shift must not be negative"),
        ({"rotate": -1.0}, "augment.rotate must not be negative"),
        ({"scale": -0.1}, "augment.scale must not be negative"),
        ({"scale": 1.0}, "augment.scale must"),
        (
            {"policy": "randaugment-bv"},
            "unknown augment.policy 'randaugment-bv'; did you mean 'randaugment_bv'",
        ),
        (
            {"erase_value": "grey"},
            "unknown augment.erase_value 'grey'; known are mean, random, zero",
        ),
        ({"policy_layers": 0}, "augment.policy_layers must be at least 1, got 0"),
        (
            {"policy_magnitude": -1.0},
            "augment.policy_magnitude must be 0 to 30, got -1.0",
        ),
        (
            {"policy_magnitude": 30.5},
            "augment.policy_magnitude must be 0 to 30, got 30.5",
        ),
        (
            {"policy_magnitude": float("nan")},
            "augment.policy_magnitude must be 0 to 30, got nan",
        ),
        (
            {"policy": "randaugment_timm", "policy_magnitude": 10.5},
            "augment.policy_magnitude must be 0 to 10 for randaugment_timm, got 10.5",
        ),
        (
            {"policy": "randaugment", "policy_magnitude": 7.5},
            "augment.policy_magnitude must be a whole number .* 7.5",
        ),
        ({"erase": 1.1}, "augment.erase must be a probability from 0 to 1, got 1.1"),
        ({"erase": -0.1}, "augment.erase must be a probability"),
    ],
)
def test_senseless_fields_are_refused(fields, message):
    with pytest.raises(UserError, match=message):
        Augment(**fields)
