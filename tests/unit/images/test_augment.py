import dataclasses
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

EVERYTHING = Augment(crop="pad", pad=2, shift=0.1, rotate=20, scale=0.2, flip=True)
AND_MORE = dataclasses.replace(EVERYTHING, policy="randaugment_bv", erase=0.5)
ALL_DRAWS = 56 + 4 * 2


def random_images(
    batch: int = 5, channels: int = 3, height: int = 9, width: int = 7
) -> Tensor:
    generator = torch.Generator().manual_seed(batch * channels * height * width)
    return torch.randint(
        0, 256, (batch, channels, height, width), dtype=torch.uint8, generator=generator
    )


def random_draws(batch: int = 5, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).random((batch, ALL_DRAWS)))


def middle(batch: int = 5) -> Tensor:
    """Draws that leave an image where it is: no rotation, scale or shift, and no flip."""
    return torch.full((batch, DRAWS), 0.5, dtype=torch.float64)


# Everything at once


@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("augment", [Augment(), Augment(crop="pad", pad=0), EVERYTHING])
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
    assert (whole.dtype, whole.shape, whole.is_contiguous()) == (
        torch.uint8,
        images.shape,
        True,
    )
    assert torch.equal(whole, augment_batch(images, draws, augment))
    alone = [
        augment_batch(images[i : i + 1], draws[i : i + 1], augment) for i in range(5)
    ]
    assert torch.equal(whole, torch.cat(alone))
    assert not torch.equal(whole, augment_batch(images, random_draws(seed=1), augment))
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
    """Numbers beyond those needed, and those of what is off, may be anything: here they
    are no numbers at all.
    """
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
        assert torch.equal(augment_batch(images, draws[:, :needed], augment), expected)


