import csv
import io
import os
import re
import struct
import threading
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mlp_mixer.errors import UserError
from mlp_mixer.images import decode
from mlp_mixer.images.decode import decode_image

SHARED = Path(os.environ.get("MLP_MIXER_SHARED", Path(__file__).parents[3] / "../shared")) / "data/bad_images"


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png_that_claims(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header promises width x height."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM"])
def test_lossless_formats_come_back_exactly(picture, kind, tmp_path):
    data = encoded(Image.fromarray(picture), kind)
    path = tmp_path / "no_ending"
    path.write_bytes(data)
    for source in (data, path, str(path), Image.fromarray(picture), picture):
        np.testing.assert_array_equal(decode_image(source), picture)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "I;16", "I"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_mode_becomes_uint8(mode, channels):
    pixels = decode_image(Image.new(mode, (5, 4)), channels=channels)
    assert pixels.shape == (4, 5, channels)
    assert pixels.dtype == np.uint8


def test_gray_is_repeated_over_rgb():
    gray = np.arange(12, dtype=np.uint8).reshape(3, 4)
    np.testing.assert_array_equal(decode_image(gray), np.stack([gray] * 3, axis=2))
    np.testing.assert_array_equal(decode_image(gray[..., None], channels=1)[..., 0], gray)


def test_transparency_lies_on_white():
    half = np.full((2, 2, 4), (200, 100, 0, 128), dtype=np.uint8)
    clear = Image.new("RGBA", (2, 2), (10, 20, 30, 0))
    assert decode_image(half)[0, 0].tolist() == [227, 177, 127]
    assert (decode_image(clear) == 255).all()
    assert (decode_image(np.zeros((2, 2, 2), dtype=np.uint8), channels=1) == 255).all()


def test_a_transparent_palette_entry_is_white():
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putdata([0, 1])
    pixels = decode_image(encoded(image, "PNG", transparency=0))
    assert pixels.tolist() == [[[255, 255, 255], [0, 0, 255]]]


def test_sixteen_bits_are_scaled_not_clipped():
    values = np.array([[0, 257, 128 * 257, 65535]], dtype=np.uint16)
    for kind in ("PNG", "TIFF"):
        assert decode_image(encoded(Image.fromarray(values), kind), channels=1).ravel().tolist() == [0, 1, 128, 255]


@pytest.mark.parametrize("mode", ["F", "I"])
def test_pixels_of_unknown_range_are_refused(mode):
    with pytest.raises(UserError, match="unknown range: save it with 8 or 16 bits"):
        decode_image(Image.new(mode, (2, 2), -1))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_exif_orientation_is_applied(orientation, kind):
    upright = np.zeros((32, 64), dtype=np.uint8)
    upright[:16, :32] = 255  # white top left
    back = {1: 0, 2: 1, 3: 2, 4: 3, 5: 4, 6: 5, 7: 6, 8: 7}[orientation]
    stored = [
        upright,
        upright[:, ::-1],
        upright[::-1, ::-1],
        upright[::-1],
        upright.T,
        np.rot90(upright, 1),
        upright[::-1, ::-1].T,
        np.rot90(upright, -1),
    ][back]
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(np.ascontiguousarray(stored)), kind, exif=exif)
    assert np.abs(decode_image(data, channels=1)[..., 0].astype(int) - upright).max() < 20


@pytest.mark.parametrize("block", [b"", b"garbage!", b"II*\0", b"II*\0\xff\xff\xff\xff", b"II*\0\x08\0\0\0\xff\xff"])
def test_broken_exif_does_not_hurt(picture, block):
    data = encoded(Image.fromarray(picture), "PNG", exif=b"Exif\0\0" + block)
    np.testing.assert_array_equal(decode_image(data), picture)


