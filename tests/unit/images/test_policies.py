import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import v2

from mlp_mixer.errors import UserError
from mlp_mixer.images import policies
from mlp_mixer.images.policies import (
    SLOT,
    SUB_POLICIES,
    Step,
    apply_policy,
    operate,
    plan,
    slots,
)

ALL = [
    "randaugment_bv",
    "randaugment",
    "autoaugment_cifar10",
    "autoaugment_imagenet",
    "autoaugment_svhn",
    "trivialaugment",
]
ALMOST_ONE = 1 - 2**-53
SIZES = [(32, 32), (19, 26), (224, 224), (5, 3), (1, 1)]


def picture(height: int = 19, width: int = 26, channels: int = 3) -> np.ndarray:
    """Noise over a slope, in [20, 219]: nothing stretches to the ends by accident."""
    rng = np.random.default_rng(height * width * channels)
    slope = np.linspace(20, 150, width)[None, :, None]
    return (slope + rng.integers(0, 70, (height, width, channels))).astype(np.uint8)


def to_pillow(image: np.ndarray) -> Image.Image:
    return Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)


def operated(image: np.ndarray, name: str, *values: float, fill: int = 0) -> np.ndarray:
    return np.asarray(operate(to_pillow(image), Step(name, values), fill)).reshape(
        image.shape
    )


def draws_of(policy: str, layers: int = 2, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(SLOT * slots(policy, layers))


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
        np.testing.assert_array_equal(
            first, apply_policy(image, np.append(draws, 0.7), policy, magnitude=9)
        )
        assert (draws == draws_of(policy, seed=seed)).all()
    assert (image == before).all()


def test_views_are_as_good_as_arrays():
    image = picture()
    turned = np.ascontiguousarray(image.transpose(2, 0, 1)).transpose(1, 2, 0)
    for policy in ALL:
        draws = draws_of(policy)
        np.testing.assert_array_equal(
            apply_policy(turned, draws, policy), apply_policy(image, draws, policy)
        )


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(ALL),
    st.lists(st.sampled_from([0.0, 0.5, ALMOST_ONE]), min_size=12, max_size=12),
)
def test_extreme_draws_are_legal(policy, draws):
    apply_policy(picture(7, 5), np.array(draws), policy, layers=3, magnitude=30)


def test_none_does_nothing():
    assert slots("none", 2) == 0
    assert plan("none", np.zeros(0), (8, 8)) == []
    image = picture()
    np.testing.assert_array_equal(apply_policy(image, np.zeros(0), "none"), image)


@pytest.mark.parametrize("policy", ALL)
def test_other_numbers_of_channels_are_refused(policy):
    with pytest.raises(
        UserError, match="images of 1 or 3 channels, got 5; set augment.policy=none"
    ):
        apply_policy(picture(channels=5), draws_of(policy), policy)


def test_slots_follow_the_policy():
    assert [slots(policy, 3) for policy in ALL] == [3, 3, 2, 2, 2, 1]


@pytest.mark.parametrize(
    ("policy", "operations"),
    [("randaugment_bv", 16), ("randaugment", 14), ("trivialaugment", 14)],
)
def test_every_operation_is_equally_likely(policy, operations):
    draws = np.full((operations * 10, SLOT), 0.5)
    draws[:, 0] = (np.arange(len(draws)) + 0.5) / len(draws)
    counts = Counter(plan(policy, own, (32, 32), layers=1)[0].name for own in draws)
    assert len(counts) == operations
    assert set(counts.values()) == {10}


@pytest.mark.parametrize("policy", ["randaugment_bv", "randaugment"])
def test_layers_follow_each_other_with_draws_of_their_own(policy):
    draws = draws_of(policy, layers=5)
    whole = plan(policy, draws, (32, 32), layers=5)
    assert whole == [
        plan(policy, own, (32, 32), layers=1)[0] for own in draws.reshape(5, SLOT)
    ]
    image = expected = picture()
    for start in range(0, 20, SLOT):
        expected = apply_policy(expected, draws[start : start + SLOT], policy, layers=1)
    np.testing.assert_array_equal(
        apply_policy(image, draws, policy, layers=5), expected
    )


# torchvision's policies, by its own tables and its own code on Pillow's images


def theirs(image: Image.Image, transform, name: str, magnitude: float) -> Image.Image:
    return transform._apply_image_or_video_transform(
        image, name, magnitude, transform.interpolation, transform._fill
    )


def magnitudes_of(
    transform, name: str, bins: int, size: tuple[int, int]
) -> tuple[list[float], bool]:
    function, signed = transform._AUGMENTATION_SPACE[name]
    values = function(bins, *size)
    return (
        [0.0] * bins if values is None else [float(value) for value in values]
    ), signed