@pytest.mark.parametrize("augment", [EVERYTHING, AND_MORE])
def test_every_new_tensor_is_made_where_the_images_are(augment):
    """Whatever is made without naming a device would come out on this default one, and
    mixing devices raises.
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
    changed = augment_batch(images, draws, Augment(policy=policy, policy_magnitude=15))
    for image, own, result in zip(images, draws.numpy(), changed, strict=True):
        expected = apply_policy(
            image.permute(1, 2, 0).numpy(), own[POLICY:], policy, 2, 15
        )
        np.testing.assert_array_equal(result.permute(1, 2, 0).numpy(), expected)
    assert not torch.equal(changed, images)


def test_layers_and_magnitude_arrive():
    images = random_images(20)
    draws = random_draws(20)
    results = [
        augment_batch(
            images,
            draws,
            Augment(
                policy="randaugment_bv",
                policy_layers=layers,
                policy_magnitude=magnitude,
            ),
        )
        for layers, magnitude in ((2, 10), (1, 10), (2, 10.5))
    ]
    assert torch.equal(
        results[0], augment_batch(images, draws, Augment(policy="randaugment_bv"))
    )
    assert not torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


# Erasing


def erasing(batch: int = 5, height: int = 30, width: int = 20) -> tuple[Tensor, Tensor]:
    """White images, and draws that erase them all."""
    draws = random_draws(batch)
    draws[:, ERASE] = 0.0
    return torch.full((batch, 3, height, width), 255, dtype=torch.uint8), draws


def test_exactly_those_below_the_probability_are_erased():
    images, draws = erasing()
    draws[:, ERASE] = torch.tensor(
        [0.0, 0.1, 0.25 - 2**-54, 0.25, 1 - 2**-53], dtype=torch.float64
    )
    erased = augment_batch(images, draws, Augment(erase=0.25, erase_value="zero"))
    assert (erased != images).flatten(1).any(1).tolist() == [
        True,
        True,
        True,
        False,
        False,
    ]
    assert not torch.equal(
        augment_batch(images, draws, Augment(erase=1.0))[4], images[4]
    )
    assert torch.equal(augment_batch(images, draws, Augment(erase=0.0)), images)


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
    erased = augment_batch(
        images, draws, Augment(erase=1.0, erase_value="mean"), mean=mean, std=(1, 1, 1)
    )
    hidden = erased != 255
    assert hidden.any()
    for channel in range(3):
        assert set(erased[:, channel][hidden[:, channel]].tolist()) == {
            round(255 * mean[channel])
        }


def test_noise_has_the_data_s_mean_and_deviation_and_belongs_to_the_sample():
    images, draws = erasing(8, 200, 200)
    draws[:, ERASE_BOX] = 0.5
    augment = Augment(erase=1.0)
    assert augment.erase_value == "random"
    mean = (0.4, 0.5, 0.6)
    std = (0.05, 0.1, 0.15)
    erased = augment_batch(images, draws, augment, mean=mean, std=std)
    top, left, height, width = _erased_box(200, 200, draws[0, ERASE_BOX].numpy())
    noise = erased[:, :, top : top + height, left : left + width].double() / 255
    assert noise[0].numel() > 3 * 5000
    torch.testing.assert_close(
        noise.mean((0, 2, 3)), torch.tensor(mean).double(), atol=0.003, rtol=0
    )
    torch.testing.assert_close(
        noise.std((0, 2, 3)), torch.tensor(std).double(), atol=0.003, rtol=0
    )
    flat = noise.reshape(24, -1)
    assert (
        torch.corrcoef(flat).fill_diagonal_(0).abs().max() < 0.08
    )  # of images, channels and their pairs
    draws[1, NOISE] = draws[0, NOISE]
    again = augment_batch(images, draws, augment, mean=mean, std=std)
    assert torch.equal(again[0], again[1])
    assert torch.equal(again[0], erased[0])
    one = augment_batch(
        images, draws, augment
    )  # half grey and half its range, where nothing is known of the data
    assert (
        abs(
            one[0, :, top : top + height, left : left + width].double().mean().item()
            / 255
            - 0.5
        )
        < 0.01
    )


def test_erased_boxes_are_torchvision_s(monkeypatch):
    """Its own procedure with our numbers: the same box, and none where it finds none."""

    class Fed:
        def uniform_(self, low, high):
            self.value = float(low) + queue.pop(0) * (float(high) - float(low))
            return self

        def item(self):
            return self.value

    def exp(value):
        return torch.tensor(math.exp(value.value), dtype=torch.float64)

    transform = RandomErasing(p=1.0)
    fits = set()
    monkeypatch.setattr("torchvision.transforms.v2._augment.torch.exp", exp)
    monkeypatch.setattr(
        "torchvision.transforms.v2._augment.torch.empty", lambda *shape: Fed()
    )
    monkeypatch.setattr(
        "torchvision.transforms.v2._augment.torch.randint",
        lambda low, high, size: torch.tensor(int(position.pop(0) * high)),
    )
    for shape in ((30, 20), (224, 224), (4, 4), (2, 60), (1, 9)):
        for own in random_draws(30).numpy():
            queue = own[33:53].tolist()
            position = own[53:55].tolist()
            params = transform.make_params([torch.zeros(3, *shape)])
            box = _erased_box(*shape, own[ERASE_BOX])
            fits.add(box is not None)
            assert box == (
                tuple(params[key] for key in "ijhw")
                if params["v"] is not None
                else None
            )
    assert fits == {True, False}


@settings(max_examples=200, deadline=None)
@given(
    st.integers(1, 300),
    st.integers(1, 300),
    st.lists(st.floats(0, 1, exclude_max=True), min_size=22, max_size=22),
)
def test_erased_boxes_are_inside_and_smaller_than_the_image(height, width, draws):
    box = _erased_box(height, width, np.array(draws))
    if box is not None:
        top, left, box_height, box_width = box
        assert 0 <= top <= top + box_height <= height
        assert 0 <= left <= left + box_width <= width
        assert box_height < height
        assert box_width < width


def test_erased_area_is_2_to_33_percent():
    boxes = np.array(
        [_erased_box(1000, 1000, own[ERASE_BOX]) for own in random_draws(2000).numpy()]
    )
    area = boxes[:, 2] * boxes[:, 3] / 1e6
    ratio = boxes[:, 2] / boxes[:, 3]
    assert 0.0195 < area.min() < 0.022
    assert 0.325 < area.max() < 0.3305
    assert 0.299 < ratio.min() < 0.305
    assert 3.2 < ratio.max() < 3.305
    assert abs(area.mean() - 0.175) < 0.006


def test_images_too_small_to_erase_stay():
    images, draws = erasing(5, 1, 1)
    assert torch.equal(augment_batch(images, draws, Augment(erase=1.0)), images)


# Flip and padded crop


def test_flip_exactly_those_below_one_half():
    images = random_images()
    draws = middle()
    draws[:, FLIP] = torch.tensor(
        [0.0, 0.25, 0.5 - 2**-53, 0.5, 1 - 2**-53], dtype=torch.float64
    )
    flipped = augment_batch(images, draws, Augment(flip=True))
    assert torch.equal(flipped[:3], torch.flip(images[:3], (3,)))
    assert torch.equal(flipped[3:], images[3:])


@pytest.mark.parametrize("pad", [1, 4, 20])
@pytest.mark.parametrize("channels", [1, 3])
def test_pad_crop_equals_a_loop(pad, channels):
    images = random_images(40, channels)
    draws = random_draws(40)
    draws[0, PAD], draws[1, PAD] = 0.0, 1 - 2**-53  # the extreme corners
    expected = torch.zeros_like(images)
    offsets = (draws[:, PAD] * (2 * pad + 1)).long().tolist()
    for number, (down, right) in enumerate(offsets):
        for row in range(9):
            for column in range(7):
                source_row = row + down - pad
                source_column = column + right - pad
                if 0 <= source_row < 9 and 0 <= source_column < 7:
                    expected[number, :, row, column] = images[
                        number, :, source_row, source_column
                    ]
    assert torch.equal(
        augment_batch(images, draws, Augment(crop="pad", pad=pad)), expected
    )
    assert offsets[0] == [0, 0]
    assert offsets[1] == [2 * pad, 2 * pad]


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
    """A share of 1/4 of 12 rows and 8 columns: at most 3 pixels down or up, 2 left or
    right; black moves in.
    """
    images = random_images(height=12, width=8)
    draws = middle()
    draws[:, column] = draw
    moved = augment_batch(images, draws, Augment(shift=0.25))
    padded = torch.nn.functional.pad(images, (4, 4, 4, 4))
    assert torch.equal(
        moved, padded[:, :, 4 + rows : 16 + rows, 4 + columns : 12 + columns]
    )


@pytest.mark.parametrize(("draw", "turns"), [(1.0, 1), (0.0, -1)])
def test_quarter_turn_of_a_square_is_exact(draw, turns):
    images = random_images(height=8, width=8)
    draws = middle()
    draws[:, ROTATE] = draw
    assert torch.equal(
        augment_batch(images, draws, Augment(rotate=90)),
        torch.rot90(images, turns, (2, 3)),
    )
    assert torch.equal(
        augment_batch(images, draws, Augment(rotate=180)),
        torch.rot90(images, 2, (2, 3)),
    )


def test_rectangles_turn_without_being_sheared():
    """A quarter turn of 4 x 8 pixels: the central square turns, and what came from
    above and below is black.
    """
    images = random_images(height=4, width=8)
    draws = middle()
    draws[:, ROTATE] = 1.0
    turned = augment_batch(images, draws, Augment(rotate=90))
    assert torch.equal(turned[..., 2:6], torch.rot90(images[..., 2:6], 1, (2, 3)))
    assert not turned[..., :2].any()
    assert not turned[..., 6:].any()


@pytest.mark.parametrize(("draw", "side"), [(1.0, 12), (0.5, 8), (0.0, 4)])
def test_scale_is_the_relative_size_of_things(draw, side):
    images = torch.zeros(1, 1, 32, 32, dtype=torch.uint8)
    draws = middle(1)
    images[..., 12:20, 12:20] = 255
    draws[:, SCALE] = draw
    scaled = augment_batch(images, draws, Augment(scale=0.5))
    assert (scaled >= 128).sum().item() == side**2
    assert (
        scaled[..., 16 - side // 2 : 16 + side // 2, 16 - side // 2 : 16 + side // 2]
        >= 128
    ).all()


# Inception crop


def reader(image: Tensor) -> Callable[[Part], Pixels]:
    """How to read parts of an image (C, H, W)."""
    return lambda part: part.of(image.permute(1, 2, 0).numpy())


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("shape", [(40, 61), (17, 9), (100, 100)])
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
        assert (actual.dtype, actual.shape) == (torch.uint8, (channels, 24, 20))
        assert (actual.int() - expected.int()).abs().max() <= 1


def test_whole_image_at_its_own_size_is_untouched():
    image = random_images(1, 3, 16, 16)[0]
    augment = Augment(crop="inception", area=(1, 1), ratio=(1, 1))
    assert torch.equal(
        inception_crop(reader(image), random_draws(1)[0].numpy(), (16, 16), augment),
        image,
    )


@pytest.mark.parametrize("scaled", [True, False])
def test_a_coarser_decode_is_asked_for_if_allowed(scaled):
    image = random_images(1, 3, 40, 61)[0]
    asked = []

    def read(part: Part) -> Pixels:
        asked.append(part.size)
        return reader(image)(part)

    inception_crop(
        read,
        random_draws(1)[0].numpy(),
        (16, 12),
        Augment(crop="inception", scaled_decode=scaled),
    )
    assert asked == [(16, 12) if scaled else None]


unit = st.floats(0, 1, exclude_max=True)
shares = st.tuples(st.floats(1e-6, 1), st.floats(1e-6, 1)).map(sorted).map(tuple)
ratios = st.tuples(st.floats(0.01, 100), st.floats(0.01, 100)).map(sorted).map(tuple)


@settings(max_examples=300, deadline=None)
@given(
    st.integers(1, 300),
    st.integers(1, 300),
    st.lists(unit, min_size=22, max_size=22),
    shares,
    ratios,
)
def test_box_is_never_empty_and_always_inside(height, width, draws, area, ratio):
    augment = Augment(crop="inception", area=area, ratio=ratio)
    top, left, crop_height, crop_width = _crop_box(
        height, width, np.array(draws), augment
    )
    assert 0 <= top < top + crop_height <= height
    assert 0 <= left < left + crop_width <= width


def test_boxes_have_the_asked_area_and_ratio_and_reach_every_corner():
    """On a large square nearly every try fits, so that the first two draws decide."""
    augment = Augment(crop="inception", area=(0.1, 0.5), ratio=(0.5, 2))
    draws = random_draws(2000).numpy()
    boxes = np.array([_crop_box(1000, 1000, own, augment) for own in draws])
    top, left, height, width = boxes.T
    area = height * width / 1e6
    ratio = width / height
    np.testing.assert_allclose(area, 0.1 + draws[:, 0] * 0.4, rtol=0.01)
    np.testing.assert_allclose(np.log2(ratio), 2 * draws[:, 1] - 1, atol=0.01)
    for start, side, draw in ((top, height, draws[:, 20]), (left, width, draws[:, 21])):
        np.testing.assert_allclose(start, draw * (1001 - side), atol=1)
    corners = draws.copy()
    corners[:, POSITION] = 1 - 2**-53
    ends = np.array(
        [
            np.add(*np.split(np.array(_crop_box(1000, 1000, own, augment)), 2))
            for own in corners
        ]
    )
    assert (ends == 1000).all()


def test_next_try_if_one_does_not_fit():
    """A try of the whole area at ratio 2 cannot fit a square; the tenth, of a quarter
    at ratio 1, does.
    """
    augment = Augment(crop="inception", area=(0.25, 1.0), ratio=(1, 2))
    draws = np.array([1 - 2**-53, 1 - 2**-53] * 9 + [0.0, 0.0] + [0.0, 0.5])
    assert _crop_box(100, 100, draws, augment) == (0, 25, 50, 50)


@pytest.mark.parametrize(
    "shape", [(10, 1000), (1000, 10), (1, 7), (7, 1), (1, 1), (50, 50), (30, 33)]
)
def test_fallback_is_torchvision_s(shape):
    augment = Augment(crop="inception", area=(1, 1), ratio=(0.75, 4 / 3))
    draws = np.tile(
        [0.5, 1 - 2**-53], 11
    )  # the whole area at ratio 4/3: fits none of these
    if shape == (30, 33):
        augment = dataclasses.replace(augment, ratio=(0.75, 0.8))
    expected = RandomResizedCrop.get_params(
        torch.zeros(1, *shape), [50.0, 50.0], list(augment.ratio)
    )
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