def test_first_frame_of_an_animation():
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    for kind, options in (("GIF", {}), ("WEBP", {"lossless": True}), ("TIFF", {}), ("PNG", {})):
        data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
        assert decode_image(data)[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF"])
def test_every_cut_is_refused_in_one_sentence(kind, tmp_path):
    pixels = np.random.default_rng(1).integers(0, 256, (32, 32), dtype=np.uint8)
    data = encoded(Image.fromarray(pixels), kind)
    path = tmp_path / "cut.img"
    for part in (0.01, 0.1, 0.3, 0.6, 0.9):
        path.write_bytes(data[: max(1, int(len(data) * part))])
        with pytest.raises(UserError, match=r"'.*cut\.img' is (cut short|damaged|not an image)"):
            decode_image(path)


def test_garbled_bytes_end_in_user_errors_only(picture):
    rng = np.random.default_rng(2)
    for kind in ("JPEG", "PNG", "GIF", "TIFF", "BMP", "WEBP", "PPM", "ICO"):
        data = np.frombuffer(encoded(Image.fromarray(picture), kind), dtype=np.uint8)
        for _ in range(60):
            garbled = data.copy()
            garbled[rng.integers(0, len(data), 4)] = rng.integers(0, 256, 4)
            try:
                decode_image(garbled.tobytes())
            except UserError:
                continue


@pytest.mark.parametrize("size", [(8001, 8000), (10_000, 10_000), (30_000, 30_000)])
def test_too_many_pixels_are_refused_by_the_header(size, tmp_path):
    path = tmp_path / "bomb.png"
    path.write_bytes(png_that_claims(*size))
    with pytest.raises(UserError, match=r"bomb\.png' is too large: .*64000000"):
        decode_image(path)


def test_files_that_are_none(tmp_path):
    empty, html = tmp_path / "empty.jpg", tmp_path / "page.jpg"
    empty.touch()
    html.write_text("<html>")
    for path, reason in (
        (empty, r"empty\.jpg' is empty"),
        (html, r"page\.jpg' is not an image"),
        (tmp_path / "absent.jpg", r"absent\.jpg': No such file"),
        (tmp_path, "Is a directory|Permission denied"),
    ):
        with pytest.raises(UserError, match=reason):
            decode_image(path)
    with pytest.raises(UserError, match="the image is empty"):
        decode_image(b"")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="permissions do not bind this user")
def test_a_forbidden_file(tmp_path):
    path = tmp_path / "secret.png"
    path.write_bytes(b"x")
    path.chmod(0)
    with pytest.raises(UserError, match=r"secret\.png': Permission denied"):
        decode_image(path)


def test_formats_that_run_programs_are_refused():
    with pytest.raises(UserError, match="not an image in a known format"):
        decode_image(encoded(Image.new("RGB", (4, 4)), "EPS"))
    assert ".eps" not in decode.image_extensions()
    assert {".jpg", ".jpeg", ".png", ".webp", ".tif"} <= decode.image_extensions()


@pytest.mark.parametrize("array", [np.zeros((2, 2, 3)), np.zeros((2, 2, 5), np.uint8), np.zeros((0, 2), np.uint8)])
def test_other_arrays_are_refused(array):
    with pytest.raises(UserError, match="expected uint8"):
        decode_image(array)
    with pytest.raises(UserError, match="expected 1"):
        decode_image(np.zeros((2, 2), np.uint8), channels=4)


def test_threads_leave_the_warning_filters_as_they_were(picture):
    data = encoded(Image.fromarray(picture), "PNG")
    before = list(warnings.filters)
    threads = [threading.Thread(target=lambda: [decode_image(data) for _ in range(30)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert warnings.filters == before


def manifest() -> list[dict[str, str]]:
    if not (SHARED / "manifest.csv").is_file():
        return []
    with (SHARED / "manifest.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.skipif(not manifest(), reason=f"there are no odd images in {SHARED} (set MLP_MIXER_SHARED)")
@pytest.mark.parametrize("row", manifest(), ids=lambda row: row["file"])
def test_odd_images(row):
    path = SHARED / row["file"]
    if row["expect"] == "reject" or (row["expect"] == "either" and not decodes(path)):
        with pytest.raises(UserError, match=re.escape(row["file"])):
            decode_image(path)
        return
    pixels = decode_image(path)
    if row["rgb_size"]:
        assert f"{pixels.shape[1]}x{pixels.shape[0]}" == row["rgb_size"]
    if colour := row["mean_rgb"] or row["scaled_mean"]:
        assert np.abs(pixels.mean((0, 1)) - [float(value) for value in colour.split()]).max() < 0.6


def decodes(path: Path) -> bool:
    try:
        decode_image(path)
    except UserError:
        return False
    return True
