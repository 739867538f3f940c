"""TensorFlow's random crop against a simulation of its kernel, and its resize."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mlp_mixer.data.image_set import ArraySet
from mlp_mixer.data.loader import TrainBatches
from mlp_mixer.errors import UserError
from mlp_mixer.images import resample
from mlp_mixer.images.augment import inception_crop
from mlp_mixer.images.decode import Part, Pixels
from mlp_mixer.images.preprocess import Preprocess
from mlp_mixer.images.settings import Augment
from mlp_mixer.images.tensorflow_crop import tensorflow_box, tensorflow_resize

AREA = (0.05, 1.0)
RATIO = (0.75, 1.33)


def simulated(height: int, width: int, count: int) -> np.ndarray:
    """The shares of the image that tf.image.sample_distorted_bounding_box keeps.

    GenerateRandomCrop on arrays, from its description: the ratio is uniform, the height
    is uniform among all that fit, 100 tries, then the whole image.
    """
    rng = np.random.default_rng(7)
    pixels = height * width
    kept = np.ones(count)
    open_ = np.arange(count)
    for _ in range(100):
        ratio = rng.uniform(*RATIO, len(open_))
        tallest = np.minimum(np.floor((width + 0.5) / ratio), height)
        tallest = np.minimum(np.rint(np.sqrt(AREA[1] * pixels / ratio)), tallest)
        shortest = np.minimum(np.rint(np.sqrt(AREA[0] * pixels / ratio)), tallest)
        tall = rng.integers(shortest.astype(int), tallest.astype(int) + 1)
        share = tall * np.rint(tall * ratio) / pixels
        # A row less than the least area is mended there, not tried again.
        fits = (share > 0.97 * AREA[0]) & (share <= 1) & (tall * ratio <= width + 0.5)
        kept[open_[fits]] = share[fits]
        open_ = open_[~fits]
    return kept


def drawn(height: int, width: int, count: int) -> np.ndarray:
    """The same shares as this package draws them."""
    draws = np.random.default_rng(3).random((count, 3)).tolist()
    boxes = [tensorflow_box(height, width, (a, b, c), AREA, RATIO) for a, b, c in draws]
    _, _, tall, wide = np.array(boxes).T
    return tall * wide / (height * width)


@pytest.mark.parametrize(
    ("shape", "count", "bound"),
    [
        ((375, 500), 40_000, 0.005),  # of ImageNet
        ((500, 375), 8_000, 0.01),
        ((300, 300), 8_000, 0.01),
        ((200, 900), 8_000, 0.01),
        ((60, 1000), 8_000, 0.01),  # some ratios fit, others do not
    ],
    ids=str,
)
def test_areas_are_those_of_the_kernel(
    shape: tuple[int, int], count: int, bound: float
) -> None:
    ours = drawn(*shape, count)
    theirs = simulated(*shape, 100_000)
    assert abs(ours.mean() - theirs.mean()) < bound
    for quantile in (0.1, 0.25, 0.5, 0.75, 0.9):
        there = np.quantile(theirs, quantile)
        assert abs(np.quantile(ours, quantile) - there) < 3 * bound
    assert ours.min() >= AREA[0]


def in_the_mean(height: int, width: int) -> float:
    """The mean share by an integral over the ratio, of sides that need not be whole."""
    ratio = np.linspace(*RATIO, 10_001)
    pixels = height * width
    longest = np.minimum(np.minimum(width / ratio, height), np.sqrt(pixels / ratio))
    shortest = np.sqrt(AREA[0] * pixels / ratio)
    squared = (longest**2 + longest * shortest + shortest**2) / 3
    return float(np.mean(squared * ratio / pixels))


def test_photographs_of_imagenet_keep_a_third() -> None:
    """Lying ones 0.343, upright ones 0.328; torchvision's crop keeps 0.42."""
    lying = in_the_mean(375, 500)
    upright = in_the_mean(500, 375)
    assert (lying + upright) / 2 == pytest.approx(0.335, abs=0.001)
    assert simulated(375, 500, 100_000).mean() == pytest.approx(lying, abs=0.005)
    assert simulated(500, 375, 100_000).mean() == pytest.approx(upright, abs=0.005)


unit = st.floats(0, 1, exclude_max=True)


