"""Each lineage's record against timm, OpenCV, and TensorFlow's formulas and numbers."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import cv2
import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_data_config

from mlp_mixer import config
from mlp_mixer.errors import UserError
from mlp_mixer.images.decode import decode_image
from mlp_mixer.images.preprocess import Preprocess
from mlp_mixer.weights.lineages.transforms import EVAL_TRANSFORMS, eval_preprocess

# (H, W): landscape, portrait, square; larger and smaller than 256; a scale of exactly
# 1/2; halves to round; one pixel.
SHAPES = [
    (300, 431),
    (431, 300),
    (512, 640),
    (257, 257),
    (64, 63),
    (17, 40),
    (331, 256),
    (1, 30),
    (30, 1),
    (1, 1),
]


def noise(height: int, width: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(height * width).integers(
        0, 256, (height, width, channels), dtype=np.uint8
    )


@pytest.fixture(scope="module")
def synthetic() -> list[np.ndarray]:
    return [noise(*shape) for shape in SHAPES]


@pytest.fixture
def photos(shared: Path) -> list[np.ndarray]:
    """Photographs of many shapes, gray ones among them."""
    folders = [
        shared / "data" / "photos" / name
        for name in ("imagenet_samples", "mmpretrain_demo")
    ]
    files = sorted(file for folder in folders for file in folder.glob("*"))
    if not files:
        pytest.skip(f"no photos in {folders[0]} and {folders[1]}")
    return [decode_image(file) for file in files]


# timm


@pytest.mark.parametrize(
    ("lineage", "tag"),
    [
        ("timm", "mixer_b16_224.goog_in21k_ft_in1k"),
        ("timm", "mixer_l16_224.goog_in21k"),
        ("timm_miil", "mixer_b16_224.miil_in21k"),
        ("timm_miil", "mixer_b16_224.miil_in21k_ft_in1k"),
    ],
)
@pytest.mark.parametrize("images", ["synthetic", "photos"])
def test_timm_is_equal(
    lineage: str, tag: str, images: str, request: pytest.FixtureRequest
) -> None:
    theirs = create_transform(
        **resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(tag).to_dict())
    )
    ours = eval_preprocess(lineage, (224, 224))
    for image in request.getfixturevalue(images):
        actual = ours(image)
        expected = theirs(Image.fromarray(image))
        # The order of / 255 and - mean.
        torch.testing.assert_close(actual, expected, rtol=0, atol=2e-7)
        assert torch.equal(grey_levels(actual, ours), grey_levels(expected, ours))


def grey_levels(x_CHW: torch.Tensor, preprocess: Preprocess) -> torch.Tensor:
    mean, std = (
        torch.tensor(values).view(-1, 1, 1)
        for values in (preprocess.mean, preprocess.std)
    )
    return ((x_CHW * std + mean) * 255).round()


# mmpretrain


def mmpretrain_by_cv2(image: np.ndarray) -> np.ndarray:
    """ResizeEdge(256, short, bicubic) and CenterCrop(224) of mmpretrain 1.2 and mmcv 2."""
    height, width = image.shape[:2]
    size = (
        (256, int(256 * height / width))
        if width < height
        else (int(256 * width / height), 256)
    )
    scaled = cv2.resize(image, size, interpolation=cv2.INTER_CUBIC)
    top, left = (max(0, round((side - 224) / 2.0)) for side in scaled.shape[:2])
    return scaled[top : top + 224, left : left + 224]


@pytest.fixture(params=["with IPP", "without IPP"])
def ipp(request: pytest.FixtureRequest):
    """OpenCV's x86 builds scale with Intel's IPP in float, others by weights in 2048ths."""
    before = cv2.ipp.useIPP()
    cv2.ipp.setUseIPP(request.param == "with IPP")
    yield cv2.ipp.useIPP()
    cv2.ipp.setUseIPP(before)


@pytest.mark.parametrize("images", ["synthetic", "photos"])
def test_mmpretrain_is_within_one_level_of_opencv(
    images: str, ipp: bool, request: pytest.FixtureRequest
) -> None:
    for image in request.getfixturevalue(images):
        actual = eval_preprocess("mmpretrain", (224, 224)).fit(image)
        difference = np.abs(actual.astype(int) - mmpretrain_by_cv2(image))
        assert difference.max() <= 1
        # Measured on the photos: 99.998 % and 94.7 % at least; IPP takes no image with
        # a side of one pixel.
        assert (difference == 0).mean() > (
            0.9999 if ipp and min(image.shape[:2]) > 1 else 0.93
        )


def test_opencv_overshoots_and_saturates() -> None:
    image = np.zeros((8, 8, 1), np.uint8)
    image[:, 4:] = 255
    preprocess = Preprocess((16, 16), channels=1, crop_pct=1.0, resampler="opencv")
    assert levels_from_opencv(preprocess, image) <= 1
    # With room above and below, the overshoot of a = -0.75 shows.
    image //= 2
    assert levels_from_opencv(preprocess, image) <= 1
    assert preprocess.fit(image).max() > 127 + 5


def levels_from_opencv(preprocess: Preprocess, image: np.ndarray) -> int:
    """The largest difference in levels of 8 bits; OpenCV's builds differ by one."""
    expected = cv2.resize(image, (16, 16), interpolation=cv2.INTER_CUBIC)
    difference = preprocess.fit(image)[..., 0].astype(int) - expected
    return int(np.abs(difference).max())