FAMILIES = {
    "autoaugment_imagenet": (v2.AutoAugment(), 10, False),
    "randaugment": (v2.RandAugment(), 31, False),
    "trivialaugment": (v2.TrivialAugmentWide(), 31, True),
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(19, 26), (32, 32), (1, 1)])
def test_every_operation_at_every_magnitude_gives_torchvision_s_pixels(
    family, channels, size
):
    transform, bins, wide = FAMILIES[family]
    image = to_pillow(picture(*size, channels))
    for name in transform._AUGMENTATION_SPACE:
        magnitudes, signed = magnitudes_of(transform, name, bins, size)
        for number, magnitude in enumerate(magnitudes):
            for sign in (1, -1) if signed else (1,):
                step = policies._torchvision(name, number, bins, sign < 0, size, wide)
                ours = operate(image, step)
                expected = theirs(image, transform, name, sign * magnitude)
                assert np.array_equal(ours, expected), (name, number, sign)


@pytest.mark.parametrize("size", [(32, 32), (224, 224), (97, 331), (64, 48)])
def test_translations_and_other_whole_numbers_are_torchvision_s(size):
    for transform, bins, wide in FAMILIES.values():
        for name in ("TranslateX", "TranslateY", "Posterize"):
            magnitudes, _ = magnitudes_of(transform, name, bins, size)
            ours = [
                policies._torchvision(name, number, bins, False, size, wide).values[0]
                for number in range(bins)
            ]
            assert ours == [int(magnitude) for magnitude in magnitudes]


def test_sub_policies_are_torchvision_s():
    for name in ("imagenet", "cifar10", "svhn"):
        expected = v2.AutoAugment(v2.AutoAugmentPolicy(name))._policies
        assert [tuple(pair) for pair in SUB_POLICIES[f"autoaugment_{name}"]] == expected
    assert {len(table) for table in SUB_POLICIES.values()} == {25}


def torchvision_by_our_draws(
    image: np.ndarray, draws: np.ndarray, policy: str, layers: int, magnitude: int
):
    """torchvision's own procedure with the choices that our draws mean."""
    size = image.shape[:2]
    pillow = to_pillow(image)
    own = draws.reshape(-1, SLOT)

    def act(pillow, transform, name, bins, number, sign):
        magnitudes, signed = magnitudes_of(transform, name, bins, size)
        return theirs(
            pillow,
            transform,
            name,
            magnitudes[number] * (-1 if signed and sign < 0.5 else 1),
        )

    if policy.startswith("autoaugment"):
        transform = v2.AutoAugment(
            v2.AutoAugmentPolicy(policy.removeprefix("autoaugment_"))
        )
        for (name, probability, number), (_, sign, gate, _) in zip(
            transform._policies[int(own[0, 0] * 25)], own, strict=True
        ):
            if gate < probability:
                pillow = act(pillow, transform, name, 10, number or 0, sign)
        return np.asarray(pillow)
    transform = (
        v2.TrivialAugmentWide() if policy == "trivialaugment" else v2.RandAugment()
    )
    names = list(transform._AUGMENTATION_SPACE)
    for which, sign, third, _ in own:
        number = int(third * 31) if policy == "trivialaugment" else magnitude
        pillow = act(pillow, transform, names[int(which * 14)], 31, number, sign)
    return np.asarray(pillow)


@pytest.mark.parametrize("policy", ALL[1:])
@pytest.mark.parametrize("layers", [1, 2, 4])
def test_whole_policies_equal_torchvision_s_for_the_same_choices(policy, layers):
    image = picture(24, 33)
    for seed in range(60):
        draws = draws_of(policy, layers, seed)
        ours = apply_policy(image, draws, policy, layers, 9)
        np.testing.assert_array_equal(
            ours, torchvision_by_our_draws(image, draws, policy, layers, 9)
        )


def test_sub_policies_act_with_their_probability():
    """The first of imagenet: Posterize in four of ten cases, Rotate in six, each by a
    draw of its own.
    """
    grid = np.append(np.linspace(0, ALMOST_ONE, 99), [0.4, 0.6])
    for slot, (name, share) in enumerate([("Posterize", 0.4), ("Rotate", 0.6)]):
        draws = np.zeros((101, 2 * SLOT))
        draws[:, 2::SLOT] = ALMOST_ONE
        draws[:, slot * SLOT + 2] = grid
        done = [
            [step.name for step in plan("autoaugment_imagenet", own, (32, 32))]
            for own in draws
        ]
        assert done == [[name] if gate < share else [] for gate in grid]


