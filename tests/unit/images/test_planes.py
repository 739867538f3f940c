"""Arrays and tensors of any number of channels as images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mlp_mixer import UserError, decode_image
from mlp_mixer.images.planes import channels_of_npy

RNG = np.random.default_rng(0)


def planes(channels: int) -> np.ndarray:
    return RNG.integers(0, 256, (8, 9, channels), dtype=np.uint8)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 12])
def test_both_orders_of_axes_and_both_ranges_are_the_same_image(
    tmp_path: Path, channels: int
) -> None:
    image = planes(channels)
    first = np.ascontiguousarray(image.transpose(2, 0, 1))
    np.save(tmp_path / "image.npy", image)
    sources: list[Any] = [
        image,
        first,
        image.astype(np.float32) / 255,
        first.astype(np.float64) / 255,
        (image / 255).astype(np.float16),
        torch.from_numpy(first),
        torch.from_numpy(image) / 255,
        tmp_path / "image.npy",
        str(tmp_path / "image.npy"),
    ]
    for source in sources:
        np.testing.assert_array_equal(decode_image(source, channels=channels), image)


def test_an_ambiguous_array_is_as_its_library_makes_it() -> None:
    both = RNG.integers(0, 256, (3, 9, 3), dtype=np.uint8)
    np.testing.assert_array_equal(decode_image(both), both)
    as_tensor = decode_image(torch.from_numpy(both))
    np.testing.assert_array_equal(as_tensor, both.transpose(1, 2, 0))
    # The very number of channels says more than one that can be turned into it.
    wide = RNG.integers(0, 256, (3, 9, 4), dtype=np.uint8)
    np.testing.assert_array_equal(decode_image(wide), wide.transpose(1, 2, 0))


def test_gray_and_opaque_arrays_become_rgb_as_before() -> None:
    gray = RNG.integers(0, 256, (6, 8), dtype=np.uint8)
    assert decode_image(gray).shape == (6, 8, 3)
    opaque = np.dstack([planes(3), np.full((8, 9), 255, np.uint8)])
    np.testing.assert_array_equal(decode_image(opaque), opaque[..., :3])
    assert decode_image(torch.rand(1, 6, 8)).shape == (6, 8, 3)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((5, 7, 11), np.uint8), r"of 12 channels: expected uint8"),
        (np.zeros((2, 5, 7, 12), np.uint8), "as an image"),
        (np.zeros((0, 7, 12), np.uint8), "as an image"),
        (np.zeros((5, 7, 12), np.int64), "range is unknown"),
        (np.zeros((5, 7, 12), np.uint16), "range is unknown"),
        (np.full((5, 7, 12), 1.5), "floats from 1.5 to 1.5"),
        (np.full((5, 7, 12), -0.1), "floats from -0.1"),
        (np.full((5, 7, 12), np.nan), "floats from nan"),
        (torch.full((12, 5, 7), 200.0), "floats from 200"),
    ],
)
def test_other_arrays_are_refused(array: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        decode_image(array, channels=12)


def test_a_picture_file_has_no_twelve_channels(tmp_path: Path) -> None:
    Image.new("RGB", (8, 9)).save(tmp_path / "b.png")
    Image.new("RGB", (8, 9)).save(tmp_path / "c.tif")
    for source in ((tmp_path / "b.png").read_bytes(), str(tmp_path / "b.png")):
        with pytest.raises(UserError, match=r"is no TIFF.*12 channels.*\.npy"):
            decode_image(source, channels=12)
    with pytest.raises(
        UserError, match="has 3 bands: expected an image of 12 channels"
    ):
        decode_image(tmp_path / "c.tif", channels=12)
    with pytest.raises(UserError, match="cannot open the image"):
        decode_image(tmp_path / "none.tif", channels=12)
    with pytest.raises(UserError, match=r"empty|damaged"):
        decode_image(b"II*\0", channels=12)
    with pytest.raises(UserError, match="of an image of Pillow's"):
        decode_image(Image.new("RGB", (8, 9)), channels=12)


@pytest.mark.parametrize("shape", [(8, 9, 5), (5, 8, 9), (9, 9, 2), (12, 40, 30)])
def test_the_channels_of_an_array_file_are_its_shorter_outer_side(
    tmp_path: Path, shape: tuple[int, int, int]
) -> None:
    np.save(tmp_path / "a.npy", np.zeros(shape, np.uint8))
    channels = channels_of_npy(tmp_path / "a.npy")
    assert channels == min(shape[0], shape[2])
    assert decode_image(tmp_path / "a.npy", channels=channels).shape[2] == channels


@pytest.mark.parametrize("cut", [0, 3, 20, 100, 200])
def test_a_broken_array_file_is_refused(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "a.npy"
    np.save(path, planes(12))
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(UserError, match=r"as an \.npy file"):
        decode_image(path, channels=12)


def test_a_pickle_and_a_lie_are_no_arrays(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match=r"as an \.npy file"):
        decode_image(path, channels=12)
    header = {"descr": "|u1", "fortran_order": False, "shape": (10**6, 10**6, 12)}
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
    with pytest.raises(UserError, match="claims"):
        decode_image(path, channels=12)