# Google, by TensorFlow's numbers: recorded from TensorFlow 2.21.0 on x86, for this
# picture.

PICTURE = (np.arange(35) * 41 % 256).astype(np.uint8).reshape(5, 7, 1)
TF_BILINEAR = [  # tf.image.resize(PICTURE, [4, 4])
    [19.25, 91.0, 162.75, 214.5],
    [58.0, 129.75, 201.5, 77.25],
    [96.75, 168.5, 100.25, 56.0],
    [135.5, 207.25, 55.0, 94.75],
]
BIG_VISION = {  # resize_small(s)|central_crop(c) of big_vision, by (s, c)
    (3, 2): [[100, 170], [149, 161]],
    (4, 3): [[58, 105, 152], [96, 142, 189], [133, 180, 139]],
    (8, 7): [
        [41, 76, 93, 123, 152, 169, 205],
        [53, 88, 106, 135, 164, 182, 217],
        [72, 107, 124, 154, 183, 200, 236],
        [96, 131, 149, 178, 208, 196, 56],
        [109, 144, 161, 191, 183, 157, 17],
        [134, 169, 186, 216, 62, 6, 41],
        [152, 187, 205, 234, 81, 25, 60],
    ],
}


def test_vit_jax_has_tensorflows_numbers() -> None:
    preprocess = eval_preprocess("vit_jax", (4, 4), channels=1)
    expected = (torch.tensor(TF_BILINEAR) - 127.5) / 127.5
    torch.testing.assert_close(preprocess(PICTURE)[0], expected, rtol=0, atol=2e-7)
    assert preprocess.fit(PICTURE)[0, :, 0].tolist() == [
        19,
        91,
        163,
        214,
    ]  # rounded, half to even


@pytest.mark.parametrize(("short", "crop"), BIG_VISION)
def test_google_has_tensorflows_numbers(short: int, crop: int) -> None:
    preprocess = Preprocess(
        (crop, crop),
        1,
        crop_pct=crop / short,
        interpolation="area",
        resampler="big_vision",
    )
    assert preprocess.fit(PICTURE)[..., 0].tolist() == BIG_VISION[short, crop]


def test_google_truncates_even_white_as_tensorflow_does() -> None:
    """float32 sums of 255 end just below it; the numbers are TensorFlow's again."""
    preprocess = eval_preprocess("google", (7, 7), channels=1)
    assert [
        set(preprocess.fit(np.full((n, n, 1), 255, np.uint8)).ravel().tolist())
        for n in (11, 13, 97, 135)
    ] == [
        {254},
        {255},
        {255},
        {255},
    ]
    white = eval_preprocess("google", (224, 224)).fit(
        np.full((500, 333, 3), 255, np.uint8)
    )
    assert np.unique(white, return_counts=True)[1].tolist() == [
        71904,
        78624,
    ]  # 254, 255


# Google, by the definitions: real numbers, one pixel of the result after the other.


def covered(size: int, scaled: int) -> np.ndarray:
    """Row i: the part of each source pixel that lies under pixel i of the result."""
    weight = np.zeros((scaled, size))
    for i in range(scaled):
        start = i * size / scaled
        stop = (i + 1) * size / scaled
        for j in range(math.floor(start), min(math.ceil(stop), size)):
            weight[i, j] = max(0.0, min(j + 1, stop) - max(j, start)) * scaled / size
    return weight


def between_centres(size: int, scaled: int) -> np.ndarray:
    """Row i: the two source pixels around the centre of pixel i, weighted by nearness."""
    weight = np.zeros((scaled, size))
    for i in range(scaled):
        place = (i + 0.5) * size / scaled - 0.5
        low = math.floor(place)
        weight[i, max(low, 0)] += low + 1 - place
        weight[i, min(low + 1, size - 1)] += place - low
    return weight


def big_vision_sides(height: int, width: int, short: int) -> tuple[int, int]:
    factor = np.float32(short) / np.float32(min(height, width))
    return round(float(np.float32(height) * factor)), round(
        float(np.float32(width) * factor)
    )


def scaled_by(weights, image: np.ndarray, height: int, width: int) -> np.ndarray:
    rows = weights(image.shape[0], height)
    columns = weights(image.shape[1], width)
    return np.einsum(
        "ij,jkc,lk->ilc", rows, image.astype(np.float64), columns, optimize=True
    )