@settings(max_examples=200, deadline=None)
@given(
    st.integers(1, 300),
    st.integers(1, 300),
    st.tuples(unit, unit, unit),
    st.tuples(st.floats(0.01, 0.5), st.floats(0.5, 1)),
    st.tuples(st.floats(0.1, 1), st.floats(1, 10)),
)
def test_a_part_is_never_empty_and_always_inside(
    height: int,
    width: int,
    draws: tuple[float, float, float],
    area: tuple[float, float],
    ratio: tuple[float, float],
) -> None:
    top, left, tall, wide = tensorflow_box(height, width, draws, area, ratio)
    assert 0 <= top < top + tall <= height
    assert 0 <= left < left + wide <= width
    whole = (tall, wide) == (height, width)
    share = tall * wide / (height * width)
    assert whole or area[0] <= share * (1 + 1e-9) <= area[1] * (1 + 1e-8)


@pytest.mark.parametrize("shape", [(10, 1000), (1000, 10), (1, 50)])
def test_the_whole_image_where_no_part_fits(shape: tuple[int, int]) -> None:
    """torchvision would take the largest square in the middle."""
    assert tensorflow_box(*shape, (0.3, 0.9, 0.9), AREA, RATIO) == (0, 0, *shape)


def test_the_last_row_and_column_are_never_reached() -> None:
    """Uniform(original_height - height) of the kernel leaves out its end."""
    almost = 1 - 2**-53
    for key in np.linspace(0, 0.99, 20):
        top, left, tall, wide = tensorflow_box(
            90, 120, (float(key), almost, almost), (0.1, 0.5), RATIO
        )
        assert (top + tall, left + wide) == (89, 119)


def picture(height: int, width: int) -> Pixels:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize("shape", [(40, 61), (300, 7), (24, 20), (9, 9)])
def test_the_resize_is_tensorflow_s(shape: tuple[int, int]) -> None:
    """`resample.linear` has its arithmetic, and was compared with its pixels."""
    part = picture(*shape)
    rows = resample.linear(shape[0], 24, 0, 24)
    columns = resample.linear(shape[1], 20, 0, 20)
    expected = resample.resample(part, rows, columns).clip(0, 255).astype(np.uint8)
    found = tensorflow_resize(part, (24, 20)).permute(1, 2, 0).numpy()
    difference = np.abs(found.astype(int) - expected)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.02


def test_white_stays_white_and_the_own_size_stays_as_it_is() -> None:
    white = np.full((37, 53, 3), 255, np.uint8)
    assert (tensorflow_resize(white, (24, 20)) == 255).all()
    image = picture(16, 12)
    same = tensorflow_resize(image, (16, 12)).permute(1, 2, 0).numpy()
    assert np.array_equal(same, image)


def test_a_file_is_never_decoded_coarser() -> None:
    """That would smooth what TensorFlow leaves rough."""
    image = picture(64, 48)
    asked = []

    def read(part: Part) -> Pixels:
        asked.append(part.size)
        return part.of(image)

    augment = Augment(crop="inception_tf", area=AREA, ratio=RATIO)
    crop = inception_crop(read, np.full(32, 0.4), (16, 12), augment)
    assert crop.shape == (3, 16, 12)
    assert asked == [None]


def test_an_image_is_cropped_alike_in_any_company() -> None:
    """As all augmentation: a function of the seed, the epoch and the image."""
    images = np.random.default_rng(2).integers(0, 256, (5, 20, 28, 3), np.uint8)
    data = ArraySet(images, np.zeros(5, int), ("one",))
    augment = Augment(crop="inception_tf", area=AREA, ratio=RATIO, flip=True)
    batches = TrainBatches(data, Preprocess((8, 8)), augment, batch_size=2, seed=5)
    epochs = np.array([0, 3, 3])
    indices = np.array([4, 1, 4])
    together = batches.pixels(epochs, indices)
    for own, epoch, index in zip(together, epochs, indices, strict=True):
        alone = batches.pixels(np.array([epoch]), np.array([index]))
        assert torch.equal(own, alone[0])
    assert not torch.equal(together[0], together[2])


def test_torchvision_s_crop_is_still_called_inception() -> None:
    image = picture(60, 80)
    draws = np.random.default_rng(1).random(32)
    theirs = inception_crop(
        lambda part: part.of(image), draws, (8, 8), Augment(crop="inception")
    )
    ours = inception_crop(
        lambda part: part.of(image), draws, (8, 8), Augment(crop="inception_tf")
    )
    assert not torch.equal(ours, theirs)


def test_another_filter_than_tensorflow_s_is_refused() -> None:
    with pytest.raises(UserError, match=r"crop=inception_tf is bilinear: set"):
        Augment(crop="inception_tf", interpolation="bicubic")
