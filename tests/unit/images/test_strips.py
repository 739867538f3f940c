"""Strip by strip comes what Pillow makes of the whole image, bit for bit."""

from __future__ import annotations

import io
import tracemalloc
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mlp_mixer.errors import UserError
from mlp_mixer.images import decode, strips
from mlp_mixer.images.decode import decode_image

TURNS = [None, *Image.Transpose]
MODES = ["1", "L", "P", "LA", "RGB", "RGBA", "CMYK", "YCbCr", "I;16"]


def noise(mode: str, size: tuple[int, int] = (61, 47)) -> Image.Image:
    """Return an image of random pixels; palettes and transparency as files have them."""
    dice = np.random.default_rng(0)
    if mode == "I;16":
        return Image.fromarray(dice.integers(0, 2**16, size[::-1], np.uint16))
    gray = dice.integers(0, 256, size[::-1], np.uint8)
    if mode == "1":
        return Image.fromarray(gray).convert("1")
    bands = len(Image.new(mode, (1, 1)).getbands())
    data = dice.integers(0, 256, (*size[::-1], bands), np.uint8)
    image = Image.frombytes(mode, size, data.tobytes())
    if mode == "P":
        image.putpalette(dice.integers(0, 256, 768, np.uint8).tobytes())
        image.info["transparency"] = bytes(range(256))
    return image


def converted(image: Image.Image, channels: int) -> Image.Image:
    return decode._in_mode(decode._eight_bit(image, "the image"), channels)


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a strip be a few rows."""
    monkeypatch.setattr(strips, "_STRIP", 350)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("turn", TURNS, ids=str)
def test_every_turn_of_every_mode(
    turn: Image.Transpose | None, mode: str, channels: int
) -> None:
    for size in ((61, 47), (400, 3), (1, 900)):
        image = noise(mode, size)
        whole = image if turn is None else image.transpose(turn)
        expected = converted(whole, channels)
        got = strips.turned(image, turn, lambda part: converted(part, channels))
        assert (got.mode, got.size) == (expected.mode, expected.size)
        assert got.tobytes() == expected.tobytes()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_files_are_decoded_as_in_one_piece(
    form: str, orientation: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    noise("RGB" if form == "JPEG" else "RGBA", (70, 41)).save(file, form, exif=exif)
    got = decode_image(file.getvalue())
    monkeypatch.setattr(strips, "_STRIP", 10**6)
    np.testing.assert_array_equal(got, decode_image(file.getvalue()))


def test_pixels_of_unknown_range_are_refused_in_any_strip() -> None:
    values = np.zeros((40, 50), np.int32)
    values[39, 49] = 2**20
    file = io.BytesIO()
    Image.fromarray(values).save(file, "TIFF")
    with pytest.raises(UserError, match="unknown range"):
        decode_image(file.getvalue())


def test_numbers_of_16_bits_take_no_memory_of_64(monkeypatch: Any) -> None:
    monkeypatch.setattr(strips, "_STRIP", 10_000)
    file = io.BytesIO()
    noise("I;16", (1000, 1000)).save(file, "PNG")
    tracemalloc.start()
    decode_image(file.getvalue(), channels=1)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # The file, and the pixels that come.
    assert peak < 2 * len(file.getvalue()) + 3 * 10**6