def test_autoaugment_turns_around_below_one_half():
    """The sixth sub-policy for ImageNet, where the gate of its Equalize is shut."""
    draws = np.array([5.5 / 25, 0, ALMOST_ONE, 0, 0, 0.5, 0, 0])
    forward = plan("autoaugment_imagenet", draws, (32, 32))
    draws[5] = 0.5 - 2**-53
    backward = plan("autoaugment_imagenet", draws, (32, 32))
    assert [step.name for step in forward + backward] == ["Rotate", "Rotate"]
    assert forward[0].values[0] == pytest.approx(30 * 8 / 9)
    assert backward[0].values[0] == -forward[0].values[0]


# big_vision's RandAugment: numbers from its formulas


def big_vision(
    name: str, magnitude: float, size=(224, 224), sign: float = 0.7, place=(0.5, 0.25)
) -> Step:
    number = policies._BIG_VISION.index(name)
    draws = np.array([(number + 0.5) / 16, sign, *place])
    return plan("randaugment_bv", draws, size, layers=1, magnitude=magnitude)[0]


def test_operations_are_in_big_vision_s_order():
    order = "AutoContrast Equalize Invert Rotate Posterize Solarize Color Contrast Brightness Sharpness "
    order += "ShearX ShearY TranslateX TranslateY Cutout SolarizeAdd"
    assert " ".join(policies._BIG_VISION) == order


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
    for name in policies._BIG_VISION:
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


def sampled(image: np.ndarray, fill: int, source) -> np.ndarray:
    """Nearest neighbours of `source(row, column)`, a place in the input by the centres
    of its pixels.
    """
    height, width = image.shape[:2]
    result = np.full_like(image, fill)
    for row in range(height):
        for column in range(width):
            y, x = (math.floor(place + 0.5) for place in source(row, column))
            if 0 <= y < height and 0 <= x < width:
                result[row, column] = image[y, x]
    return result


@pytest.mark.parametrize(
    "level", [0.23, -0.451]
)  # far from ties, where TensorFlow and Pillow may differ
@pytest.mark.parametrize("channels", [1, 3])
def test_shears_leave_the_first_line_in_place(level, channels):
    image = picture(channels=channels)
    expected = sampled(image, 128, lambda row, column: (row, column + level * row))
    np.testing.assert_array_equal(
        operated(image, "ShearX", level, -level / 2, fill=128), expected
    )
    expected = sampled(image, 128, lambda row, column: (row + level * column, column))
    np.testing.assert_array_equal(
        operated(image, "ShearY", level, -level / 2, fill=128), expected
    )


@pytest.mark.parametrize("sign", [0.2, 0.7])
def test_shears_of_the_policy_do_too(sign):
    for name in ("ShearX", "ShearY"):
        level, shift = big_vision(name, 15, sign=sign).values
        assert shift == -level / 2


@pytest.mark.parametrize("pixels", [3, -5, 40, 0])
def test_translations_move_right_and_down(pixels):
    image = picture()
    for name, axis in (("TranslateX", 1), ("TranslateY", 0)):
        expected = sampled(
            image,
            128,
            lambda row, col, axis=axis: (
                row - pixels * (axis == 0),
                col - pixels * axis,
            ),
        )
        np.testing.assert_array_equal(operated(image, name, pixels, fill=128), expected)


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

    different = (
        operated(image, "Rotate", 33, fill=128) != sampled(image, 128, source)
    ).any(2)
    assert different.mean() < 0.005


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
    np.testing.assert_array_equal(
        operated(image, "Cutout", 4, *place, fill=128), expected
    )
    np.testing.assert_array_equal(operated(image, "Cutout", 0, *place, fill=128), image)


def test_operations_leave_their_picture_as_it_was():
    image = picture()
    pillow = Image.new("RGB", (26, 19))
    pillow.paste(Image.fromarray(image))
    for name in policies._BIG_VISION:
        operate(pillow, big_vision(name, 15, size=(19, 26)), 128)
        np.testing.assert_array_equal(pillow, image)


def test_what_moves_in_is_gray_with_big_vision_and_black_with_torchvision():
    image = np.full((20, 20, 3), 255, np.uint8)
    number = policies._BIG_VISION.index("TranslateX")
    gray = apply_policy(
        image, np.array([(number + 0.5) / 16, 0.7, 0, 0]), "randaugment_bv", 1, 10
    )
    assert set(np.unique(gray)) == {128, 255}
    number = policies._TORCHVISION.index("TranslateX")
    black = apply_policy(
        image, np.array([(number + 0.5) / 14, 0.7, 0, 0]), "randaugment", 1, 10
    )
    assert set(np.unique(black)) == {0, 255}