@pytest.mark.parametrize("images", ["synthetic", "photos"])
@pytest.mark.parametrize(
    ("interpolation", "weights"), [("area", covered), ("bilinear", between_centres)]
)
def test_big_vision_is_the_truncated_formula(
    interpolation, weights, images, request: pytest.FixtureRequest
) -> None:
    preprocess = Preprocess(
        (224, 224), interpolation=interpolation, resampler="big_vision"
    )
    assert interpolation != "area" or preprocess == eval_preprocess(
        "google", (224, 224)
    )
    for image in request.getfixturevalue(images):
        if max(image.shape) > 1000:
            continue  # slow
        height, width = big_vision_sides(*image.shape[:2], 256)
        top = (height - 224) // 2
        left = (width - 224) // 2
        exact = scaled_by(weights, image, height, width)[
            top : top + 224, left : left + 224
        ]
        actual = preprocess.fit(image)
        # TensorFlow's float32 lies up to 0.01 beside the real number: visible where
        # that is a whole one.
        assert (actual >= np.floor(exact - 0.02)).all()
        assert (actual <= np.floor(exact + 0.02)).all()


@pytest.mark.parametrize("images", ["synthetic", "photos"])
def test_vit_jax_is_the_formula(images: str, request: pytest.FixtureRequest) -> None:
    preprocess = eval_preprocess("vit_jax", (224, 224))
    for image in request.getfixturevalue(images):
        expected = torch.from_numpy(
            scaled_by(between_centres, image, 224, 224)
        ).permute(2, 0, 1)
        levels = preprocess(image).double() * 127.5 + 127.5
        torch.testing.assert_close(
            levels, expected, rtol=0, atol=0.02
        )  # float32 places in an image of 1600 pixels
        assert (
            np.abs(preprocess.fit(image) - expected.permute(1, 2, 0).numpy()).max()
            < 0.52
        )


@pytest.mark.parametrize(
    "shape",
    [*itertools.product((4, 5, 6, 7, 9), (4, 5, 6, 7, 9)), (3, 1000), (1000, 3)],
)
def test_big_vision_rounds_sides_to_even_and_offsets_down(
    shape: tuple[int, int],
) -> None:
    """At half the size or less: (4, 5) becomes (2, 2), and (4, 7) becomes (2, 4).

    The pixels of the image tell where they are.
    """
    image = (np.arange(shape[0] * shape[1]) % 251).astype(np.uint8).reshape(*shape, 1)
    height, width = big_vision_sides(*shape, 2)
    top = (height - 1) // 2
    left = (width - 1) // 2
    exact = scaled_by(covered, image, height, width)[top, left, 0]
    preprocess = Preprocess(
        (1, 1), 1, crop_pct=0.5, interpolation="area", resampler="big_vision"
    )
    assert preprocess.fit(image).item() in {
        math.floor(exact - 1e-3),
        math.floor(exact + 1e-3),
    }


@pytest.mark.parametrize("lineage", EVAL_TRANSFORMS)
@pytest.mark.parametrize("size", [(224, 224), (32, 32), (24, 40), (40, 24)])
def test_any_size_and_number_of_channels(lineage: str, size: tuple[int, int]) -> None:
    for channels, shape in itertools.product(
        (1, 2, 4), [(50, 61), (61, 50), (9, 30), (40, 24)]
    ):
        image = noise(*shape, 1)
        alone = eval_preprocess(lineage, size, channels=1)(image)
        repeated = np.repeat(image, channels, axis=2)
        together = eval_preprocess(lineage, size, channels)(repeated)
        expected = alone.expand(channels, *size)
        torch.testing.assert_close(together, expected, rtol=0, atol=2e-7)


@pytest.mark.parametrize("lineage", ["google", "vit_jax", "mmpretrain"])
@pytest.mark.parametrize("shape", [(1, 200_000), (200_000, 1)])
def test_a_line_of_pixels_costs_no_more_than_its_crop(
    lineage: str, shape: tuple[int, int]
) -> None:
    """Scaled as a whole it would have 256 x 51 million pixels."""
    assert eval_preprocess(lineage, (224, 224)).fit(noise(*shape)).shape == (
        224,
        224,
        3,
    )


def test_records_survive_json() -> None:
    for lineage in EVAL_TRANSFORMS:
        record = eval_preprocess(lineage, (224, 192), channels=4)
        assert record.image_size == (224, 192)
        assert record.channels == 4
        assert config.from_dict(Preprocess, config.to_dict(record)) == record


def test_records_differ_but_for_the_papers_and_timms() -> None:
    records = {
        lineage: eval_preprocess(lineage, (224, 224)) for lineage in EVAL_TRANSFORMS
    }
    assert records["paper"] == records["timm"]
    assert len(set(records.values())) == len(records) - 1


def test_another_name_is_refused() -> None:
    with pytest.raises(
        UserError, match="unknown lineage 'mmpretrian'; did you mean 'mmpretrain'?"
    ):
        eval_preprocess("mmpretrian", (224, 224))
